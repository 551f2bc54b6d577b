"""Shorten the message of another library's exception to one line."""

from __future__ import annotations

_TRACEBACK = "Traceback (most recent call last):"


def reason(error: BaseException) -> str:
    """Return the first line of what an exception says, more where that announces more, else its kind.

    Libraries write "could not be read from one of:" and go on below. Of a traceback of somewhere else the
    last line tells.
    """
    before, _, frames = str(error).partition(_TRACEBACK)
    said = ""
    for line in (line.strip() for line in (*before.splitlines(), *frames.strip().splitlines()[-1:])):
        said = f"{said} {line}".strip()
        if said and not said.endswith((":", ",", "(")):
            break
    return said.rstrip(" :,(") or type(error).__name__
