"""Between Tune and a sweep: what Tune tells becomes lines and verdicts, and a stop that was asked for reaches Tune."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from footplate.sweeps.folder import SweepFolder
from footplate.sweeps.progress import SweepProgress
from footplate.sweeps.sweep import Trial
from footplate_cluster.halving import Halving


@dataclass
class Asked:
    """Whether the sweep was asked to stop. Its own object, as Tune pickles what it is given, and no thread can be."""

    to_stop: bool = False
    problem: str | None = None
    """Why it must be asked to, and fails."""


class Scheduler(FIFOScheduler):
    """Trials in order; those that do badly are asked to end by their `stop` file, so that they save and close.

    Tune's own way to stop a trial leaves its thread, its trackers and its last checkpoint to themselves.
    """

    def __init__(
        self,
        sweep: SweepFolder,
        trials: Mapping[int, Trial],
        halving: Halving | None,
        progress: SweepProgress,
        asked: Asked,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sweep = sweep
        self._trials = trials
        self._halving = halving
        self._progress = progress
        self._asked = asked

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Every result is told; whoever reported it waits until this returns."""
        if "score" in result:
            own, update, score = self._trials[number_of(trial)], int(result["update"]), float(result["score"])
            self._progress.scored(own, update, score)
            reason = None if self._halving is None else self._halving.verdict(own.number, update, score)
            if reason is not None:
                self._sweep.folder(own).stop.write_text(reason, encoding="utf-8")
        return TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The next in order; none once the sweep is asked to stop."""
        return None if self._asked.to_stop else super().choose_trial_to_run(tune_controller)


class Listener(Callback):
    """Tells of trials that begin and end."""

    def __init__(self, sweep: SweepFolder, trials: Mapping[int, Trial], progress: SweepProgress, asked: Asked) -> None:
        super().__init__()
        self.running: set[int] = set()
        self._sweep = sweep
        self._trials = trials
        self._progress = progress
        self._asked = asked

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """The trial has a process."""
        own = self._trials[number_of(trial)]
        self.running.add(own.number)
        if self._asked.problem is None:  # Tune starts another before it can be asked not to, which ends at once
            self._progress.began(own, self._sweep.standing(own).update)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """The trial ended by itself, or was asked to; or its machine does not see the sweep, which ends the sweep."""
        own, result = self._trials[number_of(trial)], trial.last_result or {}
        self.running.discard(own.number)
        if "elsewhere" in result:
            self._asked.problem = result["elsewhere"]
            return
        self._progress.ended(self._sweep.standing(own), result.get("problem"))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its process died, and another will be started."""
        own = self._trials[number_of(trial)]
        self.running.discard(own.number)
        self._progress.lost_its_worker(own)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its process died once too often."""
        own = self._trials[number_of(trial)]
        self.running.discard(own.number)
        self._sweep.give_up(own)
        self._progress.ended(self._sweep.standing(own))


class StopWhenIdle(Stopper):
    """Once the sweep is asked to stop, ends it as soon as no trial is at work."""

    def __init__(self, listener: Listener, asked: Asked) -> None:
        self._listener = listener
        self._asked = asked

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether all is done that can be."""
        return self._asked.to_stop and not self._listener.running


def number_of(trial: Any) -> int:
    """The sweep's number of one of Tune's trials."""
    return int(trial.config["trial"]["number"])
