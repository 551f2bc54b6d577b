"""Writes the outputs of docs/tutorial.md by running its commands, or tells where they differ from the page.

    python -m tools.tutorial            # run every command of the page, and write what it prints
    python -m tools.tutorial --check    # run them, and exit 1 where the page shows something else

In a block of the page marked ``console``, a line behind ``$`` is a command and the lines below it are
its output. A block with a title is written to a file of that name first. All run in order in one
empty folder. A number may differ from the page's by 5 %: another processor sums in another order.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
TOLERANCE = 0.05
_BLOCK = re.compile(
    r'^```(?P<kind>console|python title="(?P<file>[\w.]+)")\n(?P<body>.*?)^```$', re.DOTALL | re.MULTILINE
)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?")


class CommandFailed(Exception):
    """Raised where a command of the page does not end well; a page that shows a failure says ``; echo``."""


def main(arguments: list[str]) -> int:
    """Run the page; exit 0 when it is as it should be, 1 when not."""
    text = PAGE.read_text(encoding="utf-8")
    try:
        made = performed(text)
    except CommandFailed as error:
        print(f"{PAGE.name}: {error}", file=sys.stderr)
        return 1
    if "--check" not in arguments:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    faults = list(differences(text, made))
    print("\n".join(faults) or f"{PAGE.name} shows what its commands print", file=sys.stderr)
    return 1 if faults else 0


def performed(text: str) -> str:
    """Return a page with every output as its commands print it now, run in an empty folder.

    Raises `CommandFailed` for a command that exits with anything but 0.
    """
    with TemporaryDirectory() as folder:
        return _BLOCK.sub(lambda block: _performed(block, Path(folder)), text)


def _performed(block: re.Match[str], folder: Path) -> str:
    if block["file"]:
        (folder / block["file"]).write_text(block["body"], encoding="utf-8")
        return block[0]
    commands = [line.removeprefix("$ ") for line in block["body"].splitlines() if line.startswith("$ ")]
    shown = [f"$ {command}\n{_output(command, folder)}" for command in commands]
    return "```console\n" + "\n".join(shown) + "```"


def _output(command: str, folder: Path) -> str:
    """Return what a command prints on stdout; the bar and the notes are stderr's."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("CI", None)
    print(f"$ {command}", file=sys.stderr)
    done = subprocess.run(
        ["/bin/bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CommandFailed(
            f"`{command}` exits {done.returncode}: {done.stderr.strip()[-500:]}\n{done.stdout}"
        )
    lines = [line.rstrip() for line in done.stdout.replace(f"{folder}/", "").splitlines()]
    return "".join(f"{line}\n" for line in lines)


def differences(page: str, made: str) -> Iterator[str]:
    """Yield a line for each line of the page that differs in a word, or in a number by more than allowed."""
    shown, printed = page.splitlines(), made.splitlines()
    if len(shown) != len(printed):
        yield f"the page has {len(shown)} lines, its commands make {len(printed)}"
    for number, (left, right) in enumerate(zip(shown, printed, strict=False), 1):
        if not _alike(left, right):
            yield f"line {number}: the page shows {left!r}, the command prints {right!r}"


def _alike(left: str, right: str) -> bool:
    # Columns are as wide as their numbers are long.
    words = [" ".join(re.sub(r"[─━┄-]+", "-", _NUMBER.sub("#", line)).split()) for line in (left, right)]
    if words[0] != words[1]:
        return False
    numbers = [[float(each.replace(",", "")) for each in _NUMBER.findall(line)] for line in (left, right)]
    pairs = zip(*numbers, strict=True)
    return all(abs(one - other) <= TOLERANCE * max(abs(one), abs(other)) for one, other in pairs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
