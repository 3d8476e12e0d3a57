"""Ray Tune at work on the trials of a sweep.

To be imported after `footplate_cluster.connection`, which sets what Ray reads when it is imported.
"""

import logging
import os
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

from ray import tune
from ray.tune.execution import class_cache

from footplate.sweeps.folder import SweepFolder
from footplate.sweeps.progress import SweepProgress
from footplate.sweeps.sweep import Trial
from footplate_cluster.events import Asked, Listener, Scheduler, StopWhenIdle
from footplate_cluster.halving import halving_of
from footplate_cluster.marker import write_marker
from footplate_cluster.trial import train_trial

# Tune reads these. Its own tables and files would stand beside ours, and in its folder no recipe finds its files.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

# Tune would write these of the driver's environment into the metadata of its actors, which whoever reaches the cluster
# can list. A worker that needs them has them in the cluster's own environment.
class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}

RESTARTS = 3
"""How many processes of a trial may die before it counts as failed."""


class Tuning(threading.Thread):
    """`Tuner.fit` in a thread of its own: the main thread takes the signals."""

    def __init__(
        self, sweep: SweepFolder, trials: Sequence[Trial], share: dict[str, float], at_a_time: int, scratch: Path
    ) -> None:
        super().__init__(name="ray-tune", daemon=True)
        self.error: BaseException | None = None
        self.asked = Asked()
        self._sweep = sweep
        self._trials = {trial.number: trial for trial in trials}
        self._share = share
        self._at_a_time = at_a_time
        self._scratch = scratch

    def run(self) -> None:
        try:
            self._fit()
        except BaseException as error:  # whatever it is, the main thread raises it
            self.error = error

    def _fit(self) -> None:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        progress = SweepProgress(self._sweep)
        listener = Listener(self._sweep, self._trials, progress, self.asked)
        scheduler = Scheduler(self._sweep, self._trials, halving_of(self._sweep), progress, self.asked)
        token = uuid.uuid4().hex
        write_marker(self._sweep.path, token)
        place = {"stop": str(self._sweep.stop), "token": token, "working_directory": str(Path.cwd())}
        trials = [
            {"number": number, "folder": str(self._sweep.folder(trial).path), **place}
            for number, trial in self._trials.items()
        ]
        tune.Tuner(
            tune.with_resources(train_trial, {kind.lower(): amount for kind, amount in self._share.items()}),
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=self._at_a_time, reuse_actors=True),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(self._scratch),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                callbacks=[listener],
                stop=StopWhenIdle(listener, self.asked),
                verbose=0,
            ),
        ).fit()
