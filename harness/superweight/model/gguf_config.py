"""Make a config of a GGUF file's metadata: transformers' own, and the sizes that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping

import transformers
from transformers import PreTrainedConfig

# What the format calls a size (gguf.Keys), and what configs do. transformers leaves these at its defaults,
# and experts of all but the default sizes would look damaged. What it does read is left as it reads it: the
# length of a key is another size in each of its classes.
_SIZES = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}


def gguf_config(folder: str, file: str, metadata: Mapping[str, object]) -> PreTrainedConfig:
    """Return the config of a GGUF file in ``folder``; ``metadata`` is what its header says.

    Raises whatever transformers does of a file that it does not know.
    """
    config: PreTrainedConfig = transformers.AutoConfig.from_pretrained(folder, gguf_file=file)
    for key, name in _SIZES.items():
        size = metadata.get(f"{metadata.get('general.architecture')}.{key}")
        if isinstance(size, int) and hasattr(config, name):
            setattr(config, name, size)
    return config
