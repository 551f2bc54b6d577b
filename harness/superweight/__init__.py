"""Find, edit and judge the super weights of a language model.

>>> import superweight as sw
>>> model = sw.load("tiny-planted")  # a registry name, a hub id, a directory, or a .gguf file
>>> found = sw.scan(model)
>>> found
1 super weight, suppressed after 1 pass
  [1, 41, 23]  value 4, makes 100% of the write
>>> f"{sw.perplexity(model):.1f}"
'7.1'
>>> with sw.edit(model, found.prune()):  # or [sw.Scale(coordinate, 0.5), sw.PatchActivation(...)]
...     sw.perplexity(model) > 1000
True
>>> list(sw.measure(model, {"pruned": found.prune(), "half": found.scale(0.5)}))
['intact', 'pruned', 'half']

`check` judges the claims of the paper, `compare` holds a release to its base; both take loaded
models or names. Importing this package imports neither torch nor numpy: each name is looked up where
it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from superweight.api import (
        card,
        check,
        compare,
        generate,
        load,
        measure,
        perplexity,
        protect,
        repair,
        scan,
    )
    from superweight.claims.verdict import Verdict
    from superweight.core.coordinates import Coordinate
    from superweight.core.errors import BadInput
    from superweight.detection.scan import Scan
    from superweight.model.edits import PatchActivation, Prune, Scale
    from superweight.model.edits import edited as edit
    from superweight.model.subject import Subject
    from superweight.release.result import Comparison

__all__ = [
    "BadInput",
    "Comparison",
    "Coordinate",
    "PatchActivation",
    "Prune",
    "Scale",
    "Scan",
    "Subject",
    "Verdict",
    "card",
    "check",
    "compare",
    "edit",
    "generate",
    "load",
    "measure",
    "perplexity",
    "protect",
    "repair",
    "scan",
]

# Where each name is defined: the module, and its name there.
_DEFINED = {
    name: ("superweight.api", name)
    for name in (
        *("card", "check", "compare", "generate", "load", "measure", "perplexity", "protect", "repair"),
        "scan",
    )
} | {
    "BadInput": ("superweight.core.errors", "BadInput"),
    "Comparison": ("superweight.release.result", "Comparison"),
    "Coordinate": ("superweight.core.coordinates", "Coordinate"),
    "PatchActivation": ("superweight.model.edits", "PatchActivation"),
    "Prune": ("superweight.model.edits", "Prune"),
    "Scale": ("superweight.model.edits", "Scale"),
    "Scan": ("superweight.detection.scan", "Scan"),
    "Subject": ("superweight.model.subject", "Subject"),
    "Verdict": ("superweight.claims.verdict", "Verdict"),
    "edit": ("superweight.model.edits", "edited"),
}


def __getattr__(name: str) -> object:
    """Import a public name where it is first used (PEP 562)."""
    if name not in _DEFINED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, defined = _DEFINED[name]
    found: object = getattr(import_module(module), defined)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
