"""Measure what edits do to predictions: NLL, perplexity, KL, next-token probabilities.

All conditions are measured together, batch by batch: they ride in one forward pass, or, where
routed experts are edited, go on one by one from what the intact pass left before their first block.
The head is applied piece by piece, so that the logits stay small.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from superweight.core.errors import HarnessError, TooLarge
from superweight.core.readable import readable
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.corpus import Windows
from superweight.measurement.hidden_states import decode
from superweight.model.devices import multiply_in_float32
from superweight.model.edit_proofs import deferred_proofs
from superweight.model.subject import Subject

Values = NDArray[np.float64]

_log = logging.getLogger(__name__)

# Windows that go through the decoder at once; the conditions ride beside each. On a CPU two of
# them, with a dozen conditions, are as many tokens as its caches bear (benchmarks/); where weights
# are brought from a disk for every pass, or a GPU wants to be filled, more.
BATCH = 8
_CPU_BATCH, _CPU_ROWS = 2, 26
# The most that one piece of logits takes, in float32; one window's logits may be more.
LOGITS_BYTES = 2**26


@dataclass(frozen=True, repr=False)
class Measurement:
    """What one condition does on each window.

    ``nll``: (windows, tokens - 1), nats. ``kl``: (windows,), mean KL(intact || condition) in nats.
    ``top1_agreement``: (windows,), share of positions whose likeliest token is the intact model's.
    ``tracked``: (windows, tracked ids), mean next-token probability. Of a condition of which only the
    losses were asked for, all but ``nll`` are empty. ``reference`` is what the condition is compared with
    where that is not the intact model: the same tensors stored alike, and unscaled.
    """

    nll: Values
    kl: Values
    top1_agreement: Values
    tracked: Values
    reference: Measurement | None = None

    @property
    def perplexity(self) -> float:
        """Exponential of the mean NLL over all windows."""
        return float(np.exp(self.nll.mean()))

    def __repr__(self) -> str:
        if not len(self.kl):
            return f"perplexity {readable(self.perplexity)}"
        kl, same = float(self.kl.mean()), float(self.top1_agreement.mean())
        return f"perplexity {readable(self.perplexity)}, KL {kl:.3g} nats, top-1 agreement {same:.1%}"


@dataclass(frozen=True)
class _OnDevice:
    """The four numbers of a `Measurement` where they were computed: fetching them waits for the device."""

    nll: torch.Tensor
    kl: torch.Tensor
    top1_agreement: torch.Tensor
    tracked: torch.Tensor

    def fetched(self) -> Measurement:
        return Measurement(
            _numpy(self.nll), _numpy(self.kl), _numpy(self.top1_agreement), _numpy(self.tracked)
        )


_NUMBERS = ("nll", "kl", "top1_agreement", "tracked")


def measure(
    subject: Subject,
    windows: Windows,
    conditions: Sequence[Condition],
    tracked_ids: Sequence[int] = (),
    *,
    batch: int | None = None,
    losses_only: bool = False,
    details: Collection[str] | None = None,
) -> dict[str, Measurement]:
    """Measure the intact model and every condition on the same windows.

    Returns measurements by condition name, `INTACT` among them; with ``losses_only`` they hold the NLL
    and are empty otherwise, which is much faster where the vocabulary is large. So do those of the
    conditions that ``details``, where it is given, does not name. Raises `HarnessError` when
    two conditions share a name, `EditFailed` when an edit does not take effect, `TooLarge` when even one
    condition on one window does not fit in memory.
    """
    names = [INTACT, *(condition.name for condition in conditions)]
    if len(set(names)) != len(names):
        raise HarnessError("two conditions share a name; one would overwrite the other")
    multiply_in_float32()
    tracked = torch.tensor(list(tracked_ids), dtype=torch.long, device=subject.device)
    every = torch.from_numpy(windows.ids).to(subject.device)
    wanted = set() if losses_only else {*(names if details is None else (INTACT, *details))}
    pieces = every.split(batch or batch_of(subject, len(names)))
    # Nothing is fetched, and no edit is looked at, before all is computed: a GPU is not waited for.
    with deferred_proofs():
        parts = [_fitting(subject, ids, conditions, tracked, wanted) for ids in pieces]
    return {name: _whole([part[name] for part in parts]).fetched() for name in names}


def _fitting(
    subject: Subject,
    ids: torch.Tensor,
    conditions: Sequence[Condition],
    tracked: torch.Tensor,
    details: Collection[str],
) -> dict[str, _OnDevice]:
    """Measure (windows, tokens) ids in as many pieces as memory asks for.

    What does not fit is tried again in halves, first of the windows and then of the conditions, and
    the log says so. Raises `TooLarge` when one condition on one window does not fit.
    """
    try:
        return _measured(subject, ids, conditions, tracked, details)
    # torch says it in three ways; what a failed pass holds is gone once this block is left.
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
    if len(ids) > 1:
        _log.warning("out of memory with %d windows at once; going on with half of them", len(ids))
        pieces = ids.split((len(ids) + 1) // 2)
        halves = [_fitting(subject, part, conditions, tracked, details) for part in pieces]
        return {name: _whole([half[name] for half in halves]) for name in halves[0]}
    if len(conditions) > 1:
        _log.warning("out of memory with %d conditions at once; going on with half of them", len(conditions))
        middle = len(conditions) // 2
        return _fitting(subject, ids, conditions[:middle], tracked, details) | _fitting(
            subject, ids, conditions[middle:], tracked, details
        )
    raise TooLarge(f"{subject.name} does not fit in memory beside one window of {ids.shape[1]} tokens")


def _out_of_memory(error: Exception) -> bool:
    """Tell whether torch, or Python, ran out of memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _measured(
    subject: Subject,
    ids: torch.Tensor,
    conditions: Sequence[Condition],
    tracked: torch.Tensor,
    details: Collection[str],
) -> dict[str, _OnDevice]:
    """Measure all conditions on (windows, tokens) ids at once."""
    parts: dict[str, list[_OnDevice]] = {INTACT: [], **{condition.name: [] for condition in conditions}}
    decoded = decode(subject, ids, conditions)
    for rows in head_pieces(subject, ids):
        intact = decoded.predicted(subject, INTACT, rows)
        for name, measurements in parts.items():
            changed = intact if name == INTACT else decoded.predicted(subject, name, rows)
            if name in details:
                measurements.append(_reduced(intact, changed, ids[rows], tracked))
            else:
                measurements.append(_only_losses(changed, ids[rows]))
    return {name: _whole(measurements) for name, measurements in parts.items()}


