"""`EarlyStopping`: the best value so far, and whether a run may end before its last update."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from footplate.job import Best, Stop


class EarlyStopping:
    """Watches one metric; without one it never sees a value and never stops.

    A checkpoint is the best as soon as it is better than all before. Patience starts anew only where the gain over the
    value that last did so is more than nothing and at least `minimum_improvement`: small gains still add up to one.
    Source: Prechelt 1998, "Early stopping - but when?", criterion UP, over evaluations and against the best value.
    """

    best_value: float | None
    """The best value so far; None before the first one that is finite."""

    def __init__(self, best: "Best | None", stop: "Stop") -> None:
        self.best_value = None
        self._best = best
        self._stop = stop
        self._milestone: float | None = None
        self._evaluations_since = 0

    def observe(self, value: float) -> bool:
        """Take note of an evaluation; True if it is the best so far. A value that is not finite never is."""
        improved = math.isfinite(value) and (self.best_value is None or self._gain(value, self.best_value) > 0)
        if improved:
            self.best_value = value
        if improved and (
            self._milestone is None or self._gain(value, self._milestone) >= self._stop.minimum_improvement
        ):
            self._milestone = value
            self._evaluations_since = 0
        else:
            self._evaluations_since += 1
        return improved

    def reason(self) -> str | None:
        """Why the run should end, beginning with `target` or `patience`; None to go on."""
        if self._best is None:
            return None
        target, patience = self._stop.target, self._stop.patience_evaluations
        if target is not None and self.best_value is not None and self._gain(self.best_value, target) >= 0:
            return f"target reached: {self._best.metric} is {self.best_value:g}, wanted {target:g}"
        if patience is not None and self._evaluations_since >= patience:
            enough = f" by {self._stop.minimum_improvement:g}" if self._stop.minimum_improvement else ""
            evaluations = f"{self._evaluations_since} evaluation{'s' * (self._evaluations_since > 1)}"
            return f"patience is over: {self._best.metric} has not improved{enough} in {evaluations}"
        return None

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_value": self.best_value,
            "milestone": self._milestone,
            "evaluations_since": self._evaluations_since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best_value = state["best_value"]
        self._milestone = state["milestone"]
        self._evaluations_since = state["evaluations_since"]

    def _gain(self, value: float, over: float) -> float:
        """By how much `value` is better than `over`; negative where it is worse."""
        return over - value if self._best is not None and self._best.better == "lower" else value - over
