"""Find the parts of a GGUF file that was published in parts, NAME-00001-of-00003.gguf and so on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from superweight.checkpoints.tensors.open import gguf_parts
from superweight.core.errors import BadInput

# What the parts say of being parts.
_SPLIT = "split."
_OF_THE_FILE = ("GGUF.", "general.architecture")


def local_parts(gguf: Path) -> list[Path]:
    """Return the paths of all parts of the file of which ``gguf`` is one; raises `BadInput` for a gap."""
    parts = [gguf.with_name(name) for name in gguf_parts(gguf.name)]
    missing = [part.name for part in parts if not part.is_file()] if len(parts) > 1 else []
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(
            f"{gguf.parent} lacks {missing[0]}{more} of the {len(parts)} parts of the model; fetch it again"
        )
    return parts


def unite(parts: Sequence[Path], destination: Path) -> Path:
    """Write one GGUF file with the first part's metadata and the tensors of all parts.

    Tensors are copied as they are stored, one at a time. Raises `BadInput` naming the part that
    the format's own reader cannot read.
    """
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    readers = []
    for part in parts:
        try:
            readers.append(GGUFReader(part))
        # gguf raises whatever the bytes provoke (KeyError, struct.error, ...).
        except Exception as error:
            raise BadInput(f"gguf cannot read {part}, {type(error).__name__}; fetch it again") from error
    architecture = readers[0].get_field("general.architecture")
    if architecture is None:
        raise BadInput(f"{parts[0]} names no architecture, so it is no first part; fetch the parts again")
    writer = GGUFWriter(destination, str(architecture.contents()))
    for field in readers[0].fields.values():
        if field.name.startswith((*_OF_THE_FILE, _SPLIT)):
            continue
        kind = field.types[0]
        items = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=items)
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    for tensor in tensors:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()
    return destination
