"""Continue prompts with the super weights pruned and the super activation restored (Figure 1, Table 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from superweight.core.errors import EditFailed
from superweight.detection.detect import SuperActivation, detect
from superweight.detection.run_trace import trace_batch
from superweight.measurement.conditions import INTACT
from superweight.measurement.generation import NEW_TOKENS, Continuation, continue_greedily
from superweight.model.activation_patch import patch_stream
from superweight.model.edits import Scale, edited
from superweight.model.subject import Subject


def restored_writing(
    subject: Subject, pruned: Sequence[Scale], prompts: Sequence[str], tokens: int = NEW_TOKENS
) -> tuple[Continuation, ...]:
    """Continue prompts with ``pruned`` scalars at zero and every super activation as it was intact.

    Raises `EditFailed` when an activation was not put back.
    """
    encoded = [subject.encode(prompt) for prompt in prompts]
    traces = trace_batch(subject, encoded)
    held = []
    longest = max(map(len, encoded))
    for row, (ids, seen) in enumerate(zip(encoded, traces, strict=True)):
        padding = longest - len(ids)  # on the left, as generation pads
        for item in detect(seen).super_activations:
            value = float(seen.residual[item.onset + 1, item.token, item.channel])
            held.append((item, row, padding + item.token, value))
    with edited(subject, pruned), _put_back(subject, held):
        return continue_greedily(subject, prompts, tokens=tokens)[INTACT]


@contextmanager
def _put_back(subject: Subject, held: Sequence[tuple[SuperActivation, int, int, float]]) -> Iterator[None]:
    """Put (activation, row, place, value) back in the first pass, the one over the prompts.

    Later passes see one new token each and read the prompts' tokens from the cache.
    """
    done: set[int] = set()

    def put_into(layer: int) -> Callable[[torch.Tensor], None]:
        def put(residual: torch.Tensor) -> None:
            if layer in done:
                return
            done.add(layer)
            for item, row, place, value in held:
                if item.onset == layer:
                    residual[row, place, item.channel] = value

        return put

    layers = {item.onset for item, *_ in held}
    blocks = subject.architecture.blocks
    hidden = subject.architecture.hidden
    handles = [patch_stream(blocks[layer], hidden, put_into(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if done != layers:
        raise EditFailed(f"the activations of blocks {sorted(layers - done)} were never put back")
