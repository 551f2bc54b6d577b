"""Read byte ranges of a checkpoint's files, here those of this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from superweight.checkpoints.recognition import names_in
from superweight.core.errors import BadInput, BrokenModel


class File(Protocol):
    """A file of which only the bytes asked for are brought."""

    @property
    def name(self) -> str:
        """What a person calls the file: a path or an address."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``; raises `BadInput` when there are fewer."""

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``start`` on; raises as `read` does."""


class Folder(Protocol):
    """The place where a checkpoint's files lie side by side."""

    @property
    def name(self) -> str:
        """What a person calls the place: a path or an address."""

    @property
    def received(self) -> int | None:
        """How many bytes came over the network so far; None where there is no network."""

    @property
    def brought(self) -> int:
        """How many bytes were read so far, over the network or not."""

    def find(self, name: str) -> File | None:
        """Return a file, or None when there is none of that name."""

    def document(self, name: str) -> bytes | None:
        """Return a small file whole, or None when there is none of that name."""

    def prepare(self, names: list[str]) -> None:
        """Bring the beginnings of several files, all at once where that is faster."""

    def names(self) -> list[str]:
        """Return the names of all files; none where the place does not list them."""


@dataclass
class Tally:
    """How many bytes were read so far."""

    count: int = 0


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine."""

    path: Path
    size: int
    tally: Tally = field(default_factory=Tally, compare=False, repr=False)

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, start: int, end: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error.strerror}") from error
        self.tally.count += len(data)
        return whole(data, self, start, end)

    def read_into(self, start: int, target: memoryview) -> None:
        try:
            # Unbuffered: a buffer would copy what is to lie in the target.
            with self.path.open("rb", buffering=0) as file:
                file.seek(start)
                done = 0
                while done < len(target) and (count := file.readinto(target[done:])):
                    done += count
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error.strerror}") from error
        self.tally.count += done
        if done < len(target):
            raise too_short(self, start + done, start, start + len(target))


@dataclass(frozen=True)
class LocalFolder:
    """A directory of this machine."""

    path: Path
    tally: Tally = field(default_factory=Tally, compare=False, repr=False)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def received(self) -> int | None:
        return None

    @property
    def brought(self) -> int:
        return self.tally.count

    def find(self, name: str) -> LocalFile | None:
        path = self.path / name
        try:
            return LocalFile(path, path.stat().st_size, self.tally) if path.is_file() else None
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from error

    def document(self, name: str) -> bytes | None:
        file = self.find(name)
        return None if file is None else file.read(0, file.size)

    def prepare(self, names: list[str]) -> None:
        """Do nothing: a file of this machine is as near as it can be."""

    def names(self) -> list[str]:
        return names_in(self.path)


def whole(data: bytes, file: File, start: int, end: int) -> bytes:
    """Return ``data`` if it is all of what was asked for; raises `BadInput` if the file ends before."""
    if len(data) != end - start:
        raise too_short(file, start + len(data), start, end)
    return data


def too_short(file: File, last: int, start: int, end: int) -> BrokenModel:
    """Return the refusal of a file that ends before what was asked for does."""
    return BrokenModel(
        f"{file.name} ends at byte {last}, but bytes {start} to {end} were expected; "
        "it is truncated, so fetch it again"
    )
