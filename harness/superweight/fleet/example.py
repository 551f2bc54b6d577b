"""Make the example: twelve small models, five of them broken in their own ways, and their fleet.toml."""

from __future__ import annotations

import json
import shutil
import struct
from importlib.resources import files
from pathlib import Path

from superweight.core.atomic import write_whole
from superweight.core.errors import BadInput
from superweight.core.resources import fixtures_directory

_PLANTED, _WEIGHTS = "tiny-planted", "model.safetensors"
_SCALAR = "model.layers.1.mlp.down_proj.weight", 41, 23
# What the code of a checkpoint may do to the process that loads it.
_SEGFAULT = "import ctypes\n\nctypes.string_at(0)\n"
_ENDLESS = "while True:\n    pass\n"


def write_example(folder: Path) -> Path:
    """Write the models and fleet.toml into a folder; return the path of fleet.toml.

    What is there already is written anew, with the same content. Raises `BadInput` where that cannot
    be done.
    """
    try:
        for name in ("new", "kept", "damaged", "broken", "segfault", "endless"):
            target = folder / "models" / name
            target.mkdir(parents=True, exist_ok=True)
            for file in (fixtures_directory() / "checkpoints" / _PLANTED).iterdir():
                shutil.copyfile(file, target / file.name)
        _zero(folder / "models" / "damaged" / _WEIGHTS, *_SCALAR)
        cut = folder / "models" / "broken" / _WEIGHTS
        cut.write_bytes(cut.read_bytes()[:-1000])
        _bring_code(folder / "models" / "segfault", _SEGFAULT)
        _bring_code(folder / "models" / "endless", _ENDLESS)
        fleet = folder / "fleet.toml"
        write_whole({fleet: (files("superweight.fleet") / "templates" / "example.toml").read_bytes()})
    except OSError as error:
        raise BadInput(f"cannot write the example to {folder}: {error.strerror or error}") from error
    return fleet


def _zero(path: Path, tensor: str, row: int, column: int) -> None:
    """Set one scalar of a safetensors file to zero."""
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + length])[tensor]
    (begin, end), (rows, columns) = entry["data_offsets"], entry["shape"]
    size = (end - begin) // (rows * columns)
    at = 8 + length + begin + size * (row * columns + column)
    data[at : at + size] = bytes(size)
    path.write_bytes(data)


def _bring_code(folder: Path, code: str) -> None:
    """Let a checkpoint bring code of its own, which runs when it is loaded and trusted."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "brings-code",
        "auto_map": {"AutoConfig": "own_code.Config", "AutoModelForCausalLM": "own_code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "own_code.py").write_text(code, encoding="utf-8")
