"""ASHA by Ray Tune's scheduler, fed with our own numbers of trials, so that a sweep that goes on remembers."""

import math
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from footplate.errors import FootplateError
from footplate.sweeps.folder import SweepFolder
from footplate.sweeps.progress import halving_reason
from footplate.sweeps.sweep import Asha
from footplate.tracking.metrics_file import read_rows

MOST_RUNGS = 30
"""More than any trial is long; where it ends, it knows itself."""
NOBODY: Any = None
"""In place of the controller, which this scheduler never asks for anything."""


class Halving:
    """Watches the best score so far of each trial, and says which ones end at a rung."""

    def __init__(self, asha: Asha, metric: str, better: str) -> None:
        self._metric = metric
        self._factor = asha.reduction_factor
        self._higher = better == "higher"
        self._best: dict[int, float] = {}
        self._trials: dict[int, Any] = {}
        self._asha = ASHAScheduler(
            time_attr="update",
            metric="score",
            mode="max" if self._higher else "min",
            grace_period=asha.grace_updates,
            reduction_factor=asha.reduction_factor,
            max_t=int(asha.grace_updates * asha.reduction_factor**MOST_RUNGS),
            stop_last_trials=False,  # a decision that was taken is not taken again, with other trials by then
        )

    def verdict(self, trial: int, update: int, score: float) -> str | None:
        """Why the trial of this number ends after an evaluation; None if it goes on."""
        if not math.isfinite(score):
            return halving_reason(self._metric, score, update, self._factor)
        best = self._best.get(trial, score)
        best = self._best[trial] = max(best, score) if self._higher else min(best, score)
        if trial not in self._trials:
            # All that the scheduler asks of a trial is its id. Tune's own ids are others each time a sweep goes on.
            self._trials[trial] = SimpleNamespace(trial_id=str(trial))
            self._asha.on_trial_add(NOBODY, self._trials[trial])
        action = self._asha.on_trial_result(NOBODY, self._trials[trial], {"update": update, "score": best})
        if action == TrialScheduler.STOP:
            return halving_reason(self._metric, best, update, self._factor)
        return None


def halving_of(sweep: SweepFolder) -> Halving | None:
    """The scheduler of a sweep, with what its trials have scored so far; None where nothing is to be stopped."""
    if sweep.sweep.scheduler is None:
        return None
    best = sweep.best
    halving = Halving(sweep.sweep.scheduler, best.metric, best.better)
    for trial in sweep.trials:
        metrics = sweep.folder(trial).metrics
        try:
            rows = read_rows(metrics) if metrics.exists() else []
        except FootplateError:  # it will say so itself when it goes on
            continue
        for row in rows:
            if best.metric in row:
                halving.verdict(trial.number, int(row["update"]), row[best.metric])
    return halving
