"""The curves of a run as one picture: a panel for each quantity, whoever measured it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import EngFormatter

from footplate.tracking.progress import number

Rows = Sequence[Mapping[str, float]]
Series = np.ndarray[Any, np.dtype[np.float64]]

COLUMNS = 3
PANEL_INCHES = (4.8, 3.0)
DOTS_PER_INCH = 110
COLOURS = {"train": "#1f77b4", "eval": "#d95f02", "rollout": "#1b9e77", "speed": "#7570b3"}
LABEL_POINTS = 9
"""What a line of the labels at the ends of curves takes."""
LABEL_OFFSET_POINTS = 4
SMOOTHED_FROM_ROWS = 60
SMOOTHED_PARTS = 50
"""A moving average spans this part of the curve."""
NOISY_FROM = 0.03
"""Curves whose typical change between rows is more than this part of their range are smoothed."""
LOGARITHMIC_FROM = 50
"""A loss that falls by this factor is drawn on a logarithmic scale."""


def draw_curves(rows: Rows, output: Path, *, title: str, total_updates: int | None) -> None:
    """Write the PNG of `curves_figure`."""
    curves_figure(rows, title=title, total_updates=total_updates).savefig(output, dpi=DOTS_PER_INCH)


def curves_figure(rows: Rows, *, title: str, total_updates: int | None) -> Figure:
    """A panel for each last part of a metric's name, so that train/loss and eval/loss share one.

    Noisy curves are drawn pale behind their moving average. Peaks that would flatten everything else are cut off, which
    the panel says; values that are not finite are gaps.
    """
    panels = _panels(rows)
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * PANEL_INCHES[0], lines * PANEL_INCHES[1] + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    last_update = rows[-1]["update"]
    labels = []
    for position, (quantity, names) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, position + 1)
        labels.append(_draw_panel(axes, quantity, names, rows))
        axes.set_xlabel("update" if total_updates is None else f"update (of {total_updates:,})")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        # The whole way where a good part of it is done, else what there is.
        if total_updates is not None and last_update >= total_updates / 4:
            axes.set_xlim(0, max(total_updates, last_update) * 1.02)
    figure.draw_without_rendering()  # only now is it known where on the page a value lies
    for in_panel in labels:
        _keep_apart(in_panel)
    return figure


def _panels(rows: Rows) -> dict[str, list[str]]:
    """Quantity -> the metrics that measure it: loss, what is evaluated, rolled out, trained, speed and the machine."""
    names = {name: None for row in rows for name in row if "/" in name and not name.startswith("time/")}
    shown = [name for name in names if not name.startswith("train/") or any(row.get(name) for row in rows)] or [*names]
    panels: dict[str, list[str]] = {}
    for name in shown:
        panels.setdefault(name.rsplit("/", 1)[1], []).append(name)

    def importance(quantity: str) -> tuple[bool, bool, bool, bool]:
        groups = {name.split("/")[0] for name in panels[quantity]}
        return (
            quantity != "loss",
            not groups.isdisjoint({"speed", "system"}),
            "eval" not in groups,
            "rollout" not in groups,
        )

    return {quantity: panels[quantity] for quantity in sorted(panels, key=importance)}


def _draw_panel(axes: Axes, quantity: str, names: Sequence[str], rows: Rows) -> list[Annotation]:
    """Draw the metrics of a quantity; returns the labels at the ends of their curves."""
    everything: list[Series] = []
    lines: list[Series] = []
    labels = []
    for name in sorted(names, key=lambda name: name.startswith("eval/")):
        updates, values = np.array([(row["update"], row[name]) for row in rows if name in row], dtype=np.float64).T
        values = np.where(np.isfinite(values), values, np.nan)
        everything.append(values[np.isfinite(values)])
        line = _draw_curve(axes, updates, values, name)
        if len(finite := np.flatnonzero(np.isfinite(line))):
            labels.append(_label(axes, float(updates[finite[-1]]), float(line[finite[-1]])))
        lines.append(line)
    axes.set_title(quantity.replace("_", " "), fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes.legend(fontsize=8, frameon=False)
    values, line = np.concatenate(everything), np.concatenate(lines)
    if len(values) == 0:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center")
    elif quantity == "loss" and np.min(values) > 0 and np.nanmax(line) > LOGARITHMIC_FROM * np.nanmin(line):
        axes.set_yscale("log")
    else:
        _scale(axes, values)
    return labels


def _label(axes: Axes, update: float, value: float) -> Annotation:
    """The value written behind the end of its curve."""
    offset = (LABEL_OFFSET_POINTS, 0)
    style: dict[str, Any] = {"fontsize": 8, "va": "center", "annotation_clip": False}
    return axes.annotate(number(value), (update, value), xytext=offset, textcoords="offset points", **style)


def _keep_apart(labels: Sequence[Annotation]) -> None:
    """Move up those labels that would be written over the one below."""
    free = -np.inf
    points = {label: _height_in_points(label) for label in labels}
    for label in sorted(labels, key=points.__getitem__):
        height = max(points[label], free)
        label.set_position((LABEL_OFFSET_POINTS, height - points[label]))
        free = height + LABEL_POINTS


def _height_in_points(label: Annotation) -> float:
    axes = label.axes
    assert axes is not None
    assert axes.figure is not None
    return float(axes.transData.transform(label.xy)[1]) * 72 / axes.figure.dpi


def _draw_curve(axes: Axes, updates: Series, values: Series, name: str) -> Series:
    """Draw one metric; returns the values of the line that the eye follows."""
    group = name.split("/")[0]
    colour = f"C{name.split('/')[1]}" if group == "system" else COLOURS.get(group, "#555555")
    line = values
    if group == "eval" or len(values) < 3:
        axes.plot(updates, values, marker="o", markersize=3, color=colour, label=name)
    else:
        if len(values) >= SMOOTHED_FROM_ROWS and _is_noisy(values):
            axes.plot(updates, values, color=colour, alpha=0.25, linewidth=0.8)
            line = moving_average(values, len(values) // SMOOTHED_PARTS)
        axes.plot(updates, line, color=colour, label=name)
    return line


def _is_noisy(values: Series) -> bool:
    # Measured in the second half, since most curves begin with a fall that dwarfs any noise.
    settled = values[len(values) // 2 :]
    settled = settled[np.isfinite(settled)]
    return len(settled) > 1 and bool(np.median(np.abs(np.diff(settled))) > NOISY_FROM * np.ptp(settled))


def moving_average(values: Series, width: int) -> Series:
    """The mean of the last `width` values at each place, of those that there are and are finite.

    >>> moving_average(np.array([1.0, 3.0, np.nan, 5.0]), 2)
    array([1., 2., 3., 5.])
    """
    finite = np.isfinite(values)
    totals: Series = np.cumsum(np.where(finite, values, 0.0))
    counts: Series = np.cumsum(finite, dtype=np.float64)
    totals[width:] -= totals[:-width].copy()
    counts[width:] -= counts[:-width].copy()
    means: Series = np.divide(totals, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _scale(axes: Axes, values: Series) -> None:
    largest, smallest = float(np.max(values)), float(np.min(values))
    if max(abs(largest), abs(smallest)) >= 10_000:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    low, high = np.percentile(values, [1, 99])
    room = high - low
    if room == 0:
        return
    cut = []
    if largest > high + 3 * room:
        cut.append(f"peaks up to {number(largest)}")
    if smallest < low - 3 * room:
        cut.append(f"dips down to {number(smallest)}")
    if cut:
        axes.set_ylim(max(smallest, low - 0.3 * room), min(largest, high + 0.3 * room))
        axes.text(0.98, 0.98, ", ".join(cut) + " cut off", transform=axes.transAxes, ha="right", va="top", fontsize=8)
