"""A sweep as one picture: each trial a line across its settings to its score, and what each setting explains."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from footplate.sweeps.folder import Standing, SweepFolder
from footplate.sweeps.importance import Importance
from footplate.sweeps.space import Choice, IntegerLogUniform, LogUniform
from footplate.sweeps.sweep import short_keys, shown_setting
from footplate.tracking.progress import number

DOTS_PER_INCH = 110
TICKS = 5
LONGEST_LABEL = 18
MEASURED, CHANCE = "#2a6f97", "#888888"


class Scale:
    """From a setting's value to a height between 0 and 1, with the ticks of its axis."""

    def __init__(self, choice: Choice) -> None:
        self._places: dict[str, float] = {}
        self._log = isinstance(choice, LogUniform | IntegerLogUniform)
        if isinstance(choice, tuple):
            shown = [shown_setting(value) for value in choice]
            if all(_is_number(value) for value in choice):
                shown = [shown_setting(value) for value in sorted(choice, key=lambda value: float(value))]  # type: ignore[arg-type]
            steps = max(1, len(shown) - 1)
            self._places = {text: index / steps if len(shown) > 1 else 0.5 for index, text in enumerate(shown)}
            self.ticks = [(place, text) for text, place in self._places.items()]
            return
        low, high = float(choice.low), float(choice.high)
        self._low, self._span = self._turned(low), self._turned(high) - self._turned(low)
        shown = [f"{low:.4g}", *(["{:.2g}"] * (TICKS - 2)), f"{high:.4g}"]
        parts = [self._low + self._span * index / (TICKS - 1) for index in range(TICKS)]
        self.ticks = [
            (index / (TICKS - 1), shown[index].format(math.exp(part) if self._log else part))
            for index, part in enumerate(parts)
        ]

    def height(self, value: Any) -> float:
        """Where the value lies on its axis."""
        if self._places:
            return self._places[shown_setting(value)]
        return (self._turned(float(value)) - self._low) / self._span

    def _turned(self, value: float) -> float:
        return math.log(value) if self._log else value


def draw_sweep(sweep: SweepFolder, ranked: Sequence[Standing], found: Mapping[str, Importance], output: Path) -> None:
    """Write the PNG. Trials without a score are not drawn, which the title says. Raises OSError."""
    scored = [standing for standing in ranked if standing.score is not None]
    labels = short_keys(list(sweep.sweep.space))
    width = max(7.0, 1.9 * (len(labels) + 1)) + (3.4 if found else 0)
    figure = Figure(figsize=(width, max(4.2, 1.6 + 0.45 * len(labels))), layout="constrained")
    FigureCanvasAgg(figure)
    missing = len(ranked) - len(scored)
    figure.suptitle(
        f"{sweep.name}: {sweep.sweep.about or sweep.sweep.recipe} - {len(scored)} trials"
        + (f", {missing} more without a score" if missing else ""),
        fontsize=12,
    )
    if found:
        left, right = figure.subplots(1, 2, width_ratios=[width - 3.4, 3.4])
        _draw_importances(right, {labels[key]: importance for key, importance in found.items()})
    else:
        left = figure.subplots()
    _draw_trials(left, sweep, scored, labels)
    figure.savefig(output, dpi=DOTS_PER_INCH)


def _draw_trials(axes: Axes, sweep: SweepFolder, scored: Sequence[Standing], labels: Mapping[str, str]) -> None:
    scores = [standing.score for standing in scored if standing.score is not None]
    low, high = min(scores), max(scores)
    span = (high - low) or 1.0
    scales = {key: Scale(choice) for key, choice in sweep.sweep.space.items()}
    colours = colormaps["viridis"]
    lower = sweep.best.better == "lower"
    # The best last, on top of the others.
    for standing, score in reversed(list(zip(scored, scores, strict=True))):
        height = (score - low) / span if high > low else 0.5
        goodness = 1 - height if lower else height
        heights = [scales[key].height(value) for key, value in standing.trial.settings.items()]
        axes.plot(
            range(len(labels) + 1),
            [*heights, height],
            color=colours(0.95 * goodness),
            alpha=0.35 + 0.65 * goodness,
            linewidth=1 + 1.2 * goodness,
            linestyle="--" if standing.state == "halved" else "-",
        )
    ends = [(0.0, number(low)), (1.0, number(high))] if high > low else [(0.5, number(low))]
    middle = [(part, f"{low + part * span:.3g}") for part in (0.25, 0.5, 0.75)] if high > low else []
    for position, ticks in enumerate([*(scale.ticks for scale in scales.values()), [*ends, *middle]]):
        axes.axvline(position, color="black", linewidth=0.8)
        for place, text in ticks:
            axes.annotate(
                text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…",
                (position, place),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8},
            )
    direction = "lower is better" if lower else "higher is better"
    axes.set_xticks(range(len(labels) + 1), [*labels.values(), f"{sweep.best.metric}\n({direction})"], fontsize=9)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(labels) + 0.45)
    axes.set_ylim(-0.05, 1.05)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    if any(standing.state == "halved" for standing in scored):
        axes.set_title("dashed: stopped by ASHA", fontsize=8, loc="left")


def _draw_importances(axes: Axes, found: Mapping[str, Importance]) -> None:
    ordered = sorted(found.items(), key=lambda item: item[1].share)
    places = range(len(ordered))
    axes.barh(places, [importance.share for _, importance in ordered], color=MEASURED, height=0.55)
    for place, (_, importance) in zip(places, ordered, strict=True):
        axes.plot([importance.by_chance] * 2, [place - 0.4, place + 0.4], color=CHANCE, linewidth=1.5)
        axes.annotate(
            f"{importance.share:.0%}",
            (importance.share, place),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
        )
    axes.set_yticks(places, [label for label, _ in ordered], fontsize=9)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"], fontsize=8)
    axes.set_title("differences explained by one setting alone\n(grey: what chance reaches 1 time in 20)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
