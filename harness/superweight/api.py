"""Hand on the functions of ``import superweight``: load, scan, measure, check, compare and mend models.

A model is a `Subject` that `load` returned. `check` and `compare` take its name instead where it is
not in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superweight.checkpoints.model_ref import ModelRef, parse_model
from superweight.claims.check import Checked, CheckRequest, run_check
from superweight.claims.run_config import RunConfig
from superweight.claims.verdict import Verdict
from superweight.core.atomic import write_whole
from superweight.core.coordinates import parse_place
from superweight.core.errors import BadInput
from superweight.core.notebook import html_table
from superweight.core.resources import DEFAULT_BASELINES
from superweight.core.run_notes import noted
from superweight.detection.scan import Scan
from superweight.detection.scan import scan as scan_text
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.corpus import BUILTIN, Windows, cut, default_prompt, documents
from superweight.measurement.evaluate import Measurement
from superweight.measurement.evaluate import measure as measure_conditions
from superweight.measurement.evaluate import perplexity as perplexity_of
from superweight.measurement.generation import NEW_TOKENS, continue_greedily
from superweight.model import loading
from superweight.model.edits import Edit, Scale
from superweight.model.subject import Subject
from superweight.release.compare import CompareRequest
from superweight.release.compare import compare as compare_models
from superweight.release.limits import Limits
from superweight.release.result import DEPTHS, Comparison
from superweight.remedy.protect import Protection
from superweight.remedy.protect import protect as protect_model
from superweight.remedy.recipes import tool as recipe_of
from superweight.remedy.repair import Repair, RepairRequest
from superweight.remedy.repair import repair as repair_release
from superweight.report.run_info import Stages


def load(model: str, *, device: str = "auto", dtype: str = "auto", trust: Collection[str] = ()) -> Subject:
    """Load a model: a registry name, ``org/name[@revision]`` on the hub, a directory, or a .gguf file.

    ``device`` is auto, cpu or cuda; ``dtype`` is auto, float32, bfloat16 or float16. ``trust`` may
    name "pickle" and "remote-code", both refused otherwise. Raises `BadInput` in one line.

    >>> load("tiny-planted").name
    'tiny-planted'
    """
    return loading.load(parse_model(model).entry, device=device, dtype=dtype, trust=trust)


def scan(model: Subject, text: str | None = None) -> Scan:
    """Find the super weights of a model with one forward pass over ``text``, and confirm them.

    Without ``text`` the default prompt is read.
    """
    return scan_text(model, default_prompt() if text is None else text)


def perplexity(model: Subject, corpus: str = BUILTIN) -> float:
    """Measure the perplexity of a model as it is, edits in force included.

    ``corpus`` is builtin, wikitext2, a text file, or a directory of them.
    """
    return perplexity_of(model, _windows(model, corpus))


def generate(model: Subject, prompt: str, tokens: int = NEW_TOKENS) -> str:
    """Continue a prompt by so many greedy tokens; the prompt itself is not returned."""
    ((written,),) = continue_greedily(model, [prompt], tokens=tokens).values()
    return written.text


def measure(
    model: Subject, edits: Mapping[str, Sequence[Edit]], corpus: str = BUILTIN
) -> dict[str, Measurement]:
    """Measure the model as it is, named "intact", and with every named set of edits, in one batched pass.

    Raises `BadInput` for a set that is named "intact", and for an edit that cannot be batched.
    """
    if INTACT in edits:
        raise BadInput(f"{INTACT!r} names the model without edits; give these edits another name")
    conditions = [_condition(name, chosen) for name, chosen in edits.items() if chosen]
    measured = measure_conditions(model, _windows(model, corpus), conditions)
    # A model without super weights has nothing to prune: the empty set leaves it intact.
    return {name: measured[name if edits.get(name) else INTACT] for name in (INTACT, *edits)}


def _condition(name: str, edits: Sequence[Edit]) -> Condition:
    scales = tuple(edit for edit in edits if isinstance(edit, Scale))
    if len(scales) != len(edits):
        raise BadInput(
            f"{name!r} patches an activation, which cannot be batched; "
            "measure it inside `with superweight.edit(model, edits):`"
        )
    return Condition(name, scales)


def _windows(model: Subject, corpus: str) -> Windows:
    return cut(model, documents(corpus), corpus)


@dataclass(frozen=True, repr=False)
class CheckedModel(Checked):
    """The verdict on every claim beside what was expected of it; shows as a table."""

    run: Mapping[str, Any]

    @property
    def as_expected(self) -> bool:
        """Whether every verdict is what was expected of it; one that could not be judged is not."""
        return all(outcome.as_expected and outcome.was_judged for outcome in self.outcomes)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdict on each claim, in their order."""
        return tuple(outcome.verdict for outcome in self.outcomes)

    def report(self, directory: str | Path) -> None:
        """Write report.json, report.html and the figures into a directory."""
        # Draws with matplotlib, which nothing else here needs.
        from superweight.report.observations import document_of
        from superweight.report.output import write_report

        document = document_of(self.evidence, self.outcomes)
        if self.base is not None:
            document["base"] = document_of(self.base)
        write_report(Path(directory), {**document, "run": self.run})

    def __repr__(self) -> str:
        lines = [
            f"{'  ' if outcome.as_expected and outcome.was_judged else '! '}{outcome.verdict!r}"
            + (f" (expected: {outcome.expected}, {outcome.source})" if outcome.expected else "")
            + (f" (not judged: it needs {outcome.verdict.unmet})" if outcome.verdict.unmet else "")
            for outcome in self.outcomes
        ]
        return "\n".join([f"verdicts on {self.evidence.subject.name}", *lines])

    def _repr_html_(self) -> str:
        rows = [
            (
                outcome.verdict.claim.id,
                outcome.verdict.status,
                f"{outcome.expected} ({outcome.source})" if outcome.expected else "",
                ("yes" if outcome.as_expected else "no") if outcome.was_judged else "not judged",
                outcome.verdict.reason,
            )
            for outcome in self.outcomes
        ]
        columns = ("claim", "verdict", "expected", "as expected", "measured")
        return html_table(f"Verdicts on {self.evidence.subject.name}", columns, rows)


