"""Losses by rounding scheme: the block-size sweep of Figure 7 and the comparison of Tables 3 and 4."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from superweight.core.coordinates import Coordinate
from superweight.detection.scan import Scan
from superweight.measurement.evaluate import Values
from superweight.model.main_memory import free_memory
from superweight.model.subject import Subject
from superweight.quantization.activations import held_places, rounded_inputs
from superweight.quantization.clip_search import best_clips
from superweight.quantization.granularity import PerGroup, PerRow, PerTensor
from superweight.quantization.integer_grid import INT4, INT8, Scheme
from superweight.quantization.linear_layers import matrices_of
from superweight.quantization.losses import Text, nll
from superweight.quantization.smoothquant import smoothing_factors
from superweight.quantization.weights import WeightRounding, fake_quantised

# The paper's four, 128² to 1024², and two that practice uses.
SIZES = (64, 1024, 128**2, 256**2, 512**2, 1024**2)

NAIVE = "naive W8A8"
HELD_OUT = "super activation held out"
SMOOTHED = "SmoothQuant"
TOKENWISE = "one step a token"
ACTIVATION_SCHEMES = (NAIVE, HELD_OUT, SMOOTHED, TOKENWISE)

# Of the free memory, what rounded copies may take: the passes need the rest.
_SHARE_OF_FREE = 0.5

Progress = Callable[[str], None]


def _silent(step: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class BlockSize:
    """What one block size costs, mean NLL of each window in nats: (windows,) each.

    ``plain`` is round-to-nearest; ``held_out`` clips at ``clip``, rounds, and restores the super
    weights; ``clipped`` does the same and does not restore them (None where it was not asked for).
    """

    size: int
    clip: float | None
    plain: Values
    held_out: Values
    clipped: Values | None = None


@dataclass(frozen=True)
class Sweep:
    """One subject under all schemes; every loss is on the same windows: (windows,)."""

    intact: Values
    blocks: tuple[BlockSize, ...]
    activations: dict[str, Values]


def sweep(subject: Subject, found: Scan, text: Text, progress: Progress = _silent) -> Sweep:
    """Measure all block sizes and all W8A8 variants of one subject."""
    progress("intact")
    return Sweep(
        nll(subject, text.measured),
        weight_sweep(subject, found, text, progress=progress),
        activation_sweep(subject, found, text, progress=progress),
    )


def weight_sweep(
    subject: Subject,
    found: Scan,
    text: Text,
    sizes: Sequence[int] = SIZES,
    scheme: Scheme = INT4,
    *,
    unrestored: bool = True,
    progress: Progress = _silent,
) -> tuple[BlockSize, ...]:
    """Measure round-to-nearest weights by block size, plain, with the set held out, and clipped only.

    ``unrestored`` says whether the last of the three is wanted.
    """
    chosen = chosen_roundings(subject, found, text.calibration, sizes, scheme, progress)
    return tuple(
        block_losses(subject, found, text.measured, size, *pair, unrestored=unrestored, progress=progress)
        for size, pair in chosen.items()
    )


def chosen_roundings(
    subject: Subject,
    found: Scan,
    calibration: torch.Tensor,
    sizes: Sequence[int],
    scheme: Scheme = INT4,
    progress: Progress = _silent,
) -> dict[int, tuple[WeightRounding, WeightRounding]]:
    """Return, for each block size, plain rounding and the same clipped where ``calibration`` loses least."""
    plain = {size: WeightRounding(scheme, PerGroup(size)) for size in sizes}
    progress(f"{scheme}: choosing where to clip")
    chosen = best_clips(subject, tuple(plain.values()), found.coordinates, calibration)
    return {size: (rounding, chosen[rounding]) for size, rounding in plain.items()}


def block_losses(
    subject: Subject,
    found: Scan,
    ids: torch.Tensor,
    size: int,
    plain: WeightRounding,
    chosen: WeightRounding,
    *,
    unrestored: bool = False,
    progress: Progress = _silent,
) -> BlockSize:
    """Measure one block size on (windows, tokens) ids: plain, and clipped with the set held out."""

    def losses(rounding: WeightRounding, hold_out: Collection[Coordinate]) -> Values:
        progress(f"{rounding}{', super weights held out' if hold_out else ''}")
        with fake_quantised(subject, rounding, hold_out=hold_out):
            return nll(subject, ids)

    rounded = losses(plain, ())
    clipped = rounded if chosen == plain else losses(chosen, ()) if unrestored else None
    return BlockSize(size, chosen.clip, rounded, losses(chosen, found.coordinates), clipped)


def activation_sweep(
    subject: Subject,
    found: Scan,
    text: Text,
    names: Sequence[str] = ACTIVATION_SCHEMES,
    progress: Progress = _silent,
) -> dict[str, Values]:
    """Measure W8A8 variants: INT8 weights, one step a matrix, and INT8 inputs of every matrix."""
    rounding = WeightRounding(INT8, PerTensor())
    keep, losses = _room_for_copies(subject), {}

    def measured(name: str, smoothing: dict[nn.Module, torch.Tensor] | None = None) -> Values:
        progress(f"W8A8: {name}")
        places = held_places(subject, found) if name == HELD_OUT else None
        layout = PerRow() if name == TOKENWISE else PerTensor()
        with rounded_inputs(subject, INT8, layout, hold_out=places, smoothing=smoothing):
            return nll(subject, text.measured)

    plain = [name for name in names if name != SMOOTHED]
    if plain:
        with fake_quantised(subject, rounding, keep=keep and len(plain) > 1):
            losses = {name: measured(name) for name in plain}
    if SMOOTHED in names:
        smoothing = smoothing_factors(subject, text.calibration)
        with fake_quantised(subject, rounding, smoothing=smoothing):
            losses[SMOOTHED] = measured(SMOOTHED, smoothing)
    return {name: losses[name] for name in names}


def _room_for_copies(subject: Subject) -> bool:
    """Tell whether a second copy of every matrix takes less than half of the memory that is free."""
    needed = sum(matrix.stored.nbytes for matrix in matrices_of(subject))
    device = subject.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return needed < _SHARE_OF_FREE * free
