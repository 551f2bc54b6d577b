"""Make the page of an index: one row a model, filtered and sorted in the page itself."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files

from markupsafe import Markup

from superweight.core.readable import readable, times, titled
from superweight.fleet.row import STATUSES, decoded
from superweight.report.html import environment_of

# A browser lays out so many rows in a second or two. The rest is in index.json and index.parquet.
SHOWN = 5000


def page(rows: Sequence[bytes], counts: Counter[str], *, complete: bool) -> str:
    """Return the page of an index, given its rows as JSON in their order: the first `SHOWN` of them.

    It asks for nothing elsewhere, and its one script is named by its digest.
    """
    environment = environment_of("superweight.fleet")
    environment.filters |= {"titled": titled, "times": times, "readable": readable}
    folder = files("superweight.fleet") / "templates"
    script = (folder / "index.js").read_text(encoding="utf-8")
    style = (files("superweight.report") / "templates" / "style.css").read_text(encoding="utf-8")
    own = (folder / "index.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    total = sum(counts.values())
    return environment.get_template("index.html.jinja").render(
        rows=(decoded(data) for data in rows[:SHOWN]),
        changed=sum(bool(decoded(data).changed) for data in rows),
        total=total,
        shown=min(total, SHOWN),
        counts=[(status, counts[status]) for status in STATUSES if counts[status]],
        complete=complete,
        digest=digest,
        # Both are files of this package.
        script=Markup(script),  # noqa: S704
        style=Markup(style + own),  # noqa: S704
    )
