"""What a sweep says while it runs: one line an event."""

import math
from collections.abc import Callable

from footplate.job import Best
from footplate.sweeps.folder import HALVED, Standing, SweepFolder
from footplate.sweeps.sweep import Trial, short_keys, shown_setting
from footplate.tracking.progress import duration, number


def say_at_once(text: str) -> None:
    """Print a line, also into a pipe."""
    print(text, flush=True)


class SweepProgress:
    """Takes events, speaks of them; which score is the best so far is known from the trials that are over."""

    def __init__(self, sweep: SweepFolder, say: Callable[[str], None] = say_at_once) -> None:
        self._say = say
        self._best: Best = sweep.best
        self._labels = short_keys(list(sweep.sweep.space))
        self._width = len(str(len(sweep.trials)))
        self._scores = {
            standing.trial.number: standing.score for standing in sweep.standings() if standing.score is not None
        }

    def began(self, trial: Trial, update: int) -> None:
        """The trial starts, or goes on after so many updates."""
        how = f"goes on from update {update:,}" if update else "starts"
        settings = ", ".join(f"{self._labels[key]} {shown_setting(value)}" for key, value in trial.settings.items())
        self._say(f"{self._name(trial)} {how}: {settings}")

    def scored(self, trial: Trial, update: int, score: float) -> None:
        """The trial was evaluated; worth a line where it overtakes the one that led."""
        if not math.isfinite(score):
            return
        led = max(self._scores, key=self._gain, default=None)
        if trial.number not in self._scores or self._gains(score, self._scores[trial.number]):
            self._scores[trial.number] = score
        if led is not None and led != trial.number and self._gains(score, self._scores[led]):
            self._say(f"{self._name(trial)} leads after {update:,} updates: {self._best.metric} {number(score)}")

    def lost_its_worker(self, trial: Trial) -> None:
        """The process of the trial died, and it starts anew in another."""
        self._say(f"{self._name(trial)} lost its worker process, and goes on from its newest checkpoint in another")

    def ended(self, standing: Standing, problem: str | None = None) -> None:
        """The trial ended, well or not; `problem` is of one that could not even say so in its folder."""
        how = {"halved": "stopped by ASHA"}.get(standing.state, standing.state)
        score = "" if standing.score is None else f": {self._best.metric} {number(standing.score)}"
        if standing.state == "running" and problem:  # by somebody else
            how, score = "is left alone", f": {problem}"
        elif standing.state == "failed":
            score = f": {' '.join(standing.problem.split())}"
        elif standing.state == "finished" and standing.score is None:
            score = f": {self._best.metric} was never a number"
        span = f"after {standing.update:,} updates ({duration(standing.seconds)})"
        self._say(f"{self._name(standing.trial)} {how} {span}{score}")

    def _name(self, trial: Trial) -> str:
        return f"trial {trial.number:{self._width}}"

    def _gain(self, trial: int) -> float:
        return -self._scores[trial] if self._best.better == "lower" else self._scores[trial]

    def _gains(self, score: float, over: float) -> bool:
        return score < over if self._best.better == "lower" else score > over


def halving_reason(metric: str, score: float, update: int, reduction_factor: float) -> str:
    """Why a trial is stopped, as its `stop` file and its log say it."""
    return f"{HALVED}{metric} {number(score)} after {update:,} updates is not among the best 1/{reduction_factor:g}"
