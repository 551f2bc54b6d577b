"""Search the hub for models: of an organisation, newer than a date, not larger than a size."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from superweight.core.duration import parse_duration
from superweight.core.errors import BadInput, Unavailable
from superweight.core.reason import reason
from superweight.core.size import parse_size
from superweight.fleet.fleet_file import SearchTable
from superweight.fleet.needs import Size

# What the hub calls models that continue a text.
_TASK = "text-generation"
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}


def found(table: SearchTable) -> Iterator[tuple[str, Size]]:
    """Yield the models of one search, the most recently changed first, with their sizes.

    Models without safetensors are left out, and those whose size is not known where a size is asked for.
    Raises `Unavailable` where the hub cannot be asked.
    """
    from huggingface_hub import HfApi

    if not (table.org or table.search or table.tags):
        raise BadInput("a [[search]] names neither org, search nor tags: the whole hub is no fleet")
    oldest = since(table.newer_than)
    most = None if table.max_size is None else parse_size(table.max_size)
    count = 0
    try:
        listed = HfApi().list_models(
            author=table.org,
            search=table.search,
            filter=[_TASK, "safetensors", *table.tags],
            sort="last_modified",
            expand=["safetensors", "lastModified"],
        )
        for info in listed:
            if oldest is not None and (info.last_modified is None or info.last_modified < oldest):
                break  # the rest is older
            size = _size(info)
            if most is not None and (size.stored is None or size.stored > most):
                continue
            yield info.id, size
            count += 1
            if table.most is not None and count >= table.most:
                break
    except BadInput:
        raise
    # The client passes on whatever its HTTP library raises, so no narrower class covers it.
    except Exception as error:
        raise Unavailable(f"the hub could not be searched: {reason(error)}") from error


def since(text: str | None) -> datetime | None:
    """Return the date that "7d" or "12h" ago was. Raises `BadInput` for what is no length of time."""
    if text is None:
        return None
    days = text.strip().removesuffix("d")
    hours = f"{float(days) * 24}h" if days != text.strip() and days.replace(".", "", 1).isdigit() else text
    return datetime.now(UTC) - timedelta(seconds=parse_duration(hours))


def _size(info: Any) -> Size:
    """Return the size that the hub states: the numbers of each dtype, and what those take."""
    held = getattr(info, "safetensors", None)
    if held is None or not held.total:
        return Size()
    return Size(held.total, sum(count * _BYTES.get(dtype, 1) for dtype, count in held.parameters.items()))