def batch_of(subject: Subject, conditions: int = 1) -> int:
    """Return how many windows go through the decoder at once, so many conditions beside each."""
    resident = all(projection.writable for projection in subject.architecture.projections)
    if not resident or subject.device.type != "cpu":
        return BATCH
    return min(BATCH, max(_CPU_BATCH, _CPU_ROWS // conditions))


def head_pieces(subject: Subject, ids: torch.Tensor) -> Iterator[slice]:
    """Yield the windows that the head is applied to at once, so that the logits stay small."""
    vocabulary = int(subject.model.get_output_embeddings().weight.shape[0])
    size = max(1, LOGITS_BYTES // (4 * vocabulary * ids.shape[1]))
    for start in range(0, len(ids), size):
        yield slice(start, min(start + size, len(ids)))


def predicted(subject: Subject, ids: torch.Tensor) -> torch.Tensor:
    """Return what a subject as it is predicts of (windows, tokens) ids, as `log_probabilities`."""
    with torch.no_grad():
        return log_probabilities(subject.model(input_ids=ids, use_cache=False).logits)


def perplexity(subject: Subject, windows: Windows) -> float:
    """Return the perplexity of a subject as it is, edits of every kind included."""
    every = torch.from_numpy(windows.ids).to(subject.device)
    losses = [token_nll(predicted(subject, ids), ids[:, 1:]) for ids in every.split(batch_of(subject))]
    return float(np.exp(_numpy(torch.cat(losses)).mean()))


def token_nll(predicted: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the NLL of each id under log-probabilities, (..., tokens, V): (..., tokens)."""
    return -predicted.gather(-1, ids[..., None])[..., 0]


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return next-token log-probabilities of all but the last position: (windows, tokens - 1, V)."""
    return logits[:, :-1].float().log_softmax(-1)


def reduced(
    intact: torch.Tensor, changed: torch.Tensor, ids: torch.Tensor, tracked: torch.Tensor
) -> Measurement:
    """Return what is kept of two sets of log-probabilities, each (windows, tokens - 1, V)."""
    return _reduced(intact, changed, ids, tracked).fetched()


def _reduced(
    intact: torch.Tensor, changed: torch.Tensor, ids: torch.Tensor, tracked: torch.Tensor
) -> _OnDevice:
    # One window at a time: the product is as large as the vocabulary is wide. Of the intact model both
    # are one tensor, and there is nothing to compute.
    kl = [
        p.new_zeros(()) if intact is changed else (p.exp() * (p - q)).sum(-1).mean()
        for p, q in zip(intact, changed, strict=True)
    ]
    same = [
        p.new_ones(()) if intact is changed else (p.argmax(-1) == q.argmax(-1)).float().mean()
        for p, q in zip(intact, changed, strict=True)
    ]
    nll = token_nll(changed, ids[:, 1:])
    return _OnDevice(nll, torch.stack(kl), torch.stack(same), changed[..., tracked].exp().mean(1))


def _only_losses(changed: torch.Tensor, ids: torch.Tensor) -> _OnDevice:
    """Return the NLL alone, of what `_reduced` keeps."""
    nothing = changed.new_empty(0)
    return _OnDevice(token_nll(changed, ids[:, 1:]), nothing, nothing, nothing)


def _whole(parts: Sequence[_OnDevice]) -> _OnDevice:
    """Return the measurement of all pieces as one."""
    return _OnDevice(*(torch.cat([getattr(part, name) for part in parts]) for name in _NUMBERS))


def _numpy(tensor: torch.Tensor) -> Values:
    # Some accelerators have no float64.
    return tensor.cpu().double().numpy()


def joined(parts: Sequence[Measurement]) -> Measurement:
    """Return the measurement of all batches as one."""
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _NUMBERS}
    references = [part.reference for part in parts if part.reference is not None]
    return Measurement(**whole, reference=joined(references) if references else None)
