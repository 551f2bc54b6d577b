"""Tensors of two checkpoints paired by what they are, whatever their files call them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import INTEGERS
from superweight.checkpoints.tensors.gguf_names import IN_BLOCK, WHOLE, plain_name
from superweight.checkpoints.tensors.tensor_info import TensorInfo

# Wrappers that transformers adds or strips by itself when it loads a checkpoint.
_WRAPPERS = ("model.", "language_model.", "transformer.", "text_model.")
# Computed from the config when the model is made, so that a file may carry them or not. A bias of
# the attention itself is a mask there, of two dimensions and more or a single number.
_RECOMPUTED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|rotary_pos_emb\.inv_freq|position_ids)")
_MASK = re.compile(r"(.*\.)?(attn|attention)\.(bias|masked_bias)")
# What lies beside packed or scaled numbers, by format; the longest endings first.
_PACKED = (
    ".weight._data._data",
    ".weight._data",
    ".qweight",
    ".weight_packed",
    "._weight_qdata",
    ".W_q",
    "_blocks",
)
_COMPANION = re.compile(
    # MLX and HQQ first.
    r".*(\.biases|\.(scale|zero|nbits|axis|group_size|shape|view_as_float|unpack_view_dtype|packing)"
    r"|\.(stores_quant_config|encoded_state_dict|quant_scale|quant_zero|offload_meta|compute_dtype)"
    r"|\.(channel_wise|optimize|round_zero)|\.qzeros|\.scales|\.g_idx|\.SCB|\.weight_format"
    r"|\.weight_scale(_inv)?|\.weight_scale_2"
    r"|\.weight_zero_point|\.weight_shape|\.weight_g_idx|\.weight_global_scale|\.input_scale|\.output_scale"
    r"|\.k_scale|\.v_scale|\.input_global_scale|\._weight_(scale|zero_point|(act_)?per_tensor_scale)|_proj_scales"
    r"|\.weight\._(scale|shift)|\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+))"
)
_ONE_EXPERT = re.compile(
    r"(?P<block>.*\.)(?:mlp|block_sparse_moe|feed_forward)\.experts\.(?P<expert>\d+)\.(?P<part>.+)\.weight"
)
_STACKED = re.compile(
    r"(?P<block>.*\.)(?:mlp|block_sparse_moe|feed_forward)\.(?:experts|switch_mlp)\."
    r"(?P<part>gate_up_proj|gate_proj|up_proj|down_proj)(\.weight)?"
)
_EXPERT_PARTS = {
    "w2": ("down",),
    "down_proj": ("down",),
    "w1": ("gate",),
    "gate_proj": ("gate",),
    "w3": ("up",),
    "up_proj": ("up",),
    "gate_up_proj": ("gate", "up"),
}
# Mistral's own names, of consolidated.safetensors.
_MISTRAL = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_MISTRAL_BLOCK = re.compile(
    r"layers\.(\d+)\.((?:attention|feed_forward)\.w[qkvo123]|attention_norm|ffn_norm)\.weight"
)
_VOCABULARY = re.compile(
    r"(embed_tokens|wte|lm_head|embed_in|embed_out|word_embeddings|output_layer)\.(weight|bias)"
)
HEAD = ("lm_head.weight", "embed_out.weight", "output_layer.weight")
# Families whose config class ties the head when config.json says nothing of it.
_TIED_BY_CLASS = frozenset(
    [
        "bloom",
        "codegen",
        "cohere",
        "cohere2",
        "ctrl",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "mpt",
        "openai-gpt",
        "opt",
        "starcoder2",
        "xglm",
    ]
)


@dataclass(frozen=True)
class Held:
    """One tensor by what it is. ``plain`` tensors have a shape and numbers that can be compared.

    Of an expert ``leading`` is where it lies in its stack, empty where it stands alone; ``fused``
    says that the gate's and the up projection's numbers lie in one tensor.
    """

    name: str
    info: TensorInfo
    plain: bool
    leading: tuple[int, ...] | None = None
    fused: bool = False


def canonical(name: str) -> str:
    """Return a name without the wrappers that loading adds or strips."""
    while True:
        stripped = next((name[len(item) :] for item in _WRAPPERS if name.startswith(item)), name)
        if stripped == name:
            return name
        name = stripped


def recomputed(name: str, info: TensorInfo) -> bool:
    """Tell whether a tensor is a buffer that the model computes for itself."""
    return bool(_RECOMPUTED.fullmatch(name)) or (bool(_MASK.fullmatch(name)) and len(info.shape) != 1)


def is_mistral_name(name: str) -> bool:
    """Tell whether a tensor of a block is called as in Mistral's own files."""
    return bool(_MISTRAL_BLOCK.fullmatch(name))


def companion(name: str) -> bool:
    """Tell whether a tensor only says how packed numbers are read: zero is a value like any other there."""
    return bool(_COMPANION.fullmatch(name))


def vocabulary(name: str) -> bool:
    """Tell whether a canonical name is that of a tensor with one row a token."""
    return bool(_VOCABULARY.fullmatch(name))


