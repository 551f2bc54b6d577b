"""Charts drawn by matplotlib: SVG for the page, SVG and PNG as files beside it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from superweight.core.readable import readable
from superweight.report.chart_spec import INTACT, PRUNED, Chart, Curve, Panel

# Okabe and Ito's palette without its lightest colours: told apart by colour-blind eyes, and at
# least 3:1 against both the light and the dark page. Markers and dashes say the same again.
_STYLES: dict[str, tuple[str, str, str]] = {
    INTACT: ("#0072b2", "o", "-"),
    PRUNED: ("#d55e00", "s", "--"),
}
_OTHERS = (
    ("#009e73", "^", "-."),
    ("#b06a94", "v", ":"),
    ("#8c7a1f", "D", (0, (5, 1))),
    ("#767676", "x", (0, (1, 1))),
)
# Stands for the page's text colour, which light and dark change.
_INK = "#010203"
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: it can be read out, found and enlarged
    "text.parse_math": False,  # a token may hold dollar signs
    "axes.unicode_minus": True,
    "font.size": 8,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#8888884d",
    "legend.frameon": False,
}
_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
_WIDTH, _HEIGHT = 4.6, 2.5
_DOTS = 200
# Names the labels beside marks, which are moved apart; by so many points at a time.
_MARK = "mark"
_LINE = 11


@dataclass(frozen=True)
class Picture:
    """One drawn chart: files, and the SVG element that goes into the page."""

    svg: bytes
    png: bytes
    inline: str


def drawn(chart: Chart, key: str) -> Picture:
    """Draw a chart; ``key`` keeps its ids apart from those of others on the page."""
    with mpl.rc_context(_SETTINGS | {"svg.hashsalt": key}), warnings.catch_warnings():
        # A token may hold characters that the font lacks; the table has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = plotted(chart)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, for both files
        svg, png = io.BytesIO(), io.BytesIO()
        # Not by print_figure, which draws once more before each file, to lay out what is laid out.
        files: Any = FigureCanvasSVG(figure), FigureCanvasAgg(figure)  # whose printers have no types
        files[0].print_svg(svg, metadata={"Date": None, "Creator": None})
        figure.set(dpi=_DOTS, facecolor="white")
        files[1].print_png(png, metadata={"Software": None})
    text = svg.getvalue().decode()
    file = ElementTree.tostring(_cleaned(text, "black"), encoding="unicode", xml_declaration=False)
    return Picture(file.encode(), png.getvalue(), _inline(text, key))


def plotted(chart: Chart) -> Figure:
    """Return the matplotlib figure of a chart."""
    bars = max((len(panel.categories) for panel in chart.panels), default=0)
    height = max(_HEIGHT, 0.6 + 0.24 * bars) * len(chart.panels)
    figure = Figure(figsize=(_WIDTH, height + 0.3), layout="constrained", facecolor="none")
    for axes, panel in zip(
        figure.subplots(len(chart.panels), squeeze=False)[:, 0], chart.panels, strict=True
    ):
        (_bars if panel.categories else _curves)(axes, panel)
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label, facecolor="none")
    labels = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    if len(labels) > 1:
        figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=2)
    _spread(figure)
    return figure


def _curves(axes: Axes, panel: Panel) -> None:
    for curve, (colour, marker, dashes) in zip(panel.curves, _styles(panel), strict=True):
        axes.plot(
            curve.x, curve.y, color=colour, marker=marker, ls=dashes, ms=3, lw=1.3, label=curve.condition
        )
        if curve.low:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.25, lw=0)
    if panel.logarithmic:
        # Not every value need be positive: an untouched block may write nothing at all.
        axes.set_yscale("log" if all(y > 0 for curve in panel.curves for y in curve.y) else "symlog")
        _label_decades(axes.yaxis)
    if panel.level is not None:
        axes.axhline(panel.level, color=_INK, lw=0.7, ls=":")
    for place, mark in enumerate(panel.marks):
        axes.plot([mark.x], [mark.y], marker="o", ms=9, mfc="none", mec=_INK, ls="none")
        middle = (panel.curves[0].x[0] + panel.curves[0].x[-1]) / 2
        side: Any = "left" if mark.x <= middle else "right"
        axes.annotate(
            mark.label,
            (mark.x, mark.y),
            # Above and below in turn: blocks side by side would write over each other.
            xytext=(8 if side == "left" else -8, -14 if place and place % 2 == 0 else 5),
            textcoords="offset points",
            ha=side,
            gid=_MARK,
        )
    axes.margins(y=0.15)


def _spread(figure: Figure) -> None:
    """Move the labels of marks up or down until no two of them overlap."""
    every = [text for axes in figure.axes for text in axes.texts if text.get_gid() == _MARK]
    labels = [text for text in every if isinstance(text, Annotation)]
    if len(labels) < 2:
        return
    figure.draw_without_rendering()
    placed: list[Bbox] = []
    for label in labels:
        x, y = label.xyann
        for step in range(4 * len(labels)):
            # Up and down in turn, each time a line further.
            label.xyann = (x, y + _LINE * ((step + 1) // 2) * (1 if step % 2 else -1))
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in placed):
                break
        placed.append(box)


def _bars(axes: Axes, panel: Panel) -> None:
    thickness = 0.8 / len(panel.curves)
    for place, (curve, (colour, marker, _)) in enumerate(zip(panel.curves, _styles(panel), strict=True)):
        middles = [x + (place + 0.5) * thickness - 0.4 for x in curve.x]
        base = _least(panel) if panel.logarithmic else 0.0
        axes.hlines(middles, base, curve.y, color=colour, lw=1.6)
        axes.plot(curve.y, middles, color=colour, marker=marker, ms=4, ls="none", label=curve.condition)
        if curve.low:
            axes.hlines(middles, curve.low, curve.high, color=_INK, lw=0.8)
    axes.set_yticks(range(len(panel.categories)), panel.categories)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    if panel.logarithmic:
        axes.set_xscale("log")
        _label_decades(axes.xaxis)
    if panel.level is not None:
        axes.axvline(panel.level, color=_INK, lw=0.7, ls=":")


def _label_decades(axis: Axis) -> None:
    """Write powers of ten as plain numbers: matplotlib's own labels are in the markup that is off."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: readable(value)))
    axis.set_minor_formatter(NullFormatter())


