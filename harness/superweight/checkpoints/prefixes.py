"""Names of tensors that a training's wrapper left in a checkpoint, and how they are taken off."""

from __future__ import annotations

from collections.abc import Collection

# What torch.compile, (distributed) data parallel, PEFT, FSDP, checkpointing and DeepSpeed put before names.
WRAPPERS = (
    "_orig_mod.",
    "base_model.model.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "_forward_module.",
    "module.",
)
_MOST_OF = 0.5


def wrapped_names(unexpected: Collection[str], missing: Collection[str]) -> str | None:
    """Say which wrapper's prefix stands in names that would fit without it; None where none does.

    ``unexpected`` are names that the model does not have, ``missing`` those that the files do not.
    """
    if not missing:
        return None
    merged = next((name for name in unexpected if ".lora_A." in name or ".base_layer." in name), None)
    if merged is not None:
        return (
            f"tensor {merged} belongs to an adapter that was not merged; call merge_and_unload() before "
            "save_pretrained()"
        )
    for prefix in (*WRAPPERS, *_before(unexpected, missing)):
        fits = {name.replace(prefix, "") for name in unexpected if prefix in name} & set(missing)
        if len(fits) > _MOST_OF * len(missing):
            return (
                f"the names of its tensors hold the prefix {prefix!r}, which a wrapper left there; take it "
                f'off in that folder with python -c "{stripping(prefix)}"'
            )
    return None


def stripping(prefix: str) -> str:
    """Return the line of Python that takes a prefix off all names, those in an index as well."""
    return (
        "import glob, pathlib; from safetensors.torch import load_file, save_file; "
        f"[save_file({{n.replace('{prefix}', ''): t for n, t in load_file(f).items()}}, f, "
        "{'format': 'pt'}) for f in glob.glob('*.safetensors')]; "
        f"[p.write_text(p.read_text().replace('{prefix}', '')) for p in pathlib.Path().glob('*.index.json')]"
    )


def _before(unexpected: Collection[str], missing: Collection[str]) -> set[str]:
    """Return what stands before the name of a missing tensor in names that nobody knows."""
    wanted = min(missing)
    found = {name.removesuffix(wanted) for name in unexpected if name.endswith(wanted)}
    return {prefix for prefix in found if prefix.endswith(".")}
