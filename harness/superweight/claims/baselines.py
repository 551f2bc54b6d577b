"""Compare the record of a verdict with the committed baseline, leaf by leaf.

Exact values are compared exactly, and what was measured within the tolerance that it carries.
Provenance is recorded and not compared. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from superweight.claims.verdict import INCONCLUSIVE, Criterion, Measured, worst
from superweight.core.errors import BadInput, HarnessError
from superweight.core.statistics import Interval

_NUMBER = {"value", "within"}
_NOT_COMPARED = "provenance"
# A stored tolerance scales with its value, so it may differ a little. One that was widened to let
# a number pass may not, neither in the file by hand nor by a claim that has grown lenient.
_WIDENED = 2.0
# In bytes; file systems take a name of 255.
_LONGEST_FOLDER = 200


def dump(recorded: Mapping[str, Any]) -> str:
    return json.dumps(recorded, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str) -> dict[str, Any] | None:
    """Return a stored record, or None when the text is not one."""
    try:
        loaded = json.loads(text)
    except ValueError:
        return None
    return loaded if isinstance(loaded, dict) and {"model", "claim", "status"} <= loaded.keys() else None


def differences(stored: Any, new: Any) -> list[str]:
    """Return one line for each leaf that differs: where, from what, to what.

    Of two records alike in every number, one that could not be decided and one that could are the
    same measurement on either side of a threshold: that is no difference. Nor is it one that a sequential
    test stopped after other windows, where its claim says that this hangs on rounding: the intervals are
    then of other text, and must have a part in common.
    """
    if _of_other_windows(stored, new):
        return list(_apart(stored, new))
    found = list(_differences(stored, new, ""))
    return [] if len(found) == 1 and _on_either_side(stored, new) else found


def _of_other_windows(stored: Any, new: Any) -> bool:
    """Tell whether two records were measured on so many windows each as their claim lets rounding decide."""
    try:
        was, now = (record["evidence"]["windows"] for record in (stored, new))
        pairs = list(zip(stored["criteria"], new["criteria"], strict=True))
        numbers = [
            number for pair in pairs for item in pair for number in (item["statistic"], *item["interval"])
        ]
        sound = all(_is_number(each) and not [*_number_differences(each, each, "")] for each in numbers)
        named = all(one["name"] == other["name"] for one, other in pairs)
    except (KeyError, TypeError, ValueError):
        return False
    tolerant = _is_number(was) and _is_number(now) and not [*_number_differences(was, now, "")]
    return tolerant and sound and named and was["value"] != now["value"]


def _apart(stored: Any, new: Any) -> Iterator[str]:
    """Yield what differs between records of other windows: intervals apart, and all that is no number."""
    criteria = list(zip(stored["criteria"], new["criteria"], strict=True))
    for index, (was, now) in enumerate(criteria):
        low, high = (
            pick(item["interval"][end]["value"] for item in (was, now)) for pick, end in ((max, 0), (min, 1))
        )
        widest = min(was["statistic"]["within"], _WIDENED * now["statistic"]["within"])
        if low > high + widest:
            yield f"criteria[{index}].interval: was {_ends(was)}, is {_ends(now)}"
        measured = {"statistic": was["statistic"], "interval": was["interval"]}
        yield from _differences(was, {**now, **measured}, f"criteria[{index}]")
    same = {"criteria": stored["criteria"], "evidence": stored["evidence"]}
    if _on_either_side(stored, new):
        same["status"] = stored["status"]
    yield from _differences(stored, {**new, **same}, "")


def _ends(criterion: Mapping[str, Any]) -> str:
    low, high = (end["value"] for end in criterion["interval"])
    return f"[{low:g}, {high:g}]"


def _on_either_side(stored: Any, new: Any) -> bool:
    """Tell whether two records have each the status that follows from their numbers, one undecided."""
    try:
        statuses = [record["status"] for record in (stored, new)]
        implied = [worst([_status(item) for item in record["criteria"]]) for record in (stored, new)]
    except (KeyError, TypeError, ValueError, HarnessError):
        return False
    return statuses == implied and statuses[0] != statuses[1] and INCONCLUSIVE in statuses


def _status(criterion: Mapping[str, Any]) -> str:
    low, high = (end["value"] for end in criterion["interval"])
    statistic = Measured(**criterion["statistic"])
    return Criterion(
        "", statistic, Interval(low, high), criterion["threshold"], criterion["direction"]
    ).status


def _differences(stored: Any, new: Any, path: str) -> Iterator[str]:
    if _is_number(stored) and _is_number(new):
        yield from _number_differences(stored, new, path)
    elif isinstance(stored, dict) and isinstance(new, dict):
        for key in [*stored, *(key for key in new if key not in stored)]:
            if not path and key == _NOT_COMPARED:
                continue
            place = f"{path}.{key}" if path else str(key)
            if key not in new:
                yield f"{place}: was {_short(stored[key])}, is gone"
            elif key not in stored:
                yield f"{place}: is new, {_short(new[key])}"
            else:
                yield from _differences(stored[key], new[key], place)
    elif isinstance(stored, list) and isinstance(new, list) and len(stored) == len(new):
        for index, (was, now) in enumerate(zip(stored, new, strict=True)):
            yield from _differences(was, now, f"{path}[{index}]")
    # 1 and True and 1.0 are equal to Python, and so to JSON's reader.
    elif type(stored) is not type(new) or stored != new:
        yield f"{path}: was {_short(stored)}, is {_short(new)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == _NUMBER


def _number_differences(stored: dict[str, float], new: dict[str, float], path: str) -> Iterator[str]:
    was, now, within = stored["value"], new["value"], stored["within"]
    if not all(isinstance(part, int | float) and math.isfinite(part) for part in (was, now, within)):
        yield f"{path}: {_short(stored)} is no number with a tolerance"
    elif abs(now - was) > within:
        yield f"{path}: was {was:g} (within {within:g}), is {now:g}"
    elif not new["within"] / _WIDENED <= within <= _WIDENED * max(new["within"], 1e-12):
        yield f"{path}: its tolerance is {within:g}; the claim states {new['within']:g}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def merged(stored: Any, new: Any) -> Any:
    """Return ``new`` with every leaf that is within tolerance left as it was stored."""
    if _of_other_windows(stored, new) and not differences(stored, new):
        return stored
    if _on_either_side(stored, new) and not differences(stored, new):
        # The status belongs to the numbers that stay.
        new = {**new, "status": stored["status"]}
    if not isinstance(stored, type(new)) or not differences({"": stored}, {"": new}):
        return stored if isinstance(stored, type(new)) else new
    if isinstance(new, dict) and not _is_number(new):
        return {key: merged(stored[key], item) if key in stored else item for key, item in new.items()}
    if isinstance(new, list) and len(stored) == len(new):
        return [merged(was, now) for was, now in zip(stored, new, strict=True)]
    return new


def baseline_path(root: Path, model: str, device: str, dtype: str, claim: str) -> Path:
    """Return where the baseline of a claim lies; each device and dtype has its own."""
    folder = re.sub(r"[^\w.-]+", "--", model).strip("-.") or "model"
    if len(folder.encode()) > _LONGEST_FOLDER:
        # The end of a path says more than its beginning; the digest keeps two of them apart.
        digest = hashlib.sha256(folder.encode()).hexdigest()[:16]
        end = folder.encode()[-_LONGEST_FOLDER // 2 :].decode(errors="ignore")
        folder = f"{end.strip('-.')}-{digest}"
    return root / folder / f"{device}-{dtype}" / f"{claim}.json"


def has_others(path: Path) -> bool:
    """Tell whether other claims have their baselines where the one at ``path`` belongs."""
    return any(other != path for other in path.parent.glob("C*.json"))


def read(path: Path) -> dict[str, Any] | None:
    """Return the baseline at ``path``; None if there is none, an empty record if it is unreadable.

    Raises `BadInput` where the place itself cannot be read: what is not known to be absent must
    not count as absent.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return {}
    except OSError as error:
        raise BadInput(f"cannot read the baseline {path}: {error.strerror}") from error
    return parse(text) or {}
