"""Write the verdicts of a pytest run to its header, its summary, and the report."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from superweight.core.markdown import cell, table
from superweight.core.run_notes import noted

# Under this name a test hands over its verdict, which xdist carries to the controller.
PROPERTY = "superweight"
# And under this one that it used a model at all.
USED = "superweight-model"
# And under this one, before anything of it is loaded, which model a test is about.
ABOUT = "superweight-about"
# And under this one a worker hands over its notes.
NOTES = "superweight-notes"
# Stands where it is said who expected a verdict: nobody did, it has just been kept as the baseline.
UPDATE = "update"
# What each model of this process showed, for the report: "observed" and "base" of its document.
OBSERVED = pytest.StashKey[dict[str, dict[str, Any]]]()


class Verdicts:
    """Gathers the verdicts of all workers for the summary and the report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._observed: dict[str, dict[str, Any]] = {}
        self._stages: list[dict[str, Any]] = []
        self._used: set[str] = set()
        # Why no claim was judged, by model.
        self._unjudged: dict[str, str] = {}
        self._undo = ExitStack()
        self._notes = self._undo.enter_context(noted())

    def pytest_unconfigure(self) -> None:
        self._undo.close()

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        callspecs = [getattr(item, "callspec", None) for item in items]
        entries = [spec.params["sw_entry"] for spec in callspecs if spec and "sw_entry" in spec.params]
        names = list(dict.fromkeys(entry.name for entry in entries))
        option = self._config.option
        if not names and option.sw_model:
            return [
                "super weights: no collected test looks at --sw-model; "
                "--pyargs superweight.suite collects the claims that ship with the harness"
            ]
        if not names:
            return []
        expected = f"the base {option.sw_base}" if option.sw_base else option.sw_expect
        return [
            f"super weights: {', '.join(names)}",
            f"super weights: device {option.sw_device}, dtype {option.sw_dtype}, corpus {option.sw_corpus}",
            f"super weights: expectations {expected}, baselines {option.sw_baselines or 'beside the tests'}",
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about = next((str(value) for name, value in report.user_properties if name == ABOUT), None)
        if report.when == "setup" and report.failed and about is not None:
            self._used.add(about)
            said = report.longreprtext.strip().splitlines() or ["its setup failed"]
            self._unjudged.setdefault(about, said[0])
        if report.when == "call":
            self._used |= {str(value) for name, value in report.user_properties if name == USED}
            for name, value in report.user_properties:
                if name == PROPERTY:
                    row = json.loads(str(value))
                    self._rows[row["model"]].append(row)
                    self._stages.append({"stage": report.nodeid, "seconds": round(report.duration, 3)})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._idle:
            terminalreporter.section("super weights")
            named = ", ".join(self._config.option.sw_model)
            terminalreporter.write_line(f"no test ran on {named}: nothing was judged", red=True)
        if not self._rows and not self._unjudged:
            return
        terminalreporter.section("super weights")
        for model, reason in self._unjudged.items():
            terminalreporter.write_line(f"{model}: not judged: {reason}", red=True)
        for note in self._notes:
            terminalreporter.write_line(f"note: {note}")
        for model, rows in self._rows.items():
            terminalreporter.write_line(model)
            for row in rows:
                mark = "  " if row["as_expected"] else "! "
                terminalreporter.write_line(
                    f"  {mark}{row['claim']:<4}{row['status']:<15} (expected: {_expected(row)})  "
                    f"{row['reason']}"
                )
            kept = sum(row["expected_by"] == UPDATE for row in rows)
            if kept:
                terminalreporter.write_line(
                    f"  {kept} of {len(rows)} kept as new baselines by --snapshot-update: nothing was "
                    "compared there. Look at the difference before you commit it."
                )
            if all(row["expected_by"] is None for row in rows):
                terminalreporter.write_line(
                    "  met for the first time: nothing was compared. "
                    "--snapshot-update keeps this as its baseline."
                )

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of xdist has observed; a worker that crashed has nothing to hand over."""
        handed = getattr(node, "workeroutput", {})
        self._take(handed.get(PROPERTY))
        self._notes.extend(note for note in handed.get(NOTES, ()) if note not in self._notes)

    def _take(self, observed: str | None) -> None:
        if observed is not None:
            for model, document in json.loads(observed).items():
                self._observed.setdefault(model, document)

    @property
    def _idle(self) -> bool:
        """Whether models were named and no test used any: green, such a run would vouch for nothing."""
        option = self._config.option
        return bool(option.sw_model) and not option.collectonly and not self._used

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        observed = json.dumps(self._config.stash.get(OBSERVED, {}))
        # Workers hand what they know to the controller, which writes for all of them.
        if hasattr(self._config, "workerinput"):
            # xdist puts it there.
            vars(self._config)["workeroutput"].update({PROPERTY: observed, NOTES: self._notes})
            return
        if self._idle and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        self._take(observed)
        if not self._rows and not self._unjudged:
            return
        if self._config.option.sw_summary is not None:
            with self._config.option.sw_summary.open("a", encoding="utf-8") as file:
                file.write(markdown(self._rows) + unjudged_lines(self._unjudged))
        if self._rows and self._config.option.sw_report is not None:
            self._write_report(self._config.option.sw_report)

    def _write_report(self, directory: Path) -> None:
        from superweight.report.document import of_model, of_models
        from superweight.report.output import write_report
        from superweight.report.run_info import run_of

        documents = []
        for model, rows in self._rows.items():
            kept = [{k: v for k, v in row.items() if k not in ("model", "provenance")} for row in rows]
            documents.append(of_model(model, rows[0]["provenance"], kept, **self._observed.get(model, {})))
        invocation = self._config.invocation_params
        command = ["pytest", *map(str, invocation.args)]
        run = run_of(command, self._config.option.sw_corpus, self._stages, self._notes)
        write_report(directory, of_models(documents, run))


def _expected(row: Mapping[str, Any]) -> str:
    """Say what was expected of a verdict, and by whom."""
    if row["expected_by"] == UPDATE:
        return "nothing, update"
    return f"{row['expected']}, {row['expected_by']}" if row["expected"] else "nothing"


def markdown(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the verdicts of each model as a Markdown table under its name."""
    parts = []
    for model, verdicts in rows.items():
        cells = [
            (
                "" if row["as_expected"] else "**!**",
                row["claim"],
                row["status"],
                _expected(row),
                cell(row["reason"]),
            )
            for row in verdicts
        ]
        columns = ("", "claim", "verdict", "expected", "measured")
        parts += [f"### {model}", "", *table(columns, cells), ""]
    return "\n".join(parts) + "\n"


def unjudged_lines(reasons: Mapping[str, str]) -> str:
    """Return why models were not judged, a Markdown list with an item each; nothing where all were."""
    return "".join(f"- **{model}** was not judged: {reason}\n" for model, reason in reasons.items())
