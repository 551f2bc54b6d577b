"""The pytest plugin: options, markers and fixtures; `harness.summary` has the header and the summary.

Nothing heavy is imported here: a project that does not use the harness pays nothing for it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import BadInput, one_line
from harness.registry import ModelEntry, load_registry, resolve
from harness.summary import PROPERTY, Verdicts

if TYPE_CHECKING:
    from harness.claims.verdict import Verdict
    from harness.evidence import Evidence
    from harness.loading import Subject
    from harness.release import Comparison

_MARKERS = (
    "gpu: needs CUDA; run them with -m gpu",
    "slow: takes minutes",
    "checkpoint: needs real weights, downloaded once and cached",
)

Judge = Callable[["Evidence"], "Verdict"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("superweight", "super weights of language models")
    group.addoption(
        "--sw-model",
        action="append",
        default=[],
        metavar="MODEL",
        help="Model to test: a registry name, NAME=PATH, org/name[@revision], a directory or a .gguf "
        "file. Repeatable. Default: every registry model that the run's markers select.",
    )
    group.addoption(
        "--sw-base",
        metavar="MODEL",
        help="Base model whose verdicts the tested models must reproduce. Default: none.",
    )
    group.addoption(
        "--sw-expect",
        default="auto",
        choices=("auto", "paper"),
        help="What to expect: auto (the base, else the baseline, else the registry) or paper. "
        "Default: %(default)s.",
    )
    group.addoption(
        "--sw-device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="Where to run: auto is cuda where there is one. Default: %(default)s.",
    )
    group.addoption(
        "--sw-dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="Precision: auto is float32 on a CPU and the checkpoint's own on cuda. Default: %(default)s.",
    )
    group.addoption(
        "--sw-corpus",
        default="builtin",
        metavar="CORPUS",
        help="Text to measure on: builtin, wikitext2, a text file or a directory of them. "
        "Default: %(default)s.",
    )
    group.addoption(
        "--sw-report",
        type=Path,
        metavar="DIR",
        help="Write report.json and report.html there, one folder a model if there are several. "
        "Default: no report.",
    )
    group.addoption(
        "--sw-baselines",
        type=Path,
        metavar="DIR",
        help="Where baselines are kept. Default: the folder 'baselines' beside the test file.",
    )
    group.addoption(
        "--sw-trust",
        action="append",
        default=[],
        choices=("pickle", "remote-code"),
        help="Accept pickled weights, or code that a checkpoint brings. Repeatable. Default: neither.",
    )


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(Verdicts(config), "superweight-verdicts")
    _entries(config)  # a name that cannot be right is refused before anything is collected
    if _asks_for_gpu(config) and not config.option.collectonly:
        _require_cuda()


def _asks_for_gpu(config: pytest.Config) -> bool:
    return re.search(r"(?<!not )\bgpu\b", config.option.markexpr or "") is not None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked gpu where there is no CUDA; asking for it by ``-m gpu`` is an error already."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA, and torch sees no such device here")


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError("-m gpu asks for tests on a GPU, but torch sees no CUDA device here")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sw_entry" in metafunc.fixturenames:
        metafunc.parametrize("sw_entry", _parameters(metafunc.config), indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the comparison with a base where none is given: there is nothing to compare."""
    if config.option.sw_base is None:
        items[:] = [item for item in items if "comparison" not in getattr(item, "fixturenames", ())]


def _parameters(config: pytest.Config) -> list[Any]:
    """Return the selected entries; what is not selected does not even show as deselected."""
    gpu = _asks_for_gpu(config)
    named = _entries(config)
    entries = named or [entry for entry in load_registry().values() if gpu or entry.tier != "gpu"]
    return [pytest.param(entry, id=entry.name, marks=_marks(entry, bool(named) and gpu)) for entry in entries]


def _entries(config: pytest.Config) -> list[ModelEntry]:
    try:
        return [resolve(spec) for spec in config.option.sw_model]
    except BadInput as error:
        raise pytest.UsageError(one_line(error)) from error


def _marks(entry: ModelEntry, on_gpu: bool) -> list[pytest.MarkDecorator]:
    # One worker loads a model once, under xdist's --dist loadgroup.
    marks = [pytest.mark.xdist_group(entry.name)]
    if entry.tier != "hermetic":
        marks.append(pytest.mark.checkpoint)
    if entry.tier == "gpu" or on_gpu:
        marks += [pytest.mark.gpu, pytest.mark.slow]
    return marks


@pytest.fixture(scope="session")
def sw_entry(request: pytest.FixtureRequest) -> ModelEntry:
    """The registry entry, or the ad-hoc one, of the model under test."""
    entry: ModelEntry = request.param
    return entry


