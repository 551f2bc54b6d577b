"""Talk to the process in which llama.cpp runs, and tell in one line how it ended where it died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from superweight.core.errors import BadInput, EngineFailed

EXTRA = "llamacpp"
_WORKER = "superweight.engines.llama_cpp.worker"
# How long a process that was told to end may take: it may be in the middle of a pass.
_PATIENCE = 10.0


def require_installed() -> None:
    """Raise `BadInput` naming the extra where xllamacpp is not installed."""
    if find_spec("xllamacpp") is None:
        raise BadInput(f"the engine llama.cpp needs xllamacpp: pip install 'superweight-harness[{EXTRA}]'")


class WorkerProcess:
    """A process that is asked one thing after another; it ends with this object, or with this process."""

    def __init__(self, about: str, module: str = _WORKER) -> None:
        """Start it; ``about`` names the file that it is for.

        Raises `BadInput` where xllamacpp is not installed, `EngineFailed` where it does not run.
        """
        require_installed()
        self._about = about
        # On a file: a pipe that nobody reads would fill, and stop it.
        self._complaints = tempfile.TemporaryFile(  # noqa: SIM115  # closed with the process
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(  # noqa: S603  # this very interpreter
            # -P: what lies in the folder where the run was started is not to be imported.
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
            # It finds the package where this process found it.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.end = weakref.finalize(self, _end, self._process, self._complaints)
        self._answer("start")

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request. Raises `EngineFailed` where it is refused, or the process dies."""
        with suppress(BrokenPipeError, ValueError):  # where it is dead, that is told below
            print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        return self._answer(do)

    def _answer(self, doing: str) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            if (why := answer.get("refused")) is not None:
                raise EngineFailed(f"llama.cpp refuses to {doing} {self._about}: {why}")
            return answer
        code = self._process.wait()
        raise EngineFailed(
            f"llama.cpp died ({_ending(code)}) when asked to {doing} {self._about}{self._last_words()}"
        )

    def _last_words(self) -> str:
        self._complaints.seek(0)
        lines = [line.strip() for line in self._complaints if line.strip()]
        return f": {lines[-1]}" if lines else ""


def _end(process: subprocess.Popen[str], complaints: Any) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # it died with something unread
                pipe.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    complaints.close()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
