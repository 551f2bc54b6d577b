"""What a pytest run says of the verdicts: in its header, in its summary, and in the report."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

# Under this name a test hands over its verdict, which xdist carries to the controller.
PROPERTY = "superweight"


class Verdicts:
    """Gathers the verdicts of all workers for the summary and the report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows: dict[str, list[dict[str, Any]]] = defaultdict(list)

    @pytest.hookimpl
    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        callspecs = [getattr(item, "callspec", None) for item in items]
        entries = [spec.params["sw_entry"] for spec in callspecs if spec and "sw_entry" in spec.params]
        names = list(dict.fromkeys(entry.name for entry in entries))
        option = self._config.option
        if not names and option.sw_model:
            return [
                "super weights: no collected test looks at --sw-model; "
                "--pyargs harness.suite collects the claims that ship with the harness"
            ]
        if not names:
            return []
        expected = f"the base {option.sw_base}" if option.sw_base else option.sw_expect
        return [
            f"super weights: {', '.join(names)}",
            f"super weights: device {option.sw_device}, dtype {option.sw_dtype}, corpus {option.sw_corpus}",
            f"super weights: expectations {expected}, baselines {option.sw_baselines or 'beside the tests'}",
        ]

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == PROPERTY:
                    row = json.loads(str(value))
                    self._rows[row["model"]].append(row)

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._rows:
            return
        terminalreporter.section("super weights")
        for model, rows in self._rows.items():
            terminalreporter.write_line(model)
            for row in rows:
                expected = f"{row['expected']}, {row['expected_by']}" if row["expected"] else "nothing"
                mark = "  " if row["as_expected"] else "! "
                terminalreporter.write_line(
                    f"  {mark}{row['claim']:<4}{row['status']:<15} (expected: {expected})  {row['reason']}"
                )
            if all(row["expected"] is None for row in rows):
                terminalreporter.write_line(
                    "  met for the first time: nothing was compared. "
                    "--snapshot-update keeps this as its baseline."
                )

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        # Workers hand their verdicts to the controller, which writes for all of them.
        if not self._rows or hasattr(self._config, "workerinput"):
            return
        if self._config.option.sw_summary is not None:
            with self._config.option.sw_summary.open("a", encoding="utf-8") as file:
                file.write(markdown(self._rows))
        if self._config.option.sw_report is not None:
            self._write_reports(self._config.option.sw_report)

    def _write_reports(self, directory: Path) -> None:
        from harness.report import write_report

        for model, rows in self._rows.items():
            where = directory if len(self._rows) == 1 else directory / model.replace("/", "--")
            provenance = rows[0]["provenance"]
            kept = [{k: v for k, v in row.items() if k not in ("model", "provenance")} for row in rows]
            write_report(where, model, provenance, kept)


def markdown(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the verdicts of each model as a Markdown table under its name."""
    parts = []
    for model, verdicts in rows.items():
        parts += [f"### {model}", "", "| | claim | verdict | expected | measured |", "|---|---|---|---|---|"]
        for row in verdicts:
            expected = f"{row['expected']} ({row['expected_by']})" if row["expected"] else "nothing"
            cells = (
                "" if row["as_expected"] else "**!**",
                row["claim"],
                row["status"],
                expected,
                row["reason"].replace("|", r"\|"),
            )
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts) + "\n"
