"""Name a folder that transformers does not load, and say what to give instead.

Recognised by the names of its files and by its small documents, so that a repository on the hub is
recognised before anything large is fetched.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"

# A small file of the folder by its name, None where there is none.
Document = Callable[[str], bytes | None]

_BASE = "give the safetensors checkpoint or the GGUF file it was made from"
_CONVERTED = "give the checkpoint in transformers' layout (config.json and model.safetensors)"
_PICKLED = re.compile(r"[^/]+\.(bin|pt|pth|ckpt)")
# Pickles that hold no weights of a model, and .bin files that are no pickles.
_NO_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|adapter_model|non_lora_trainables)[^/]*|"
    r"(openvino|params_shard|ggml)[^/]*\.bin|consolidated[^/]*\.pth"
)
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_VARIANT = re.compile(r"model\.([\w-]+)(-\d+-of-\d+)?\.safetensors")
_PROJECTOR = re.compile(r"(^|/)mmproj[^/]*$")
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class Form:
    """A form in which models are released and which is not loaded: how to know it, what to give instead."""

    name: str
    files: re.Pattern[str]
    instead: str = _BASE


# The first that fits is meant; those that others are built from come later.
FORMS = (
    Form("an OpenVINO model", re.compile(r"(.*/)?openvino_[\w.-]*\.(xml|bin)")),
    Form("a TensorRT engine", re.compile(r"(.*/)?[\w.-]+\.(engine|plan)")),
    Form("a TensorRT-LLM checkpoint", re.compile(r"(.*/)?rank\d+\.safetensors")),
    Form("a CoreML model", re.compile(r"(.*/)?[\w.-]+\.(mlmodel|mlpackage|mlmodelc)(/.*)?")),
    Form(
        "an MLC model",
        re.compile(r"mlc-chat-config\.json|params_shard_\d+\.bin|(ndarray|tensor)-cache\.json"),
    ),
    Form("an ONNX model", re.compile(r"(.*/)?[\w.-]+\.(onnx|onnx_data)")),
    Form("an ExecuTorch program", re.compile(r"(.*/)?[\w.-]+\.pte")),
    Form("a LiteRT (TensorFlow Lite) model", re.compile(r"(.*/)?[\w.-]+\.(tflite|task|litertlm)")),
    Form("an MLX model of numpy arrays", re.compile(r"weights(\.\d+)?\.npz")),
    Form("a GGML file of before GGUF", re.compile(r"ggml[\w.-]*\.bin|[\w.-]+\.(ggml|ggjt)[\w.-]*")),
    Form("a llamafile", re.compile(r"[\w.-]+\.llamafile")),
    Form("a NeMo checkpoint", re.compile(r"[\w.-]+\.nemo"), _CONVERTED),
    Form("a TensorFlow checkpoint", re.compile(r"tf_model[\w.-]*\.h5|saved_model\.pb"), _CONVERTED),
    Form("a Flax checkpoint", re.compile(r"flax_model[\w.-]*\.msgpack"), _CONVERTED),
    Form(
        "a diffusers pipeline, no language model",
        re.compile(r"model_index\.json"),
        "give a causal language model",
    ),
    Form(
        "a checkpoint of a distributed training",
        re.compile(r"(.*/)?(__\d+_\d+\.distcp|zero_pp_rank_[\w.-]+|mp_rank_[\w.-]+)"),
        "write it whole with save_pretrained and give that folder",
    ),
    Form(
        "in Mistral's or Meta's own layout",
        re.compile(r"consolidated[\w.-]*\.(safetensors|pth)"),
        f"{_CONVERTED}; one consolidated.safetensors beside params.json is read at --depth static",
    ),
)

# By quant_method, for folders whose names are ordinary.
_METHODS = {"exl2": "an EXL2 model", "exl3": "an EXL3 model"}


def names_in(folder: Path) -> list[str]:
    """Return what lies in a folder and one level below it, with slashes; links that lead nowhere left out."""
    names = []
    for child in sorted(child for child in folder.iterdir() if child.exists()):
        names.append(child.name)
        if child.is_dir() and not child.name.startswith(".") and os.access(child, os.R_OK | os.X_OK):
            names += [f"{child.name}/{below.name}" for below in sorted(child.iterdir()) if below.exists()]
    return names


def pickled(names: Collection[str]) -> list[str]:
    """Return the names of pickled weights: unpickling runs code."""
    return [name for name in names if _PICKLED.fullmatch(name) and not _NO_WEIGHTS.fullmatch(name)]


def has_weights(names: Collection[str]) -> bool:
    """Tell whether a folder holds safetensors: one file, an index of several, or all of several."""
    return SINGLE in names or INDEX in names or bool(unlisted_shards(names))


def unlisted_shards(names: Collection[str]) -> list[str]:
    """Return the shards of a folder without an index, none unless their numbers say that all are there."""
    if SINGLE in names or INDEX in names:
        return []
    found = {name: match for name in sorted(names) if (match := _SHARD.fullmatch(name))}
    counts = {int(match[2]) for match in found.values()}
    whole = len(counts) == 1 and {int(match[1]) for match in found.values()} == set(range(1, max(counts) + 1))
    return list(found) if whole and len(found) == max(counts) else []


def gguf_files(names: Collection[str]) -> list[str]:
    """Return the GGUF files that are models, by their first part where they have several."""
    return [
        name
        for name in names
        if name.endswith(".gguf") and not _PROJECTOR.search(name) and not _LATER_PART.search(name)
    ]


def what_it_is(place: str, names: Collection[str], document: Document, join: str = "/") -> str | None:
    """Return in one line what a folder without safetensors of transformers is; None where that is unknown.

    ``join`` stands between the place and a file in what the person is to give.
    """
    if ADAPTER_CONFIG in names:
        return _adapter(place, document(ADAPTER_CONFIG))
    if files := gguf_files(names):
        return f"{place} holds only GGUF files; name the one that is meant: {_choices(place, files, join)}"
    if any(name.endswith(".safetensors") for name in names):
        config = _object(document("config.json"))
        method = quantised_elsewhere(config) or mlx(config)
        if method is not None:
            return f"{place} is {method}, which is not read; {_BASE}"
    for form in FORMS:
        found = next((name for name in names if form.files.fullmatch(name)), None)
        if found is not None:
            return f"{place} is {form.name} ({found}), which is not read; {form.instead}"
    if shard := next((name for name in names if _SHARD.fullmatch(name)), None):
        return (
            f"{place} holds {shard} and no {INDEX} that says which file holds what; "
            "fetch that file as well, or write the model anew with save_pretrained"
        )
    if variant := next((name for name in names if _VARIANT.fullmatch(name)), None):
        return (
            f"{place} holds only a variant of the weights ({variant}); "
            f"copy it to a folder as {_VARIANT.sub(_without_variant, variant)}, and give that folder"
        )
    return _below(place, names)


def quantised_elsewhere(config: Mapping[str, object]) -> str | None:
    """Return what a model is that only its own library reads, by its config; None for others."""
    settings = config.get("quantization_config")
    settings = settings if isinstance(settings, dict) else {}
    return _METHODS.get(str(settings.get("quant_method")))


def mlx(config: Mapping[str, object]) -> str | None:
    """Return what a model is that mlx-lm packed, by its config; None for others."""
    settings = config.get("quantization", config.get("quantization_config"))
    if isinstance(settings, dict) and {"group_size", "bits"} <= settings.keys():
        return None if "quant_method" in settings else f"an MLX model of {settings['bits']} bits"
    return None


def _without_variant(match: re.Match[str]) -> str:
    return f"model{match[2] or ''}.safetensors"


def _adapter(place: str, text: bytes | None) -> str:
    settings = _object(text)
    kind = str(settings.get("peft_type") or "PEFT").replace("LORA", "LoRA")
    base = settings.get("base_model_name_or_path")
    of = f" of {base}" if isinstance(base, str) and base else ""
    return (
        f"{place} is only a {kind} adapter{of}, not a model; merge it into its base with peft "
        "(AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload().save_pretrained(FOLDER)) "
        "and give that folder"
    )


def _choices(place: str, files: list[str], join: str) -> str:
    first = f"{place}{join}{files[0]}"
    return first if len(files) == 1 else f"{first}, or one of {', '.join(files[1:6])}"


def _below(place: str, names: Collection[str]) -> str | None:
    """Return which folder below holds a model, where this one holds none."""
    inside = [name.removesuffix("/config.json") for name in names if name.endswith("/config.json")]
    if not inside or "config.json" in names:
        return None
    # The last of a training's checkpoints is the one that is meant.
    last = max(inside, key=lambda name: int((re.findall(r"\d+", name) or ["0"])[-1]))
    return f"{place} holds no model itself, but {len(inside)} in folders below it; give {place}/{last}"


def _object(text: bytes | None) -> Mapping[str, object]:
    try:
        document = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
