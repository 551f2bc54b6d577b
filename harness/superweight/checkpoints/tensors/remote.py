"""Read byte ranges of files behind an address.

Imported only where an address is given: what it imports takes longer than reading a local file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from superweight.checkpoints.tensors import ranges
from superweight.checkpoints.tensors.files import too_short, whole
from superweight.checkpoints.tensors.ranges import Absent, Ranges, bare
from superweight.core.errors import BadInput

# Enough for the header of a shard; that of a 7B model in one file takes a second request.
_BEGINNING = 32 * 2**10
_LONGEST_DOCUMENT = 64 * 2**20
# More would wait for a connection longer than the timeout on a slow network.
_AT_ONCE = 16


class Server:
    """Where ranges of files are asked for, and the bytes that came are counted."""

    def __init__(self, headers: dict[str, str] | None = None) -> None:
        self._filesystem = Ranges(headers or {})

    @property
    def received(self) -> int:
        return self._filesystem.received

    @property
    def asked(self) -> int:
        """How many requests were sent."""
        return self._filesystem.asked

    def read(self, address: str, start: int, end: int) -> bytes | None:
        """Return up to ``end - start`` bytes, or None when the server has no such file."""
        (data,) = self.read_each([address], start, end)
        return data

    def read_each(self, addresses: list[str], start: int, end: int) -> list[bytes | None]:
        """Return the same range of several files, asked for all at once."""
        answers = self._filesystem.cat_ranges(addresses, start, end, on_error="return", batch_size=_AT_ONCE)
        return [self._accept(*pair) for pair in zip(addresses, answers, strict=True)]

    def fill(self, address: str, start: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes of a file from ``start`` on."""
        try:
            self._filesystem.fill(address, start, target)
        except Exception as error:
            if self._accept(address, error) is None:
                raise BadInput(f"{bare(address)} disappeared while it was read; try again") from None

    def size(self, address: str) -> int:
        """Return the length of a file of which something was read."""
        return self._filesystem.sizes[address]

    def _accept(self, address: str, answer: bytes | BaseException) -> bytes | None:
        if isinstance(answer, bytes):
            return answer
        if isinstance(answer, Absent):
            return None
        if isinstance(answer, BadInput) or not isinstance(answer, Exception):
            raise answer
        # aiohttp, the operating system and yarl each have their own exceptions.
        reason = (str(answer).strip().splitlines() or [""])[0] or type(answer).__name__
        if isinstance(answer, TimeoutError):
            reason = f"no answer within {ranges.TIMEOUT:g} seconds"
        raise BadInput(
            f"cannot read {bare(address)}: {reason}; check the address and the network"
        ) from answer


class RemoteFile:
    """A file behind an address; its beginning is kept, the rest is asked for as needed."""

    def __init__(self, server: Server, address: str, beginning: bytes) -> None:
        self._server = server
        self._address = address
        self._beginning = beginning

    @property
    def name(self) -> str:
        return bare(self._address)

    @property
    def size(self) -> int:
        return self._server.size(self._address)

    def read(self, start: int, end: int) -> bytes:
        if start == end:
            return b""
        data = self._beginning[start:end]
        if len(data) == end - start:
            return data
        start += len(data)
        if start >= self.size:
            return whole(data, self, start - len(data), end)
        rest = self._server.read(self._address, start, end)
        if rest is None:
            raise BadInput(f"{self.name} disappeared while it was read; try again")
        return data + whole(rest, self, start, end)

    def read_into(self, start: int, target: memoryview) -> None:
        end = start + len(target)
        if end > self.size:
            raise too_short(self, self.size, start, end)
        if end <= len(self._beginning):
            target[:] = self._beginning[start:end]
        elif len(target):
            self._server.fill(self._address, start, target)


class RemoteFolder:
    """An address under which files lie side by side; ``query`` is repeated for each.

    ``listing`` names them, where there is somebody to ask.
    """

    def __init__(
        self,
        address: str,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        listing: Callable[[], list[str]] = list,
    ) -> None:
        self.names = listing
        self._address = address.rstrip("/")
        self._query = query
        self._server = Server(headers)
        self._files: dict[str, RemoteFile | None] = {}

    @property
    def name(self) -> str:
        return self._address

    @property
    def received(self) -> int | None:
        return self._server.received

    @property
    def brought(self) -> int:
        return self._server.received

    def find(self, name: str) -> RemoteFile | None:
        self.prepare([name])
        return self._files[name]

    def document(self, name: str) -> bytes | None:
        return self._server.read(self._join(name), 0, _LONGEST_DOCUMENT)

    def prepare(self, names: list[str]) -> None:
        wanted = [name for name in dict.fromkeys(names) if name not in self._files]
        addresses = [self._join(name) for name in wanted]
        beginnings = self._server.read_each(addresses, 0, _BEGINNING)
        for name, address, beginning in zip(wanted, addresses, beginnings, strict=True):
            found = None if beginning is None else RemoteFile(self._server, address, beginning)
            self._files[name] = found

    def _join(self, name: str) -> str:
        return f"{self._address}/{name}{self._query}"


def hub_folder(repo: str, revision: str | None) -> RemoteFolder:
    """Return the files of a repository on the hub, at a revision, with the token of this machine.

    Honours HF_ENDPOINT, HF_TOKEN, HF_HUB_DISABLE_IMPLICIT_TOKEN and HF_HUB_OFFLINE, as the hub's
    client does.
    """
    from huggingface_hub import constants, get_token, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise BadInput(f"{repo} would be read from the hub, but HF_HUB_OFFLINE is set; unset it")
    address = hf_hub_url(repo, "x", revision=revision).removesuffix("/x")
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    # Not the client's own headers: to make them it asks the hub which tools it should tell it about.
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return RemoteFolder(address, headers=headers, listing=partial(_files_of, repo, revision))


def _files_of(repo: str, revision: str | None) -> list[str]:
    """Return what the hub says that a repository holds; nothing where it does not say."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repo, revision=revision)
    # The client passes on whatever its HTTP library raises, so no narrower class covers it.
    except Exception:
        return []
