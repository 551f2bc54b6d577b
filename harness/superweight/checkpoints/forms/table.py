"""List the forms that are read, and name the form of a tensor that is not."""

from __future__ import annotations

from superweight.checkpoints.forms import (
    awq,
    bitsandbytes,
    compressed_tensors,
    gptq,
    hqq,
    mlx,
    modelopt,
    mxfp4,
    quanto,
    torchao,
)
from superweight.checkpoints.forms.form import Description, Form, Packed, Source, unread
from superweight.core.errors import BadInput

PLAIN = ".weight"
# Read by the dtype and the tensors beside it (tensors/scales.py and decoding.py), with nothing to unpack.
SCALED: tuple[Description, ...] = (
    Description(
        "plain",
        "save_pretrained: float64, float32, float16, bfloat16, float8",
        "as stored",
        "torch's own casts of every bit pattern",
    ),
    Description(
        "8-bit floats with scales",
        "DeepSeek, llm-compressor (tensor, channel, group, block, mxfp8), fbgemm, ModelOpt FP8",
        "q times weight_scale_inv, weight_scale or .scale; one a tensor, row or block, the blocks' lengths "
        "from weight_block_size or config_groups; scales stored as U8 or F8_E8M0 are 2^(u8 - 127)",
        "compressed_tensors' own decompress (tensor, channel, group, block, mxfp8); transformers' own "
        "Fp8Dequantize (DeepSeek's blocks); torch's float8 types and repeat_interleave for blocks that do "
        "not divide the matrix, E8M0 scales, fbgemm and ModelOpt",
    ),
    Description(
        "8-bit integers with scales",
        "llm-compressor (channel, group, zero points), bitsandbytes LLM.int8",
        "(q - zero) weight_scale; SCB / 127 by row for LLM.int8",
        "compressed_tensors' own decompress (channel, group, zero points); bitsandbytes' own quantiser and "
        "int8_vectorwise_dequant",
    ),
    Description(
        "LoRA and DoRA adapters",
        "peft: adapter_config.json and adapter_model.safetensors, on a base in any form",
        "W + scale B A; of DoRA each row of that times its own length over that row's",
        "peft's own merge_and_unload (LoRA, rsLoRA, DoRA, inputs first, a trained head)",
    ),
    Description("GGUF", "llama.cpp", "every type that the gguf package dequantises", "gguf's own dequantize"),
)
# The first that holds is the one. GPTQ and AWQ share their names.
FORMS: tuple[Form, ...] = (
    gptq.FORM,
    awq.FORM,
    compressed_tensors.INTEGERS,
    compressed_tensors.FLOATS,
    modelopt.FORM,
    bitsandbytes.FORM,
    mxfp4.FORM,
    mlx.FORM,
    hqq.FORM,
    quanto.FORM,
    torchao.FORM,
)
# Endings of tensors that hold codes of forms that are recognised and not read.
UNREAD = {
    ".trellis": ("EXL3", "give the checkpoint it was made from, or a GGUF file"),
    ".q_weight": ("EXL2", "give the checkpoint it was made from, or a GGUF file"),
    ".Qidxs": ("QuIP#", "give the checkpoint it was made from, or a GGUF file"),
    ".codes": ("AQLM", "give the checkpoint it was made from, or a GGUF file"),
    ".indices": ("VPTQ", "give the checkpoint it was made from, or a GGUF file"),
}
SUFFIXES = tuple(
    dict.fromkeys([*(suffix for form in FORMS for suffix in form.suffixes if suffix != PLAIN), *UNREAD])
)


def find(source: Source, name: str, suffix: str) -> Packed | None:
    """Return the matrix whose codes a tensor holds, or None when it is stored plainly.

    ``suffix`` is how ``name`` ends. Raises `BadInput` for packings that are not read, and for one
    that does not go with the tensors beside it.
    """
    stem = name.removesuffix(suffix)
    for form in FORMS:
        if suffix in form.suffixes and form.holds(source, stem):
            return form.unpack(source, stem)
    if suffix in (PLAIN, ""):
        return None
    if suffix in UNREAD:
        raise unread(name, *UNREAD[suffix])
    kinds = " or ".join(form.name for form in FORMS if suffix in form.suffixes)
    raise BadInput(
        f"{name} is packed as {kinds}, but its scales are not beside it; the file is incomplete: "
        "fetch it again, or give the checkpoint it was made from"
    )
