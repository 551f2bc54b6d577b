"""Ask servers for ranges of files, and for nothing else: again where one fails, from where it failed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from aiohttp import ClientError, ClientResponse, ClientTimeout
from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFileSystem

from superweight.core.errors import BadInput

# For the connection, and for each silence after it.
TIMEOUT = 4.0
# A long range is asked for in pieces of so many bytes, so many of them at once.
PIECE = 16 * 2**20
AT_ONCE = 4
# How often a range is asked for again before it is given up, and the seconds before the first time; they
# double. What a server asks to wait counts instead, up to a limit.
AGAIN = 4
FIRST_WAIT = 0.25
LONGEST_WAIT = 30.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_LATER = (429, 500, 502, 503, 504)


class Absent(Exception):  # an answer, and no error
    """The server has no such file."""


class _Later(Exception):  # the same
    """The server asks to be asked again, after so many seconds if it says so."""

    def __init__(self, refusal: BadInput, after: float | None) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.after = after


class Ranges(HTTPFileSystem):  # type: ignore[misc]  # fsspec is shipped without types
    """fsspec's HTTP filesystem, held to sending ranges and nothing else.

    An answer is judged by its status and headers before its body is read: fsspec itself would read
    a whole checkpoint from a server that ignores ranges. Connections are kept and used again.
    ``received`` counts the bytes that came, ``asked`` the requests.
    """

    cachable = False  # or a later reading would get an earlier one's lengths

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(
            # A compressed range is no range of the file.
            headers={**headers, "Accept-Encoding": "identity"},
            client_kwargs={
                "timeout": ClientTimeout(total=None, connect=TIMEOUT, sock_read=TIMEOUT),
                "trust_env": True,
            },
        )
        self.sizes: dict[str, int] = {}
        self.received = 0
        self.asked = 0
        self._slots = asyncio.Semaphore(AT_ONCE)

    def fill(self, url: str, start: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes of a file from ``start`` on, in pieces, several at once."""
        sync(self.loop, self._fill, url, start, target)

    async def _fill(self, url: str, start: int, target: memoryview) -> None:
        async def piece(first: int) -> None:
            part = target[first : first + PIECE]
            async with self._slots:
                if await self._receive(url, start + first, start + first + len(part), part) != len(part):
                    raise BadInput(
                        f"{bare(url)} ends before byte {start + first + len(part)}; it is truncated"
                    )

        tasks = [asyncio.ensure_future(piece(first)) for first in range(0, len(target), PIECE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _cat_file(self, url: str, start: int, end: int) -> bytes:
        # It grows as bytes come: where a file may end anywhere, ``end`` is as far as a long one would go.
        buffer = bytearray()
        count = await self._receive(url, start, end, buffer)
        return bytes(memoryview(buffer)[:count])

    async def _receive(self, url: str, start: int, end: int, target: bytearray | memoryview) -> int:
        """Return how many bytes of a range came; what came before a failure is not asked for again."""
        done, failed, ends = 0, 0, False
        while not ends:
            wait = FIRST_WAIT * 2**failed
            try:
                async for chunk in self._chunks(url, start + done, end):
                    target[done : done + len(chunk)] = chunk
                    done += len(chunk)
                    failed = 0
                ends = start + done >= min(end, self.sizes[url])
                failed += not ends
            except _Later as later:
                failed += 1
                if failed > AGAIN:
                    raise later.refusal from None
                wait = min(LONGEST_WAIT, wait if later.after is None else later.after)
            except (ClientError, OSError):
                failed += 1
                # Who has never answered is not there: the person is told at once.
                if failed > AGAIN or url not in self.sizes:
                    raise
            if not ends:
                await asyncio.sleep(wait)
        return done

    async def _chunks(self, url: str, start: int, end: int) -> AsyncIterator[bytes]:
        session = await self.set_session()
        headers = {**self.kwargs["headers"], "Range": f"bytes={start}-{end - 1}"}
        self.asked += 1
        async with session.get(self.encode_url(url), headers=headers) as response:
            try:
                size = _judge(response, bare(url), start, end)
                if self.sizes.setdefault(url, size) != size:
                    raise BadInput(f"{bare(url)} changed its length while it was read; try again")
                async for chunk in response.content.iter_any():
                    self.received += len(chunk)
                    yield chunk
            except BaseException:
                # Or the rest of the body would be waited for before the connection is given up.
                response.close()
                raise


def _judge(response: ClientResponse, address: str, start: int, end: int) -> int:
    """Return the length of the file of which an answer brings a range, or refuse the answer."""
    if response.status == 404:
        raise Absent
    if response.status in (401, 403):
        raise BadInput(
            f"{address} is not open to you (HTTP {response.status}): it is gated, private or absent; "
            "for the hub, run 'hf auth login' or set HF_TOKEN"
        )
    if response.status == 416:
        raise BadInput(f"{address} ends before byte {start}; it is empty or truncated")
    if response.status >= 400:
        refusal = BadInput(
            f"cannot read {address}: the server answered HTTP {response.status}; try again later"
        )
        if response.status in _LATER:
            raise _Later(refusal, _seconds(response.headers.get("Retry-After", "")))
        raise refusal
    length = response.content_length
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and match is not None:
        first, last, size = map(int, match.groups())
        if (first, last) != (start, min(end, size) - 1) or length != last + 1 - first:
            raise BadInput(f"{address}: the server sent another range than bytes {start} to {end}")
        return size
    # A file that is no longer than what was asked for may come whole.
    if response.status == 200 and start == 0 and length is not None and length <= end:
        return length
    whole_file = "the whole file" if length is None else f"the whole file, {length} bytes"
    raise BadInput(
        f"{address}: the server ignores range requests and would send {whole_file}; "
        "download it, and give its path"
    )


def _seconds(text: str) -> float | None:
    """Return what a server asks to wait; None where it says a date, or nothing."""
    return float(text) if text.strip().isdigit() else None


def bare(address: str) -> str:
    """Return an address without its query, in which signatures stand."""
    return address.partition("?")[0]
