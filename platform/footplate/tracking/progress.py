"""What is worth a glance while a run goes on: how far, how fast, how long still, and the metrics that matter most."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from footplate.tracking.metrics_file import MEASURED


class Progress:
    """Takes rows, answers in text. Rows replace each other whole, so that another thread may read at any time."""

    def __init__(self, updates: int, first: Sequence[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self.updates = updates
        self.update = 0
        self._first = ("update", *first, "train/loss", "rollout/return")
        self._clock = clock
        self._latest: Mapping[str, float] = {}
        self._rates: Mapping[str, float] = {}
        self._start: tuple[int, float] | None = None
        self._pace: float | None = None

    def observe(self, row: Mapping[str, float]) -> None:
        """Take a row. A smaller number of updates than before is a run that was taken back to a checkpoint."""
        # The run's own clock where it has one: whoever follows a run reads many rows at once.
        seconds = row.get("time/seconds", self._clock())
        update = int(row["update"])
        if self._start is None or update < self.update:
            self._start = (update, seconds)
        elif update > self._start[0] and seconds > self._start[1]:
            self._pace = (seconds - self._start[1]) / (update - self._start[0])
        self.update = update
        self._rates = {name: value for name, value in row.items() if name.startswith("speed/")}
        self._latest = {
            **self._latest,
            **{name: value for name, value in row.items() if not name.startswith(MEASURED)},
        }

    @property
    def seconds_left(self) -> float | None:
        """From the mean pace since the first row, pauses for evaluation included; None before the second row."""
        return None if self._pace is None else self._pace * max(0, self.updates - self.update)

    def count(self) -> str:
        """How many updates of how many."""
        return f"{self.update:,}/{self.updates:,}"

    def rates(self) -> list[str]:
        """Speeds, work before updates, since the work is what the updates are made of."""
        names = sorted(self._rates, key=lambda name: (name == "speed/updates_per_second", name))
        return [
            f"{number(self._rates[name])} {name.removeprefix('speed/').removesuffix('_per_second')}/s" for name in names
        ]

    def left(self) -> str:
        """How long still."""
        return "" if self.seconds_left is None else f"{duration(self.seconds_left)} left"

    def metrics(self, *, evaluations: bool = True) -> list[str]:
        """The newest value of each metric: what the job watches, loss and return, evaluations, the rest, work."""
        latest = self._latest
        names = (name for name in latest if name != "update" and (evaluations or not name.startswith("eval/")))
        return [f"{name} {number(latest[name])}" for name in sorted(names, key=self._importance)]

    def evaluation(self, row: Mapping[str, float]) -> list[str]:
        """The evaluation in a row, empty if there is none."""
        names = sorted((name for name in row if name.startswith("eval/")), key=self._importance)
        return [f"{name} {number(row[name])}" for name in names]

    def _importance(self, name: str) -> tuple[int, bool, bool, str]:
        place = self._first.index(name) if name in self._first else len(self._first)
        return place, "/" not in name, not name.startswith("eval/"), name


def number(value: float) -> str:
    """Four digits, or all digits before the point.

    >>> number(0.00012345), number(3.14159), number(12345.6), number(7)
    ('0.0001234', '3.142', '12,346', '7')
    """
    whole = math.isfinite(value) and (abs(value) >= 1000 or value == int(value))
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(7.4), duration(125), duration(3725), duration(200_000)
    ('0:07', '2:05', '1:02:05', '55:33:20')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
