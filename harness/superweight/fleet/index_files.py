"""Make what else is written of an index: Parquet for data, JUnit for CI, Markdown, and the page."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

from superweight.core.errors import BadInput
from superweight.core.markdown import cell, table
from superweight.core.readable import times, titled
from superweight.fleet.index_page import page
from superweight.fleet.row import AS_EXPECTED, CANNOT_JUDGE, NOT_AS_EXPECTED, STATUSES, Row, decoded

PAGE, PARQUET, JUNIT, MARKDOWN = "index.html", "index.parquet", "junit.xml", "summary.md"
# A job summary on GitHub holds 1 MB, and nobody reads that.
_MARKDOWN_ROWS = 200
# What XML 1.0 has no way to write.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def index_files(rows: Sequence[bytes], *, complete: bool) -> dict[str, bytes]:
    """Return every file of an index but index.json, given its rows as JSON in their order."""
    return {
        PARQUET: parquet(decoded(data) for data in rows),
        JUNIT: junit(decoded(data) for data in rows),
        MARKDOWN: markdown(
            [decoded(data) for data in rows[:_MARKDOWN_ROWS]], _counts(rows), complete=complete
        ).encode(),
        PAGE: page(rows, _counts(rows), complete=complete).encode(),
    }


def _counts(rows: Iterable[bytes]) -> Counter[str]:
    return Counter(decoded(data).status for data in rows)


def parquet(rows: Iterable[Row], at_once: int = 1000) -> bytes:
    """Return the rows as Parquet: one line a model, places and claims as lists and maps."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as arrow_parquet
    except ImportError as error:
        raise BadInput("index.parquet needs pyarrow: pip install 'superweight-harness[fleet]'") from error
    text, number, whole = arrow.string(), arrow.float64(), arrow.int64()
    columns = {
        **dict.fromkeys(("id", "model", "mode", "status", "reason", "base", "verdict", "expected_by"), text),
        **dict.fromkeys(("key", "weights", "version", "finished", "source", "revision"), text),
        **dict.fromkeys(("architecture", "dtype", "corpus", "report", "carries"), text),
        **dict.fromkeys(("seconds", "magnitude", "ratio", "ratio_low", "ratio_high"), number),
        **dict.fromkeys(("parameters", "blocks", "neurons", "channel", "token", "onset", "last"), whole),
        "super_weights": arrow.list_(arrow.struct({"at": text, "value": number})),
        "claims": arrow.map_(text, text),
        "unexpected": arrow.list_(text),
        "changed": arrow.list_(text),
    }
    target, named = io.BytesIO(), arrow.schema(list(columns.items()))
    with arrow_parquet.ParquetWriter(target, named) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(_flat(row))
            if len(batch) == at_once:
                writer.write_table(arrow.Table.from_pylist(batch, schema=named))
                batch = []
        writer.write_table(arrow.Table.from_pylist(batch, schema=named))
    return target.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    activation, carried = row.activation, row.carried
    flat = {
        name: getattr(row, name) for name in Row.__dataclass_fields__ if name not in ("activation", "carried")
    }
    flat |= {
        "super_weights": [{"at": place.at, "value": place.value} for place in row.super_weights],
        "claims": list(row.claims.items()),
        "unexpected": list(row.unexpected),
        "changed": list(row.changed),
    }
    if activation is not None:
        flat |= {
            name: getattr(activation, name) for name in ("channel", "token", "onset", "last", "magnitude")
        }
    if carried is not None:
        ends = {"ratio": carried.ratio, "ratio_low": carried.low, "ratio_high": carried.high}
        flat |= ends | {"carries": carried.words}
    return flat


def junit(rows: Iterable[Row]) -> bytes:
    """Return JUnit XML, a test case a model: a crash is an error, what was not judged is skipped."""
    suite = ElementTree.Element("testsuite", name="superweight fleet")
    numbers = Counter(dict.fromkeys(("tests", "failures", "errors", "skipped"), 0))
    seconds = 0.0
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"fleet.{row.mode}", name=_text(row.model), time=f"{row.seconds:.3f}"
        )
        numbers["tests"] += 1
        seconds += row.seconds
        kind = {NOT_AS_EXPECTED: "failure", CANNOT_JUDGE: "skipped", AS_EXPECTED: None}.get(
            row.status, "error"
        )
        if kind is not None:
            numbers[{"failure": "failures", "error": "errors"}.get(kind, kind)] += 1
            said = ElementTree.SubElement(case, kind, message=_text(f"{row.status}: {row.reason}"))
            said.text = _text("\n".join((*row.unexpected, *row.changed))) or None
    for name, value in numbers.items():
        suite.set(name, str(value))
    suite.set("time", f"{seconds:.3f}")
    written: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return written


def _text(text: str) -> str:
    return _NO_XML.sub("�", text)


def markdown(rows: Sequence[Row], counts: Counter[str], *, complete: bool) -> str:
    """Return the index for a job summary: how many of each status, then a table, what changed first."""
    said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    total = sum(counts.values())
    lines = [
        f"### Super weights of {total} models",
        "",
        f"{said}." + ("" if complete else " The run did not end."),
        "",
    ]
    cells = [
        (
            f"`{cell(titled(row.model))}`",
            row.status,
            len(row.super_weights),
            times(row.carried.ratio) if row.carried else "",
            cell("; ".join(row.changed)),
            cell(row.reason[:200]),
        )
        for row in rows
    ]
    lines += table(("model", "status", "super weights", "perplexity without them", "changed", "why"), cells)
    if len(rows) < total:
        lines += ["", f"{total - len(rows)} more are in the index."]
    return "\n".join(lines) + "\n"