def _share_cores() -> None:
    """Divide the cores among xdist's workers: more threads than cores wait for each other."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def _load(config: pytest.Config, entry: ModelEntry) -> Subject:
    from harness.loading import load

    option = config.option
    _share_cores()
    try:
        return load(entry, device=option.sw_device, dtype=option.sw_dtype, trust=option.sw_trust)
    except BadInput as error:
        # The whole run was asked for something that is not there: exit code 4, like a bad option.
        pytest.exit(f"error: {one_line(error)}", returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def subject(sw_entry: ModelEntry, pytestconfig: pytest.Config) -> Iterator[Subject]:
    """The loaded model under test; leaving it edited is an error."""
    from harness.editing import active_edits

    loaded = _load(pytestconfig, sw_entry)
    yield loaded
    assert not active_edits(loaded), f"edits were left on {loaded.name}: {active_edits(loaded)}"


@pytest.fixture(scope="session")
def base_evidence(pytestconfig: pytest.Config) -> Evidence | None:
    """What is measured of the base model, if one is given."""
    from harness.evidence import Evidence

    spec = pytestconfig.option.sw_base
    if spec is None:
        return None
    return Evidence(_load(pytestconfig, resolve(spec)), pytestconfig.option.sw_corpus)


@pytest.fixture(scope="session")
def evidence(
    subject: Subject, sw_entry: ModelEntry, base_evidence: Evidence | None, pytestconfig: pytest.Config
) -> Evidence:
    """Everything the claims need to know about the model under test, measured once."""
    from harness.corpus import default_prompt
    from harness.evidence import Evidence
    from harness.scanning import scan

    base = base_evidence.scan if base_evidence is not None else None
    if base is None and sw_entry.tuned_from is not None:
        base = scan(_load(pytestconfig, resolve(sw_entry.tuned_from)), default_prompt())
    try:
        measured = Evidence(subject, pytestconfig.option.sw_corpus, base)
        _ = measured.windows  # a corpus that cannot be used is refused before anything is measured
    except BadInput as error:
        pytest.exit(f"error: {one_line(error)}", returncode=pytest.ExitCode.USAGE_ERROR)
    return measured


@pytest.fixture
def as_expected(
    request: pytest.FixtureRequest,
    evidence: Evidence,
    base_evidence: Evidence | None,
) -> Callable[[Judge], None]:
    """Judge a claim and fail unless the verdict is the expected one; see docs/claims.md."""
    from harness.expectations import explain
    from harness.report import verdict_row

    def check(judge: Judge) -> None:
        outcome = _outcome(request, evidence, base_evidence, judge)
        row = {"model": evidence.subject.name, "provenance": evidence.subject.provenance.as_dict()}
        # Not through record_property, which warns under the default family of --junitxml.
        request.node.user_properties.append((PROPERTY, json.dumps(row | verdict_row(outcome))))
        if not outcome.as_expected:
            pytest.fail(explain(evidence.subject.name, outcome), pytrace=False)

    return check


@pytest.fixture
def comparison(
    request: pytest.FixtureRequest, sw_entry: ModelEntry, evidence: Evidence, base_evidence: Evidence
) -> Comparison:
    """The model under test against its base, at every depth; see docs/compare.md."""
    from harness.release.comparing import Request, compare_loaded
    from harness.release.limits import read_limits

    option, settings = request.config.option, request.config.rootpath / "pyproject.toml"
    asked = Request(
        base=option.sw_base,
        release=_spec(request.config, sw_entry),
        limits=read_limits(settings if settings.is_file() else None),
        baselines=option.sw_baselines or request.path.parent / "baselines",
    )
    return compare_loaded(asked, base_evidence, evidence)


def _spec(config: pytest.Config, entry: ModelEntry) -> str:
    """Return what was typed for an entry; a registry name stands for itself."""
    return next((spec for spec in config.option.sw_model if resolve(spec) == entry), entry.name)


def _outcome(
    request: pytest.FixtureRequest, evidence: Evidence, base_evidence: Evidence | None, judge: Judge
) -> Any:
    from harness import baselines, expectations
    from harness.snapshots import bound_to

    config, subject = request.config, evidence.subject
    verdict = judge(evidence)
    if config.option.sw_expect == expectations.PAPER:
        return expectations.hold_to_paper(verdict)
    if base_evidence is not None:
        return expectations.hold_to_base(verdict, judge(base_evidence))
    root = config.option.sw_baselines or request.path.parent / "baselines"
    provenance = subject.provenance
    path = baselines.baseline_path(root, subject.name, provenance.device, provenance.dtype, verdict.claim.id)
    recorded = baselines.record(subject.name, verdict, provenance.as_dict())
    stored = baselines.read(path)
    if stored is None and not config.option.update_snapshots:
        outcome = expectations.hold_to_registry(verdict, subject.entry)
        if expectations.in_ci() and outcome.as_expected:
            gap = f"CI is set, and there is no baseline {path.name} for {path.parent.name}"
            return replace(outcome, source=None, gaps=(gap,))
        return outcome
    snapshot = request.getfixturevalue("snapshot").use_extension(bound_to(path))
    if snapshot == recorded:
        return expectations.Outcome(verdict, verdict.status, "baseline")
    outcome = expectations.hold_to_baseline(verdict, recorded, stored or {})
    # syrupy has the last word: a mismatch that the comparison below cannot name is still one.
    return outcome if outcome.gaps else replace(outcome, gaps=("the baseline does not match",))