def tied(config: Mapping[str, object]) -> bool:
    """Tell whether a config.json ties the head to the embedding, the default of its class included."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        stated = part.get("tie_word_embeddings")
        if isinstance(stated, bool):
            return stated
    return any(part.get("model_type") in _TIED_BY_CLASS for part in (config, text) if isinstance(part, dict))


def by_meaning(checkpoint: Checkpoint) -> dict[str, Held]:
    """Return a checkpoint's tensors by what they are, buffers and companions left out.

    An expert of a stack and one that stands alone have the same key; a stack of both halves of a
    gated network has the keys of both.
    """
    tensors = checkpoint.tensors()
    keyed = [
        # Integers may hold several numbers each: then their shape is the packing's.
        (key, Held(name, info, plain and info.dtype not in INTEGERS, leading, fused))
        for name, info in tensors.items()
        for key, plain, leading, fused in _keys(name, info)
    ]
    twice = {key for key, count in Counter(key for key, _ in keyed).items() if count > 1}
    # Two towers of one checkpoint may differ in the wrapper alone; then the wrapper is their name.
    return {held.name if key in twice else key: held for key, held in keyed}


def _keys(name: str, info: TensorInfo) -> Iterator[tuple[str, bool, tuple[int, ...] | None, bool]]:
    if recomputed(name, info) or companion(name):
        return
    key = canonical(_plain_name(name))
    ending = next((end for end in _PACKED if key.endswith(end)), None)
    if ending is not None:
        key = key.removesuffix(ending) + ("" if ending == "_blocks" else ".weight")
    plain = ending is None and info.dtype not in ("U8", "I32")
    readable = plain and info.dtype not in INTEGERS
    if stack := _STACKED.fullmatch(key):
        parts = _EXPERT_PARTS[stack["part"]]
        for expert in range(info.shape[0] if info.shape else 0):
            place = (expert,) if readable and len(info.shape) == 3 else None
            for part in parts:
                yield f"{stack['block']}experts.{expert}.{part}", False, place, len(parts) > 1
    elif (one := _ONE_EXPERT.fullmatch(key)) and one["part"] in _EXPERT_PARTS:
        parts = _EXPERT_PARTS[one["part"]]
        alone = () if readable and len(info.shape) == 2 else None
        for part in parts:
            yield f"{one['block']}experts.{one['expert']}.{part}", False, alone, len(parts) > 1
    else:
        yield key, plain, None, False


def _plain_name(name: str) -> str:
    if match := _MISTRAL_BLOCK.fullmatch(name):
        return f"layers.{match[1]}.{_MISTRAL[match[2]]}.weight"
    return "embed_tokens.weight" if name == "tok_embeddings.weight" else plain_name(name)


@dataclass(frozen=True)
class Pairing:
    """Two checkpoints' tensors by what they are: those that both have, and those that one lacks.

    ``missing`` and ``reshaped`` are faults in words; ``told`` is what differs and is none.
    """

    pairs: dict[str, tuple[Held, Held]]
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    told: tuple[str, ...]


def paired(base: Checkpoint, release: Checkpoint) -> Pairing:
    """Pair the tensors of two checkpoints by what they are."""
    before, after = by_meaning(base), by_meaning(release)
    pairs = {key: (before[key], after[key]) for key in before if key in after}
    missing = [before[key].name for key in before if key not in after and _wanted(key, base, release)]
    if (head := _stored_head(before, after)) is not None:
        pairs |= head  # where the base's embedding is its head, it is what a stored one is held to
    reshaped, told = [], []
    for key, (was, now) in pairs.items():
        if not (was.plain and now.plain) or was.info.shape == now.info.shape:
            continue
        old, new = was.info.shape, now.info.shape
        if vocabulary(key) and old[1:] == new[1:]:
            rows = new[0] - old[0]
            told.append(f"{now.name} has {abs(rows)} {'new rows' if rows > 0 else 'rows less'}")
        else:
            reshaped.append(now.name)
    return Pairing(pairs, tuple(missing), tuple(reshaped), tuple(told))


def _stored_head(before: dict[str, Held], after: dict[str, Held]) -> dict[str, tuple[Held, Held]] | None:
    """Pair the head that only the release stores with the base's embedding."""
    key = next((key for key in HEAD if key in after and key not in before), None)
    embedding = before.get("embed_tokens.weight") or before.get("wte.weight")
    return None if key is None or embedding is None else {key: (embedding, after[key])}


def _wanted(key: str, base: Checkpoint, release: Checkpoint) -> bool:
    if base.is_gguf != release.is_gguf:
        # Another format holds other things beside the decoder; what is in both of its vocabularies counts.
        known = set(WHOLE.values())
        block = re.fullmatch(r"layers\.\d+\.(.+)\.(weight|bias)", key)
        if key not in known and not (block and block[1] in IN_BLOCK.values()):
            return False
    if key not in HEAD:
        return True
    # A tied head may be stored or left out. A GGUF file has no config: there leaving out means tying.
    return not ((release.is_gguf or tied(release.config)) and (tied(base.config) or _equal_ends(base)))


def _equal_ends(checkpoint: Checkpoint) -> bool:
    """Tell whether a stored head holds the very numbers of the embedding."""
    held = by_meaning(checkpoint)
    head = next((held[key] for key in HEAD if key in held), None)
    embedding = held.get("embed_tokens.weight") or held.get("wte.weight")
    if head is None or embedding is None or head.info.shape != embedding.info.shape:
        return False
    return bool(np.array_equal(checkpoint.read(head.name), checkpoint.read(embedding.name)))