def _least(panel: Panel) -> float:
    """Return where logarithmic bars begin: below every positive value."""
    return min((y for curve in panel.curves for y in (*curve.y, *curve.low) if y > 0), default=1.0) / 2


def _styles(panel: Panel) -> list[tuple[str, str, Any]]:
    others = iter(_OTHERS * (1 + len(panel.curves) // len(_OTHERS)))
    return [_style(curve, others.__next__) for curve in panel.curves]


def _style(curve: Curve, other: Callable[[], tuple[str, str, Any]]) -> tuple[str, str, Any]:
    return _STYLES[curve.condition] if curve.condition in _STYLES else other()


def _cleaned(svg: str, ink: str) -> ElementTree.Element:
    """Return the root of matplotlib's SVG with its ink replaced, in attributes only: text stays as it is."""
    root = ElementTree.fromstring(svg)  # noqa: S314  # matplotlib wrote it a moment ago
    for parent in list(root.iter()):
        for child in list(parent):
            # Its style sheet would style the whole page, its metadata name no one.
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
        for name, value in parent.attrib.items():
            parent.set(name, value.replace(_INK, ink))
    for element in root.findall(f"{{{_SVG}}}defs"):
        if not len(element):
            root.remove(element)
    return root


def _inline(svg: str, key: str) -> str:
    """Return the svg element alone: its ids its own, its ink the page's, its size the page's to choose."""
    root = _cleaned(svg, "currentColor")
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.set(name, f"{key}-{value}")
            elif name == _HREF and value.startswith("#"):
                # HTML knows no namespaces; href alone is SVG 2.
                del element.attrib[name]
                element.set("href", f"#{key}-{value[1:]}")
            else:
                element.set(name, value.replace("url(#", f"url(#{key}-"))
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-caption")
    return ElementTree.tostring(root, encoding="unicode")
