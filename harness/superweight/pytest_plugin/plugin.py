"""Hooks and fixtures of the pytest plugin; the modules beside this one do the work.

`pytest_superweight`, the entry point, registers this module. It imports neither torch nor
transformers before a test asks for a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from superweight.checkpoints.model_ref import ModelRef
from superweight.checkpoints.registry import ModelEntry, shipped_registry
from superweight.core.environment import in_ci
from superweight.core.errors import BadInput, BrokenModel, EngineFailed, one_line
from superweight.pytest_plugin import collection, groups, models, xdist
from superweight.pytest_plugin.models import acquire, release
from superweight.pytest_plugin.terminal import ABOUT, PROPERTY, USED, Verdicts

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence
    from superweight.claims.properties.search import Budget
    from superweight.claims.verdict import Verdict
    from superweight.detection.scan import Scan
    from superweight.model.subject import Subject
    from superweight.release import Comparison

_MARKERS = (
    "gpu: needs CUDA; run them with -m gpu",
    "slow: takes minutes",
    "checkpoint: needs real weights, downloaded once and cached",
)

Judge = Callable[["Evidence"], "Verdict"]


def pytest_configure(config: pytest.Config) -> None:
    xdist.prepare(config)
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(Verdicts(config), "superweight-verdicts")
    config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic implementation")
    if not config.pluginmanager.hasplugin("xdist"):
        config.addinivalue_line("markers", "xdist_group(name): ignored, as xdist is not at work")
    models.parse_models(config)  # a name that cannot be right is refused before anything is collected
    config.args = collection.arguments(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell xdist's workers which GPUs are theirs, and where their groups are looked for."""
    xdist.tell(node)
    groups.tell(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a model on one worker under ``--dist loadgroup``."""
    return groups.scheduler(config, log)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return xdist.header(config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say which model a test is about; skip what is marked gpu where there is no CUDA.

    Asking for it by ``-m gpu`` is an error already.
    """
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "sw_entry" in callspec.params:
        item.user_properties.append((ABOUT, callspec.params["sw_entry"].name))
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA, and torch sees no such device here")


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """Let the shipped claims be tests in a project that calls its own tests otherwise."""
    collection.mark_as_tests(collector, name, obj)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sw_entry" in metafunc.fixturenames:
        metafunc.parametrize("sw_entry", _parameters(metafunc.config), indirect=True, scope="session")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Leave out the comparison with a base where none is given: there is nothing to compare.

    Whatever order others then choose, one model's tests stay together, so that it is loaded once.
    """
    xdist.keep_together(items)  # before xdist looks at the groups
    if not models.named_models(config):  # a real model is searched where somebody names it, and in long runs
        for item in items:
            if xdist.searches(item) and item.get_closest_marker("checkpoint") is not None:
                item.add_marker(pytest.mark.slow)
    if config.option.sw_base is None:
        items[:] = [item for item in items if "comparison" not in getattr(item, "fixturenames", ())]
    yield
    xdist.by_model(items)
    groups.hand_over(config, items)


def _parameters(config: pytest.Config) -> list[Any]:
    """Return the selected entries; what is not selected does not even show as deselected."""
    gpu = xdist.asks_for_gpu(config)
    named = [ref.entry for ref in models.named_models(config)]
    entries = named or [entry for entry in shipped_registry().values() if gpu or entry.tier != "gpu"]
    return [pytest.param(entry, id=entry.name, marks=_marks(config, entry, on_gpu=gpu)) for entry in entries]


def _marks(config: pytest.Config, entry: ModelEntry, *, on_gpu: bool) -> list[pytest.MarkDecorator]:
    # One worker loads a model once, under xdist's --dist loadgroup.
    marks = [pytest.mark.xdist_group(xdist.group(config, entry.name, on_gpu=on_gpu))]
    if entry.tier != "hermetic":
        marks.append(pytest.mark.checkpoint)
    if entry.tier == "gpu" or on_gpu:
        marks += [pytest.mark.gpu, pytest.mark.slow]
    return marks


@pytest.fixture(scope="session")
def sw_entry(request: pytest.FixtureRequest) -> ModelEntry:
    """Return the registry entry, or the ad-hoc one, of the model under test."""
    entry: ModelEntry = request.param
    return entry


@pytest.fixture(scope="session")
def tuned_from_scan(sw_entry: ModelEntry, pytestconfig: pytest.Config) -> Scan | None:
    """Scan the model that the one under test was tuned from, if the registry names it.

    It is scanned and gone before the other is loaded: there may be room for one only.
    """
    if sw_entry.tuned_from is None or pytestconfig.option.sw_base is not None:
        return None
    from superweight.claims.check import scan_of_origin

    return scan_of_origin(
        models.ref_of(pytestconfig, sw_entry),
        lambda origin: acquire(pytestconfig, origin),
        lambda origin: release(pytestconfig, origin),
    )


@pytest.fixture(scope="session")
def subject(
    sw_entry: ModelEntry, tuned_from_scan: Scan | None, pytestconfig: pytest.Config
) -> Iterator[Subject]:
    """Load the model under test; a test that leaves it changed fails. It is released at the end."""
    loaded = acquire(pytestconfig, models.ref_of(pytestconfig, sw_entry))
    yield loaded
    release(pytestconfig, loaded)


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold every test that uses the model under test to leaving it as it was."""
    if "subject" not in request.fixturenames:
        yield
        return
    from superweight.pytest_plugin.isolation import attached, leftover

    subject: Subject = request.getfixturevalue("subject")
    request.node.user_properties.append((USED, subject.name))
    before = attached(subject)
    yield
    measured = request.getfixturevalue("evidence") if "evidence" in request.fixturenames else None
    found = measured.peek("scan") if measured is not None else None
    fault = leftover(subject, before, found)
    if fault is not None:
        pytest.fail(f"{fault}; what is measured from here on does not count", pytrace=False)


@pytest.fixture(scope="session")
def base_evidence(pytestconfig: pytest.Config) -> Evidence | None:
    """Measure the base model, if one is given."""
    from superweight.claims.catalogue import SEQUENTIAL
    from superweight.claims.evidence import Evidence

    base = models.base_model(pytestconfig)
    if base is None:
        return None
    loader = models.engine_loader(pytestconfig, base)
    return Evidence(
        acquire(pytestconfig, base), pytestconfig.option.sw_corpus, load_engine=loader, tests=SEQUENTIAL
    )


@pytest.fixture(scope="session")
def evidence(
    subject: Subject,
    tuned_from_scan: Scan | None,
    base_evidence: Evidence | None,
    pytestconfig: pytest.Config,
) -> Iterator[Evidence]:
    """Measure everything that the claims need of the model under test, once."""
    from superweight.claims.check import evidence_of
    from superweight.pytest_plugin.verdicts import observe

    try:
        base = base_evidence.scan if base_evidence is not None else tuned_from_scan
        loader = models.engine_loader(pytestconfig, subject)
        measured = evidence_of(subject, pytestconfig.option.sw_corpus, base, loader)
    except EngineFailed as error:
        raise models.not_judged(subject.name, error) from None
    except BadInput as error:
        pytest.exit(f"error: {one_line(error)}", returncode=pytest.ExitCode.USAGE_ERROR)
    try:
        _ = measured.scan
    except BrokenModel:
        pass  # damage that was seen: every claim fails with it
    except BadInput as error:
        raise models.not_judged(subject.name, error) from None
    if pytestconfig.option.sw_budget is not None and measured.peek("scan") is not None:
        from superweight.claims.budget import Budget
        from superweight.claims.plan import plan_of

        measured.budget = Budget(pytestconfig.option.sw_budget, plan_of(measured))
    yield measured
    if pytestconfig.option.sw_report is not None:
        observe(pytestconfig, measured, base_evidence)
    measured.free()


@pytest.fixture
def as_expected(
    request: pytest.FixtureRequest,
    evidence: Evidence,
    base_evidence: Evidence | None,
) -> Callable[[Judge], None]:
    """Judge a claim and fail unless the verdict is the expected one; see docs/claims.md."""
    from superweight.claims.expectations import explain
    from superweight.pytest_plugin.verdicts import judged
    from superweight.report.document import statistics, verdict_row

    def check(judge: Judge) -> None:
        try:
            outcome = judged(request, evidence, base_evidence, judge)
        except BrokenModel as error:
            raise models.damaged(evidence.subject.name, error) from None
        except EngineFailed as error:
            raise models.not_judged(evidence.subject.name, error) from None
        if not outcome.was_judged:
            verdict = outcome.verdict
            said = f"{verdict.claim.id} on {evidence.subject.name}: {verdict.reason}"
            if outcome.expected is not None:
                pytest.fail(f"cannot be judged here: {said}; it needs {verdict.unmet}", pytrace=False)
            # A gate that was not passed is none.
            pytest.fail(said, pytrace=False) if in_ci() else pytest.skip(said)
        row = {"model": evidence.subject.name, "provenance": evidence.subject.provenance.as_dict()}
        # Not through record_property, which warns under the default family of --junitxml.
        request.node.user_properties.append((PROPERTY, json.dumps(row | verdict_row(outcome))))
        request.node.user_properties.extend(statistics(outcome.verdict))
        if not outcome.as_expected:
            pytest.fail(explain(evidence.subject.name, outcome), pytrace=False)

    return check


@pytest.fixture(scope="session")
def sw_budget(pytestconfig: pytest.Config) -> Budget:
    """Return how many examples each property is tried on, and where those that failed are kept."""
    from superweight.pytest_plugin.examples import budget

    return budget(pytestconfig)


@pytest.fixture
def comparison(
    request: pytest.FixtureRequest, sw_entry: ModelEntry, evidence: Evidence, base_evidence: Evidence
) -> Comparison:
    """Compare the model under test with its base, at every depth; see docs/compare.md."""
    from superweight.claims.run_config import RunConfig
    from superweight.release.compare import CompareRequest, compare_loaded
    from superweight.release.limits import read_limits
    from superweight.release.result import CANNOT_JUDGE

    settings = request.config.rootpath / "pyproject.toml"
    asked = CompareRequest(
        base=ModelRef.of(base_evidence.subject.entry, named_by_user=True),
        release=ModelRef.of(evidence.subject.entry, named_by_user=True),
        limits=read_limits(settings if settings.is_file() else None),
        run_config=RunConfig(
            baselines=collection.baselines(request), trust=tuple(request.config.option.sw_trust)
        ),
    )
    try:
        compared = compare_loaded(asked, base_evidence, evidence)
    except BadInput as error:
        raise models.not_judged(sw_entry.name, error) from None
    if compared.verdict == CANNOT_JUDGE:
        pytest.fail(f"{compared.headline}: {'; '.join(compared.reasons)}", pytrace=False)
    return compared
