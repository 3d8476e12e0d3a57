"""The ledger: what the steps since the last row add up to, and what the whole run has consumed."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from footplate.step import Latest, Mean, Step


class Ledger:
    """Turns steps into rows. A row holds each metric's mean over the updates since the row before it.

    Nothing is read from a device until `row` is called. The state includes what is pending, so that a run that was
    interrupted between two rows writes the row that it would have written.
    """

    def __init__(self) -> None:
        self.update = 0
        self.seconds = 0.0
        self._totals: dict[str, float | Tensor] = {}
        self._counts: dict[str, float | Tensor] = {}
        self._work: dict[str, int] = {}
        self._work_at_row: dict[str, int] = {}
        self._update_at_row = 0
        self._seconds_at_row = 0.0
        self._clock: float | None = None

    def add(self, step: Step) -> None:
        """Count one update. The first of a process is left out of times and rates: it comes with all the setting up."""
        self._tick(step)
        self.update = step.update
        for name, amount in step.work.items():
            self._work[name] = self._work.get(name, 0) + int(amount)  # numpy's could not be saved
        for name, metric in step.metrics.items():
            if isinstance(metric, Latest):
                self._totals[name], self._counts[name] = metric.value, 1
                continue
            total, count = (metric.total, _detached(metric.count)) if isinstance(metric, Mean) else (metric, 1.0)
            self._totals[name] = _detached(total) + self._totals.get(name, 0.0)
            self._counts[name] = count + self._counts.get(name, 0.0)

    def row(self) -> dict[str, float]:
        """The row that ends with the last update added; what it averages over starts anew."""
        seconds = self.seconds - self._seconds_at_row
        row: dict[str, float] = {"update": self.update, **self._work}
        for name, total in self._totals.items():
            if (count := float(self._counts[name])) != 0:
                row[name] = float(total) / count
        if seconds > 0:
            for name, amount in self._work.items():
                row[f"speed/{name}_per_second"] = (amount - self._work_at_row.get(name, 0)) / seconds
            row["speed/updates_per_second"] = (self.update - self._update_at_row) / seconds
        row["time/seconds"] = self.seconds
        self._totals, self._counts = {}, {}
        self._work_at_row = dict(self._work)
        self._update_at_row, self._seconds_at_row = self.update, self.seconds
        return row

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers."""
        return {
            "update": self.update,
            "seconds": self.seconds,
            "totals": {name: float(total) for name, total in self._totals.items()},
            "counts": {name: float(count) for name, count in self._counts.items()},
            "work": self._work,
            "work_at_row": self._work_at_row,
            "update_at_row": self._update_at_row,
            "seconds_at_row": self._seconds_at_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the time between saving and loading does not count."""
        self.update, self.seconds = state["update"], state["seconds"]
        self._totals, self._counts = dict(state["totals"]), dict(state["counts"])
        self._work, self._work_at_row = dict(state["work"]), dict(state["work_at_row"])
        self._update_at_row, self._seconds_at_row = state["update_at_row"], state["seconds_at_row"]
        self._clock = None

    def _tick(self, step: Step) -> None:
        now = time.perf_counter()
        if self._clock is not None:
            self.seconds += now - self._clock
        else:
            self._update_at_row += step.update - self.update
            for name, amount in step.work.items():
                self._work_at_row[name] = self._work_at_row.get(name, 0) + int(amount)
        self._clock = now


def _detached(value: float | Tensor) -> float | Tensor:
    """Ready to be added up; a tensor on the CPU is read at once, which costs less than one more operation on it."""
    if not isinstance(value, Tensor):
        return value
    if value.is_cpu:
        return value.item()
    # Totals over many updates are kept in float64: in float32 a sum over 10,000 updates loses four digits.
    return value.detach().to(torch.float64) if not value.is_mps else value.detach()
