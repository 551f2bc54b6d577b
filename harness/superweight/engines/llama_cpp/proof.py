"""Hold what is read through llama.cpp's C interface to what its own server says of the same file.

The server is the part of xllamacpp that is documented. It runs in a process of its own, which ends once
it has answered.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superweight.core.errors import EngineFailed
from superweight.engines.llama_cpp.process import WorkerProcess

# The likeliest tokens that are compared, and by how many nats they may differ: the server and the
# interface compute the same; 0.0002 nats were seen.
_TOP = 5
NEAR = 1e-2


def server_logs(
    gguf: Path, prompt: Sequence[int], written: int, threads: int, *, gpu: bool
) -> dict[int, float]:
    """Return the log-probabilities that llama.cpp's server gives its likeliest next tokens.

    ``written`` is a token that is a whole character: of one that is not, the server says nothing.
    Raises `EngineFailed` where the server does not run.
    """
    process = WorkerProcess(gguf.name, __name__)
    try:
        found = process.ask(
            "complete", path=str(gguf), prompt=list(prompt), written=written, threads=threads, gpu=gpu
        )["found"]
    finally:
        process.end()
    return {int(token): float(log) for token, log in found}


def require_agreement(logits: Sequence[float] | NDArray[np.float32], server: dict[int, float]) -> None:
    """Raise `EngineFailed` where next-token logits, (V,), are not what the server says."""
    values = np.asarray(logits, dtype=np.float64)
    logs = values - values.max()
    logs -= np.log(np.exp(logs).sum())
    apart = max((abs(logs[token] - log) for token, log in server.items()), default=np.inf)
    if not apart <= NEAR:
        raise EngineFailed(
            f"what is read of llama.cpp differs from what its server says by {apart:.3g} nats; this version "
            "of xllamacpp is not the one that this harness was made for"
        )


def _completed(path: str, prompt: list[int], written: int, threads: int, *, gpu: bool) -> dict[str, Any]:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel = 256, 1
    if not gpu:
        parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.warmup, parameters.verbosity = False, -1
    server = xllamacpp.Server(parameters)
    answer = server.handle_completions(
        {
            "prompt": prompt,
            "n_predict": 1,
            "n_probs": _TOP,
            "samplers": [],
            # Whatever is likeliest, this is what it writes; the probabilities are those before that.
            "logit_bias": [[written, 1e4]],
        }
    )
    (position,) = answer["choices"][0]["logprobs"]["content"]
    return {"found": [[item["id"], item["logprob"]] for item in position["top_logprobs"]]}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        del request["do"]
        try:
            answer = _completed(**request)
        # The library raises whatever its native part throws.
        except Exception as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
        os._exit(0)  # its threads are not waited for


if __name__ == "__main__":
    main()
