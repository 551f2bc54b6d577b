"""Shorten the message of another library's exception to one line."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """Return the first line of what an exception says, more where that announces more, else its kind.

    Libraries write "could not be read from one of:" and go on below.
    """
    said = ""
    for line in (line.strip() for line in str(error).splitlines()):
        said = f"{said} {line}".strip()
        if said and not said.endswith((":", ",", "(")):
            break
    return said.rstrip(" :,(") or type(error).__name__
