"""Tables to figures in the house style: quiet axes, a palette safe for colour-blind readers, SVG that is the same every time.

Each function takes a table (a DataFrame) and the names of its columns, and returns a matplotlib Figure; nothing touches pyplot's
global state. Colour never stands alone: series differ in marker and line style too.

Must not know: models, tensors, reports.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, NullFormatter

from interp.errors import ReportError

INK, MUTED, GRID = "#1f2328", "#5b626b", "#e4e2dd"
# Okabe & Ito (2008), darkened where white paper would swallow them.
PALETTE = ("#0b63a5", "#d1590a", "#00805c", "#a8417f", "#8a6d00", "#3a96c9", "#4a4a4a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
SEQUENTIAL = LinearSegmentedColormap.from_list("paper-to-ink", ["#f7f5f0", "#b9d3e6", "#4a90c2", "#0b4f86", "#062a4d"])
DIVERGING = LinearSegmentedColormap.from_list("blue-to-orange", ["#0b4f86", "#7db3d6", "#f7f5f0", "#eeaa72", "#a8430a"])
MAX_VECTOR_POINTS = 2000
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "interp",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that layout does not depend on the machine
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a label may be any token, "$" too
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.framealpha": 0.85,  # where a legend lies on bands or bars, its words stay readable
    "legend.edgecolor": "none",
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "savefig.facecolor": "white",
}


def svg(figure: Figure) -> str:
    """The figure as SVG text: text stays text, and equal figures give equal bytes."""
    buffer, metadata = io.BytesIO(), {"Date": None, "Creator": None}
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # text stays text: the reader's fonts draw it, not ours
        figure.savefig(buffer, format="svg", metadata=metadata, bbox_inches="tight", pad_inches=0.08, dpi=150)
    return _NOT_XML.sub("\ufffd", buffer.getvalue().decode("utf-8"))


def lines(
    table: pd.DataFrame, x: str, y: str, *, by: str | None = None, low: str | None = None, high: str | None = None, **labels: Any
) -> Figure:
    """Lines of y over x, one per value of `by`, with a band from `low` to `high` where those columns are given.

    labels: title, xlabel, ylabel, xscale, yscale, as in matplotlib's Axes.set.
    """
    _require(table, x, y, by, low, high)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(6.4, 3.6)
        series = list(_series(table, by))
        for index, (name, part) in enumerate(series):
            part = part.sort_values(x, kind="stable")
            colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            style = DASHES[index % len(DASHES)]
            few = len(part) <= 40
            axes.plot(part[x], part[y], color=colour, linestyle=style, marker=marker if few else None, label=name)
            if low is not None and high is not None:
                axes.fill_between(part[x], part[low], part[high], color=colour, alpha=0.15, linewidth=0)
        axes.grid(axis="y")
        return _finish(figure, axes, {"xlabel": x, "ylabel": y} | labels, legend=by if len(series) > 1 else None)


def bars(
    table: pd.DataFrame, label: str, value: str, *, low: str | None = None, high: str | None = None, **labels: Any
) -> Figure:
    """Horizontal bars in the table's order, first on top, with an interval from `low` to `high` where those columns are given."""
    _require(table, label, value, low, high)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(6.4, 0.9 + 0.32 * max(len(table), 2))
        places = np.arange(len(table))
        axes.barh(places, table[value], height=0.62, color=PALETTE[0])
        if low is not None and high is not None:
            spread = np.abs(np.stack([table[value] - table[low], table[high] - table[value]]))
            axes.errorbar(table[value], places, xerr=spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
        axes.set_yticks(places, [str(name) for name in table[label]])
        axes.invert_yaxis()
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        return _finish(figure, axes, {"xlabel": value, "ylabel": ""} | labels)


def heatmap(table: pd.DataFrame, x: str, y: str, value: str, *, centre: float | None = None, **labels: Any) -> Figure:
    """A grid of cells, e.g. x="head", y="layer", the number written in each where they are few.

    Numbers stand in order of size, words in that of the table.
    centre: the value without colour, for quantities with a sign; without it colour runs from the least to the largest.
    """
    _require(table, x, y, value)
    if table.duplicated([x, y]).any():
        raise ReportError(f"heatmap: some {x} × {y} cells occur twice; take the mean over the other columns first")
    grid = table.pivot(index=y, columns=x, values=value).reindex(index=_order(table[y]), columns=_order(table[x]))
    values = grid.to_numpy(dtype=float)
    norm, cmap = _norm(values, centre), SEQUENTIAL if centre is None else DIVERGING
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(min(7.2, 1.9 + 0.52 * grid.shape[1]), min(7.2, 1.2 + 0.46 * grid.shape[0]))
        image = axes.imshow(values, cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
        axes.set_xticks(*_ticks(grid.columns))
        axes.set_yticks(*_ticks(grid.index))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if grid.shape[1] <= 16 and values.size <= 256:
            _write_cells(axes, values, norm, cmap)
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
        bar.outline.set_visible(False)
        return _finish(figure, axes, {"xlabel": x, "ylabel": y} | labels)


def histogram(table: pd.DataFrame, value: str, *, by: str | None = None, bins: int = 40, **labels: Any) -> Figure:
    """Counts of a column in even bins, one outline per value of `by`, all on the same bins."""
    _require(table, value, by)
    edges = np.histogram_bin_edges(table[value].dropna().to_numpy(dtype=float), bins=bins)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(6.4, 3.2)
        series = list(_series(table, by))
        for index, (name, part) in enumerate(series):
            counts, _ = np.histogram(part[value].dropna(), bins=edges)
            colour = PALETTE[index % len(PALETTE)]
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(counts, edges, color=colour, linewidth=1.4, linestyle=DASHES[index % len(DASHES)], label=name)
        axes.grid(axis="y")
        return _finish(figure, axes, {"xlabel": value, "ylabel": "count"} | labels, legend=by if len(series) > 1 else None)


def scatter(table: pd.DataFrame, x: str, y: str, *, by: str | None = None, **labels: Any) -> Figure:
    """Points, one marker per value of `by`; above 2000 points they are drawn as an image so that the file stays small."""
    _require(table, x, y, by)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(5.6, 4.0)
        series = list(_series(table, by))
        many = len(table) > MAX_VECTOR_POINTS
        for index, (name, part) in enumerate(series):
            colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            size, alpha = (6, 0.35) if many else (18, 0.75)
            axes.scatter(
                part[x], part[y], s=size, c=colour, marker=marker, alpha=alpha, linewidths=0, rasterized=many, label=name
            )
        axes.grid()
        if len(series) > 1:
            for handle in _legend_beside(axes, by).legend_handles:
                assert handle is not None
                handle.set(rasterized=False, alpha=1.0, sizes=[22])
        return _finish(figure, axes, {"xlabel": x, "ylabel": y} | labels)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, labels: dict[str, Any], *, legend: str | None = None) -> Figure:
    axes.set(**labels)
    for axis, given in ((axes.xaxis, "xticks"), (axes.yaxis, "yticks")):
        if axis.get_scale() == "log":  # matplotlib writes powers of ten as math, which is switched off here
            axis.set_minor_formatter(NullFormatter())
            if given not in labels:
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if legend is not None:
        inside = axes.legend(title=legend, alignment="left")
        if _hides_lines(figure, axes, inside):
            _legend_beside(axes, legend)
    return figure


def _legend_beside(axes: Axes, title: str | None) -> Legend:
    return axes.legend(title=title, alignment="left", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _hides_lines(figure: Figure, axes: Axes, legend: Legend) -> bool:
    """Whether a legend within the axes lies on a line, at the place where it hides least."""
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    return any(line.get_path().transformed(line.get_transform()).intersects_bbox(box, filled=False) for line in axes.lines)


def _series(table: pd.DataFrame, by: str | None) -> Iterator[tuple[str | None, pd.DataFrame]]:
    if by is None:
        yield None, table
        return
    for name in table[by].drop_duplicates():
        yield str(name), table.loc[table[by] == name]


def _require(table: pd.DataFrame, *columns: str | None) -> None:
    missing = [column for column in columns if column is not None and column not in table.columns]
    if missing:
        raise ReportError(f"the table has no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}")
    if table.empty:
        raise ReportError("the table has no rows; nothing to draw")


def _order(column: pd.Series) -> list:
    """The different values of a column as axes have them: words as they come, numbers and categories sorted."""
    words = pd.api.types.is_string_dtype(column) or pd.api.types.is_object_dtype(column)
    found = column.drop_duplicates()
    return list(found if words else found.sort_values())


def _norm(values: np.ndarray, centre: float | None) -> Normalize:
    if centre is None:
        return Normalize(float(np.nanmin(values)), float(np.nanmax(values)))
    reach = float(np.nanmax(np.abs(values - centre))) or 1.0
    return Normalize(centre - reach, centre + reach)


def _ticks(labels: pd.Index) -> tuple[list[int], list[str]]:
    step = max(1, -(-len(labels) // 16))
    places = range(0, len(labels), step)
    return list(places), [str(labels[place]) for place in places]


def _write_cells(axes: Axes, values: np.ndarray, norm: Normalize, cmap: LinearSegmentedColormap) -> None:
    for row, column in itertools.product(*map(range, values.shape)):
        if np.isfinite(values[row, column]):
            red, green, blue, _ = cmap(norm(values[row, column]))
            colour = "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5 else INK
            said = f"{round(values[row, column], 2) + 0.0:.2f}".replace("-", "−")  # + 0.0: no minus before a zero
            axes.text(column, row, said, ha="center", va="center", fontsize=7.5, color=colour)
