"""Sweeps on Ray Tune: the sweeper behind the entry point `footplate.sweepers`.

Tune places trials, runs as many at a time as there is room for, and replaces processes that die. Which trials there are,
and where each goes on, is decided by the sweep's folder alone; what Tune keeps for itself is thrown away.
"""

import logging
import os
import shutil
import threading
import uuid
from pathlib import Path

import ray
from ray import tune

from footplate.errors import FootplateError
from footplate.folder import RunFolder, relative
from footplate.interrupts import stop_on_signals
from footplate.job import Job
from footplate.sweeps.folder import SweepFolder
from footplate.sweeps.progress import SweepProgress
from footplate.sweeps.sweep import Sweep, Trial
from footplate_cluster.connection import connected
from footplate_cluster.events import Asked, Listener, Scheduler, StopWhenIdle
from footplate_cluster.halving import halving_of
from footplate_cluster.trial import train_trial

# Tune reads these. Its own tables and files would stand beside ours, and its folder is no place to look for a recipe's files.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

RESTARTS = 3
"""How many processes of a trial may die before it counts as failed."""
SECONDS_BETWEEN_LOOKS = 0.1


def run_sweep(sweep: SweepFolder) -> None:
    """Run the trials that are not over yet, each from its newest checkpoint, saying a line for each event.

    Ctrl-C and SIGTERM let the running trials save and end. Raises FootplateError where the cluster has no room for a trial.
    """
    waiting = [standing.trial for standing in sweep.standings() if not standing.is_over]
    scratch = sweep.path / "ray"
    sweep.stop.unlink(missing_ok=True)
    with RunFolder(sweep.path).lock(), stop_on_signals() as stop_requested, connected(sweep.sweep.address):
        share, room = share_of_a_trial(sweep.sweep, sweep.job())
        at_a_time = min(room, sweep.sweep.concurrent or room, len(waiting))
        print(
            f"{sweep.name}: {len(waiting)} of {len(sweep.trials)} trials to run, {at_a_time} at a time; "
            f"`footplate runs --runs {relative(sweep.path)}` lists them",
            flush=True,
        )
        tuning = _Tuning(sweep, waiting, share, at_a_time, scratch)
        try:
            tuning.start()
            while tuning.is_alive():
                if not tuning.asked.to_stop and (reason := stop_requested()) is not None:
                    sweep.stop.write_text(reason)
                    tuning.asked.to_stop = True
                tuning.join(SECONDS_BETWEEN_LOOKS)
        finally:
            sweep.stop.unlink(missing_ok=True)
            shutil.rmtree(scratch, ignore_errors=True)
    if tuning.error is not None:
        raise tuning.error


def share_of_a_trial(sweep: Sweep, job: Job) -> tuple[dict[str, float], int]:
    """What each trial reserves, and how many there is room for. Raises FootplateError where there is none for any."""
    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gpus = sweep.resources.gpus
    if gpus is None:
        gpus = 1.0 if job.device == "cuda" or (job.device == "auto" and any(node.get("GPU") for node in nodes)) else 0.0
    share = {kind: amount for kind, amount in (("CPU", sweep.resources.cpus), ("GPU", gpus)) if amount}
    room = room_for(share, nodes)
    if not room:
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in share.items())
        there = "; ".join(
            " and ".join(f"{node.get(kind, 0):g} {kind}" for kind in share) for node in nodes
        )
        raise FootplateError(
            f"resources: a trial needs {wanted} on one node, and the cluster's nodes have {there}; "
            "ask for less with resources.cpus or resources.gpus"
        )
    return share, room


def room_for(share: dict[str, float], nodes: list[dict[str, float]]) -> int:
    """How many trials of this share fit onto nodes, each on one of them."""
    return sum(int(min(node.get(kind, 0) / amount for kind, amount in share.items())) for node in nodes)


class _Tuning(threading.Thread):
    """`Tuner.fit` in a thread of its own: the main thread takes the signals."""

    def __init__(
        self, sweep: SweepFolder, trials: list[Trial], share: dict[str, float], at_a_time: int, scratch: Path
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
        listener = Listener(self._sweep, self._trials, progress)
        scheduler = Scheduler(self._sweep, self._trials, halving_of(self._sweep), progress, self.asked)
        place = {"stop": str(self._sweep.stop), "working_directory": str(Path.cwd())}
        trials = [
            {"number": number, "folder": str(self._sweep.folder(trial).path), **place}
            for number, trial in self._trials.items()
        ]
        tune.Tuner(
            tune.with_resources(train_trial, {kind.lower(): amount for kind, amount in self._share.items()}),
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(
                scheduler=scheduler, max_concurrent_trials=self._at_a_time, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(self._scratch),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                callbacks=[listener],
                stop=StopWhenIdle(listener, self.asked),
                verbose=0,
            ),
        ).fit()
