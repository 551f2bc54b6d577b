"""Plan how scalars are put back: in place, as a tensor of another type, or as a module left unquantised."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import Floats
from superweight.checkpoints.tensors.safetensors_copy import PLAIN_FLOATS, encoded
from superweight.checkpoints.tensors.tensor_info import TensorInfo
from superweight.core.coordinates import GainCoordinate
from superweight.core.errors import BadInput
from superweight.remedy.gguf_copy import stored_as
from superweight.remedy.ignore_lists import with_unquantised
from superweight.remedy.restoration import Restoration

_PLAIN_GGUF = ("F16", "F32", "BF16", "F64")


@dataclass(frozen=True)
class Unquantised:
    """A module of a packed release that the copy stores plainly: its tensors go, its weight comes."""

    module: str
    packed: tuple[str, ...]
    dtype: str
    numbers: Floats

    @property
    def weight(self) -> str:
        return f"{self.module}.weight"


@dataclass(frozen=True)
class Plan:
    """What is done to the files of a release: scalars changed in place, tensors and modules stored anew."""

    patched: tuple[Restoration, ...]
    retyped: Mapping[str, tuple[str, Floats]]
    unquantised: tuple[Unquantised, ...]

    @property
    def touched(self) -> frozenset[str]:
        """The names of all tensors that change, go or come."""
        gone = [name for module in self.unquantised for name in (*module.packed, module.weight)]
        return frozenset([*(item.tensor for item in self.patched), *self.retyped, *gone])

    @property
    def words(self) -> tuple[str, ...]:
        """How each changed tensor is stored, for a person."""
        place = sorted({item.tensor for item in self.patched})
        return (
            *(f"{name}: changed in place" for name in place),
            *(f"{name}: stored as {kind}" for name, (kind, _) in self.retyped.items()),
            *(
                f"{item.module}: stored unquantised ({item.dtype}), as config.json now says"
                for item in self.unquantised
            ),
        )


def planned(release: Checkpoint, restorations: Sequence[Restoration], gguf_type: str) -> Plan:
    """Return how the scalars are put back in the form that a release has.

    Raises `BadInput`, with the reason, for a form in which that cannot be done.
    """
    if release.merged is not None:
        raise BadInput(f"{release.name} is an adapter on its base; merge it into its base and repair that")
    patched = [item for item in restorations if _plain(release, item)]
    others: dict[str, list[Restoration]] = {}
    for item in restorations:
        if item not in patched:
            others.setdefault(item.tensor, []).append(item)
    retyped, unquantised = {}, []
    for name, items in others.items():
        if release.is_gguf:
            numbers = release.read(name).copy()
            for item in items:
                numbers[item.index] = item.becomes
            retyped[name] = stored_as(numbers, gguf_type), numbers
        else:
            unquantised.append(_unquantised(release, items))
    for item in patched:
        bytes_of(release.info(item.tensor), item.becomes)  # refuses what the type cannot hold
    return Plan(tuple(patched), retyped, tuple(unquantised))


def _plain(release: Checkpoint, item: Restoration) -> bool:
    if item.location is not None and item.location.packed is not None:
        return False
    return release.info(item.tensor).dtype in (_PLAIN_GGUF if release.is_gguf else PLAIN_FLOATS)


def _unquantised(release: Checkpoint, items: Sequence[Restoration]) -> Unquantised:
    location, name = items[0].location, items[0].tensor
    if location is None or location.leading:
        raise BadInput(
            f"{name} packs all experts of its block in one tensor, of which none can be left unquantised "
            "by itself; quantise the repaired base anew"
        )
    module = name[: name.index("down_proj") + len("down_proj")] if "down_proj" in name else _stem(name)
    packed = tuple(
        other for other in release.files if other.startswith(f"{module}.") and other != f"{module}.bias"
    )
    if location.transposed:
        raise BadInput(
            f"{name} is stored inputs first and quantised, which is not written; quantise the base anew"
        )
    numbers = np.array(location.matrix(release), dtype=np.float32)
    for item in items:
        place = item.place
        if not isinstance(place, GainCoordinate):
            numbers[place.row, place.col] = item.becomes
    with_unquantised(release.config, module)  # refuses forms without such a list
    if _torchao(release, packed):
        raise BadInput(
            f"{release.name} is packed by torchao, which keeps the classes of its tensors in the file's own "
            "metadata; quantise the repaired base anew, with what 'superweight protect --for torchao' says"
        )
    return Unquantised(module, packed, _plain_dtype(release, packed), numbers)


def _torchao(release: Checkpoint, packed: Collection[str]) -> bool:
    return any("._weight_qdata" in name for name in packed)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _plain_dtype(release: Checkpoint, packed: Collection[str]) -> str:
    """Return the type in which a release keeps what it did not quantise: that of its largest plain tensor."""
    plain = [
        info
        for name, info in release.tensors().items()
        if name not in packed and info.dtype in ("F32", "F16", "BF16") and name.endswith(".weight")
    ]
    return max(plain, key=lambda info: (info.elements, info.name)).dtype if plain else "F16"


def bytes_of(info: TensorInfo, value: float) -> bytes:
    return encoded(np.array([value], np.float32), info.dtype)
