"""Tell what a quantiser must be told so that the super weights survive, what that costs, and what it buys."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from superweight.checkpoints.gains import norms_behind_mlp, outstanding
from superweight.checkpoints.model_ref import ModelRef
from superweight.checkpoints.scalars import open_model
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.locations import Location, locate
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.core.readable import readable
from superweight.detection.gains import OUTSTANDING
from superweight.release.compare import known_super_weights
from superweight.remedy.recipes import Protected, Recipe, Tool

if TYPE_CHECKING:
    from collections.abc import Callable

_MEASURED = "measured.json"
_SUFFIXES = re.compile(r"\.(weight|qweight|weight_packed|W_q|weight\._data.*|_weight_qdata)$")


@dataclass(frozen=True)
class Protection:
    """A recipe for one model and one tool.

    ``extra_bytes`` is what the protected modules take more than at the tool's usual bits, ``share``
    that over all matrices at those bits. ``gains`` stand out in a norm, which no tool here rounds.
    ``measured`` is what protecting bought where that was measured, None where it was not.
    """

    model: str
    tool: Tool
    super_weights: tuple[Coordinate, ...]
    gains: tuple[GainCoordinate, ...] = ()
    modules: tuple[Protected, ...] = ()
    recipe: Recipe | None = None
    extra_bytes: int = 0
    share: float = 0.0
    measured: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the contract of ``superweight protect --json``."""
        return {
            "model": self.model,
            "tool": self.tool.name,
            "super_weights": [str(place) for place in self.super_weights],
            "gains": [str(place) for place in self.gains],
            "modules": [item.module for item in self.modules],
            "settings": None if self.recipe is None else dict(self.recipe.settings),
            "recipe": None if self.recipe is None else self.recipe.text,
            "extra_bytes": self.extra_bytes,
            "share": self.share,
            "measured": self.measured,
            "documented": self.tool.source,
        }

    def __repr__(self) -> str:
        return as_text(self).rstrip("\n")


def protect(
    model: ModelRef,
    tool: Tool,
    run_config: RunConfig,
    progress: Callable[[str], None] = lambda step: None,
) -> Protection:
    """Return what ``tool`` must be told of a model; its super weights are those known, else scanned for.

    Raises `BadInput` for a model that cannot be read.
    """
    known: Collection[Coordinate] = known_super_weights(model.entry, run_config.baselines)
    if not known:
        # Needs torch, which reading files does without.
        from superweight.detection.scan import scan
        from superweight.measurement.corpus import default_prompt

        progress(f"loading {model}")
        known = scan(run_config.load(model, progress), default_prompt()).coordinates
    places = tuple(sorted(known))
    checkpoint = open_model(model.entry)
    gains = _gains(checkpoint)
    if not places:
        return Protection(model.entry.name, tool, (), gains)
    found = dict(zip(places, locate(checkpoint, *places), strict=True))
    modules = tuple(dict.fromkeys(_protected(checkpoint, place, at) for place, at in found.items()))
    extra, share = _cost(checkpoint, {at.tensor.name: at for at in found.values()}, tool)
    measured = json.loads((files("superweight.remedy") / _MEASURED).read_text(encoding="utf-8"))
    bought = measured["tools"].get(tool.name)
    recipe = tool.recipe(modules)
    return Protection(model.entry.name, tool, places, gains, modules, recipe, extra, share, bought)


def _gains(checkpoint: Checkpoint) -> tuple[GainCoordinate, ...]:
    found = []
    for norm in norms_behind_mlp(checkpoint):
        channel = outstanding(norm.values(checkpoint), OUTSTANDING)
        if channel is not None:
            found.append(GainCoordinate(norm.layer, norm.norm, channel))
    return tuple(found)


def _protected(checkpoint: Checkpoint, place: Coordinate, at: Location) -> Protected:
    name = at.tensor.name
    kind = (
        "ffn_down_exps" if place.expert is not None else "ffn_down_shexp" if "shared" in name else "ffn_down"
    )
    gguf = f"blk.{place.layer}.{kind}"
    if checkpoint.is_gguf:
        # What transformers calls it in the decoders that llama.cpp converts by this name.
        return Protected(f"model.layers.{place.layer}.mlp.down_proj", _SUFFIXES.sub("", name))
    return Protected(_SUFFIXES.sub("", name), gguf)


def _cost(checkpoint: Checkpoint, protected: dict[str, Location], tool: Tool) -> tuple[int, float]:
    """Return how many bytes more the protected matrices take, and that as a share of all matrices."""
    elements = sum(at.tensor.elements for at in protected.values())
    whole = sum(info.elements for info in checkpoint.tensors().values() if len(info.shape) > 1)
    extra = elements * (tool.kept - tool.bits) / 8
    return round(extra), extra / (whole * tool.bits / 8)


def as_text(protection: Protection) -> str:
    """Return a protection for a terminal: the recipe to paste, then what it costs and buys."""
    if protection.recipe is None:
        named = protection.tool.name
        return f"{protection.model} has no super weights, so there is nothing to protect from {named}\n"
    places = ", ".join(map(str, protection.super_weights))
    count = len(protection.modules)
    what = "1 matrix stays" if count == 1 else f"{count} matrices stay"
    kept, bits = protection.tool.kept, protection.tool.bits
    extra = readable(protection.extra_bytes / 1e6, 3)
    lines = [
        f"# {protection.tool.name}: keeps {places} of {protection.model}",
        protection.recipe.text,
        f"# costs: {what} at {kept} bits: {extra} MB more than at {bits:g}, {protection.share:.1%} of all "
        "matrices",
        f"# buys: {_bought(protection)}",
    ]
    if protection.gains:
        named = ", ".join(map(str, protection.gains))
        lines.append(f"# gains that stand out ({named}) are kept: this tool rounds matrices, no norms")
    if protection.tool.caution:
        lines.append(f"# note: {protection.tool.caution}")
    lines.append(f"# documented: {protection.tool.source}")
    return "\n".join(lines) + "\n"


def _bought(protection: Protection) -> str:
    found = protection.measured
    if found is None:
        return "not measured for this tool (docs/protect.md has those that were)"
    words = (
        f"on {found['model']} at {found['setting']} perplexity {found['plain']:,.2f} plain, "
        f"{found['protected']:,.2f} protected (unquantised {found['intact']:,.2f})"
    )
    if found["protected"] > found["plain"]:
        return f"nothing: {words}"
    # What a dozen windows of text resolve.
    return f"next to nothing: {words}" if found["protected"] > 0.95 * found["plain"] else words
