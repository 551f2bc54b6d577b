"""Why a protection buys nothing, and why a repair does not give all back, on the real model.

    python -m benchmarks causes int4|clipped

``int4`` rounds every matrix to int4 with a scale a row, and keeps parts of the super weights' own matrix.
``clipped`` makes the gate benchmark's release that is clipped at z = 9, and puts scalars back. Printed are
perplexities on windows of the corpus; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from benchmarks.gate import base_folder
from benchmarks.gate_damaged import clipped
from benchmarks.gate_draft import draft
from superweight.checkpoints.registry import resolve
from superweight.measurement.corpus import BUILTIN, cut, documents
from superweight.measurement.evaluate import perplexity
from superweight.model.loading import load

Weights = Mapping[str, torch.Tensor]
LAYER, ROW, COLUMNS = 11, 507, (1229, 1487)
OWN = f"model.layers.{LAYER}.mlp.down_proj.weight"
OTHERS = (0, 5, 10, 12, 20, 29)
WINDOWS = 24


def by_row(weight: torch.Tensor) -> torch.Tensor:
    """Round to int4, -8 to 7, with a scale a row, as compressed-tensors does."""
    step = weight.abs().amax(1, keepdim=True) * 2 / 15
    return torch.clamp(torch.round(weight / step), -8, 7) * step


def with_row(weight: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    found = weight.clone()
    found[ROW] = row
    return found


def with_scalars(weight: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    found = weight.clone()
    found[ROW, COLUMNS] = source[ROW, COLUMNS]
    return found


def with_columns(weight: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Take what the super weights' two neurons write to the other channels."""
    found = weight.clone()
    found[:, COLUMNS] = source[:, COLUMNS]
    found[ROW] = weight[ROW]
    return found


def int4(own: Weights) -> Iterator[tuple[str, Weights]]:
    all_rounded = {name: by_row(weight) for name, weight in own.items() if name.endswith("proj.weight")}
    exact, coarse = own[OWN], all_rounded[OWN]
    yield "every matrix rounded", all_rounded
    yield "the super weights' matrix kept", all_rounded | {OWN: exact}
    yield "its two super weights kept", all_rounded | {OWN: with_scalars(coarse, exact)}
    yield "its row of the super weights kept", all_rounded | {OWN: with_row(coarse, exact[ROW])}
    yield "all its other rows kept", all_rounded | {OWN: with_row(exact, coarse[ROW])}
    yield "its two neurons' other writes kept", all_rounded | {OWN: with_columns(coarse, exact)}
    yield "all but those kept", all_rounded | {OWN: with_columns(exact, coarse)}
    yield "no matrix rounded but that one", {OWN: coarse}
    yield (
        "no matrix rounded but that one, without its super weights' row",
        {OWN: with_row(coarse, exact[ROW])},
    )
    for factor in (0.9, 1.1):
        scaled = exact.clone()
        scaled[ROW, COLUMNS] *= factor
        yield f"the matrix kept, its super weights times {factor}", all_rounded | {OWN: scaled}
    for layer in OTHERS:
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        yield f"the down projection of block {layer} kept", all_rounded | {name: own[name]}


def clipping(own: Weights) -> Iterator[tuple[str, Weights]]:
    given = draft(base_folder())
    names = given.matrices
    clipped(given)
    release = {name: given.tensors[name].float() for name in names if name in own}
    beyond = {name: own[name].abs() > 9 * own[name].std() for name in release}
    print(
        f"clipped: {sum(int(mask.sum()) for mask in beyond.values())} scalars in "
        f"{sum(bool(mask.any()) for mask in beyond.values())} of {len(beyond)} matrices, "
        f"{int(beyond[OWN].sum())} of them in that of the super weights"
    )
    yield "clipped and rounded", release
    yield "its two super weights back", release | {OWN: with_scalars(release[OWN], own[OWN])}
    every = {name: torch.where(beyond[name], own[name], weight) for name, weight in release.items()}
    yield "every clipped scalar of that matrix back", release | {OWN: every[OWN]}
    yield "every clipped scalar back, of all matrices", every
    limits = {name: 9 * float(own[name].std()) for name in release}
    only = {name: own[name].clamp(-limits[name], limits[name]) for name in release}
    yield "clipped alone, not rounded", only
    yield "clipped alone, its two super weights back", only | {OWN: with_scalars(only[OWN], own[OWN])}


CAUSES = {"int4": int4, "clipped": clipping}


def main(options: list[str]) -> None:
    """Print the perplexity of each condition."""
    if len(options) != 1 or options[0] not in CAUSES:
        raise SystemExit(f"give one of {', '.join(CAUSES)}")
    subject = load(resolve(str(base_folder())), device="cpu")
    windows = cut(subject, documents(BUILTIN), BUILTIN, count=WINDOWS)
    parameters = dict(subject.model.named_parameters())
    own = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    print(f"intact: {perplexity(subject, windows):.2f}", flush=True)
    for name, changed in CAUSES[options[0]](own):
        with torch.no_grad():
            for at, parameter in parameters.items():
                parameter.copy_(changed.get(at, own[at]))
        print(f"{name}: {perplexity(subject, windows):.2f}", flush=True)