def check(
    model: Subject | str,
    base: Subject | str | None = None,
    *,
    expect: str = "auto",
    corpus: str = BUILTIN,
    baselines: str | Path = DEFAULT_BASELINES,
    engine: str = RunConfig.engine,
    base_engine: str | None = None,
) -> CheckedModel:
    """Judge every claim of the paper on a model and hold the verdicts to what is expected.

    Expected is the verdict of ``base``, else the committed baseline, else what the registry cites;
    with ``expect="paper"`` what the paper says. ``engine`` "llama.cpp" runs a GGUF for predictions and text;
    ``base_engine`` says what runs the base where that is another one. Raises `BadInput` for an engine that
    cannot run the model, and `EngineFailed` where it does not.
    """
    config = RunConfig(
        corpus=corpus, baselines=Path(baselines), engine=engine, base_engine=base_engine if base else None
    )
    config, model_ref = _with_model(config, model)
    base_ref = None
    if base is not None:
        config, base_ref = _with_model(config, base)
    config.require_engines(model_ref, base_ref)
    stages = Stages()
    with noted() as notes:
        checked = run_check(CheckRequest(model_ref, base_ref, expect, config), stages)
    # Takes the versions of packages, matplotlib's among them.
    from superweight.report.run_info import run_of

    command = ["superweight", "check", str(model_ref), *(["--base", str(base_ref)] if base_ref else [])]
    command += ["--engine", engine] if engine != RunConfig.engine else []
    run = run_of(command, corpus, stages.seconds(), notes)
    return CheckedModel(checked.outcomes, checked.evidence, checked.base, run)


def compare(
    base: Subject | str,
    release: Subject | str,
    *,
    depths: Sequence[str] = DEPTHS,
    limits: Limits | None = None,
    corpus: str = BUILTIN,
    baselines: str | Path = DEFAULT_BASELINES,
    engine: str = RunConfig.engine,
    base_engine: str | None = None,
) -> Comparison:
    """Tell whether the super weights of ``base`` survived in ``release``.

    ``depths`` may leave out some of "static" (the files), "activations" and "quality". ``engine`` and
    ``base_engine`` are those of `check`.
    """
    if unknown := [depth for depth in depths if depth not in DEPTHS]:
        raise BadInput(f"depth {unknown[0]!r} is none of {', '.join(DEPTHS)}")
    config = RunConfig(corpus=corpus, baselines=Path(baselines), engine=engine, base_engine=base_engine)
    config, base_ref = _with_model(config, base)
    config, release_ref = _with_model(config, release)
    return compare_models(CompareRequest(base_ref, release_ref, tuple(depths), limits or Limits(), config))


def repair(
    base: str,
    release: str,
    out: str | Path,
    *,
    at: Sequence[str] = (),
    depths: Sequence[str] = DEPTHS,
    limits: Limits | None = None,
    gguf_type: str = "F16",
    baselines: str | Path = DEFAULT_BASELINES,
) -> Repair:
    """Write a copy of ``release`` to the new folder ``out``, with the base's super weights put back.

    ``at`` names scalars, "LAYER,ROW,COL", that are put back whatever `compare` says of them. The copy is
    compared with ``base`` at the end. Raises `BadInput`, and writes nothing, where that cannot be done.
    """
    config = RunConfig(baselines=Path(baselines))
    request = CompareRequest(
        parse_model(base), parse_model(release), tuple(depths), limits or Limits(), config
    )
    places = tuple(parse_place(place) for place in at)
    return repair_release(RepairRequest(request, Path(out), places, gguf_type))


def protect(model: str, tool: str, *, baselines: str | Path = DEFAULT_BASELINES) -> Protection:
    """Return what a quantiser must be told so that a model's super weights survive, and what that costs.

    >>> print(protect("tiny-planted", "auto-awq").recipe.settings)
    {'ignore': ['lm_head', 'model.layers.1.mlp.down_proj'], 'duo_scaling': False}

    Raises `BadInput` for a tool of which no recipe is known.
    """
    return protect_model(parse_model(model), recipe_of(tool), RunConfig(baselines=Path(baselines)))


def card(report: str | Path, update: str | Path | None = None) -> str:
    """Return the block of a model card that a report.json gives; ``update`` is a README that it is put in.

    Raises `BadInput` for a file that is no report, and a README without the marks.
    """
    # Reads the schema of reports, and the hub's metadata.
    from superweight.report.card import updated_card, whole_card
    from superweight.report.document import read_document

    document = read_document(Path(report))
    if update is None:
        return whole_card(document)
    text = updated_card(Path(update), document)
    write_whole({Path(update).resolve(): text.encode()})
    return text


def _with_model(config: RunConfig, model: Subject | str) -> tuple[RunConfig, ModelRef]:
    """Return the reference to a model, and a configuration that finds it in memory where it is there."""
    if isinstance(model, str):
        return config, parse_model(model)
    return replace(config, loaded=(*config.loaded, model)), ModelRef.of(model.entry, named_by_user=True)
