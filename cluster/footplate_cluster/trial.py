"""What runs in the process of a trial: its run folder says what to train and where to go on; scores go to Tune."""

import math
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from footplate.execution import local_context, run
from footplate.folder import RunFolder, stop_reason
from footplate.job import Best, Job, read_job
from footplate.launch import chosen_checkpoint
from footplate.step import Step, metric_value
from footplate.tracking.log_file import LogFile
from footplate.tracking.tracker import Guard
from footplate_cluster.marker import SHARED, problem_with

SECONDS_BETWEEN_LOOKS = 0.1


def train_trial(config: dict[str, Any]) -> dict[str, Any]:
    """Train in a run folder until the end, or until it or the whole sweep is asked to stop.

    `config["trial"]` names the folder, the file that stops the sweep, what the marker in the sweep's folder says, and
    where it was started. A trial that fails says so in its folder, and to Tune only in what is returned: for Tune a
    failure is the death of the process, after which this is called again in another. `elsewhere` is why no trial can
    be trained on this machine.
    """
    config = config["trial"]
    folder, stop = RunFolder(Path(config["folder"])), Path(config["stop"])
    if (problem := problem_with(folder.path.parent, config["token"], "sweep's folder", SHARED)) is not None:
        return {"elsewhere": problem}
    if stop.exists():
        return {}
    sys.argv[1:] = ["resume", str(folder.path)]  # W&B uploads it; Ray's has the addresses and the id of the cluster
    if Path(config["working_directory"]).is_dir():  # what the recipe names is found from there
        os.chdir(config["working_directory"])
    try:
        _train(read_job(folder.job), folder, stop)
    except Exception as error:
        status, problem = folder.read_status(), f"{type(error).__name__}: {error}"
        if (status["state"], status.get("error")) != ("failed", problem) and not folder.is_locked():  # it got nowhere
            folder.write_failure(problem)
            with folder.log.open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
        return {"problem": str(error)}
    return {}


def _train(job: Job, folder: RunFolder, stop: Path) -> None:
    # Nobody sees what is printed here.
    log = Guard("log.txt", LogFile(folder.log), print)
    assert job.best is not None  # or there would be no sweep
    scores = _Scores(job.best, folder, stop)
    # For whoever tracks it this is a run on a cluster: no console.
    job = job.model_copy(update={"on": "ray"})
    with chosen_checkpoint(folder, log.message) as checkpoint:
        context = local_context(job, folder.path, checkpoint, scores.stop_requested)
        for step in run(job, replace(context, holds_lock=True)):
            scores.observe(step)


class _Scores:
    """Tells Tune of each evaluation; its verdict is a `stop` file, which the run would only look for now and then."""

    def __init__(self, best: Best, folder: RunFolder, stop: Path) -> None:
        self._best = best
        self._folder = folder
        self._stop_of_all = stop
        self._best_score: float | None = None
        self._reason: str | None = None
        self._looked = -math.inf

    def observe(self, step: Step) -> None:
        """Report the best score so far, and the newest, and wait until Tune has heard of it."""
        metric = step.metrics.get(self._best.metric)
        score = None if metric is None else metric_value(metric)
        if score is None:
            return
        tune.report({"update": step.update, "score": score})
        self._reason = stop_reason(self._folder.stop)

    def stop_requested(self) -> str | None:
        """Why to stop, if so."""
        now = time.monotonic()
        if self._reason is None and now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self._reason = stop_reason(self._stop_of_all)
        return self._reason
