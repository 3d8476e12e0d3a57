"""Evaluating a run after the fact: a checkpoint of it, with its own job or with some keys changed."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.errors import CheckpointError, FootplateError
from footplate.execution import local_context, process_settings
from footplate.folder import RunFolder
from footplate.job import Job, load_job, read_job
from footplate.step import metric_value
from footplate.tasks import load_task
from footplate.tracking.console import Console
from footplate.tracking.log_file import SampleFiles
from footplate.tracking.messages import messages_to

_KEYS_OF_ANY_JOB = ("seed", "device", "precision", "threads", "deterministic", "debug")
_SCHEDULE = "evaluate.every_updates"
_KEPT = "evaluations"


def choose_checkpoint(folder: RunFolder, which: str, job: Job) -> Checkpoint:
    """The run's checkpoint called `best` (the newest where none has a score), `last`, or by its update.

    Its weights are verified; large pieces that only training needs, such as a replay, are not looked at. Raises
    CheckpointError where there is none.
    """
    higher = job.best is None or job.best.better == "higher"

    def say(line: str) -> None:
        print(line, file=sys.stderr)  # stdout is where translations go

    store = CheckpointStore(folder.checkpoints, say, higher_is_better=higher, segments=False)
    if which.isdecimal() and which.isascii():
        if int(which) not in store.updates():
            there = ", ".join(map(str, store.updates())) or "none"
            raise CheckpointError(f"--checkpoint: {folder.name} has none of update {which}; there are: {there}")
        return store.at(int(which))
    if which not in {"best", "last"}:
        raise CheckpointError(f"--checkpoint: {which!r} is neither best, last nor the number of an update")
    checkpoint = (store.best() if which == "best" else None) or store.newest()
    if checkpoint is None:
        raise CheckpointError(f"{folder.path}: has no checkpoint that can be read; train it further first")
    return checkpoint


def load_for_evaluation(folder: RunFolder, overrides: Sequence[str], ignored: Sequence[str] = ()) -> Job:
    """The job of a run with some keys changed.

    Raises FootplateError for a key that matters only in training, and for one of those, or within one of those, that
    the command pays no heed to (`ignored`).
    """
    job = load_job(folder.job, overrides)
    task = load_task(job.task)
    keys = [*getattr(task, "EVALUATION_KEYS", ()), *_KEYS_OF_ANY_JOB]
    for override in overrides:
        key = override.partition("=")[0].strip()
        if hasattr(task, "EVALUATION_KEYS") and key.partition(".")[0] not in keys:
            raise FootplateError(f"{key}: changes nothing once a run is trained; leave it out ({', '.join(keys)} can)")
        if key == _SCHEDULE:
            raise FootplateError(f"{key}: changes nothing once a run is trained; leave it out")
        if any(f"{key}.".startswith(f"{name}.") for name in ignored):
            raise FootplateError(f"{key}: changes nothing in this command; leave it out")
    if hasattr(task, "check_evaluation"):
        task.check_evaluation(read_job(folder.job).config, job.config)
    return job


def evaluate_run(folder: RunFolder, overrides: Sequence[str], which: str) -> dict[str, float]:
    """Evaluate, showing progress; prints and returns the metrics."""
    job = load_for_evaluation(folder, overrides)
    task = load_task(job.task)
    if not hasattr(task, "evaluate"):
        raise FootplateError(
            f"{folder.name}: the task {job.task} has no evaluate(config, context); add one to evaluate after training"
        )
    checkpoint = choose_checkpoint(folder, which, job)
    metrics: dict[str, float] = {}
    with process_settings(job), ExitStack() as on_exit:
        console = Console(job.updates, folder.name)
        on_exit.callback(console.close, "finished")
        on_exit.enter_context(messages_to(console))
        for step in task.evaluate(job.config, local_context(job, folder.path, checkpoint)):
            if step.activity is not None:
                console.activity(step.activity)
            if step.media:
                console.media(step.update, step.media)
                SampleFiles(folder.path / _KEPT).pictures(step.update, step.media)
            numbers = ((name, metric_value(metric)) for name, metric in step.metrics.items())
            metrics |= {name: value for name, value in numbers if value is not None}
    print(f"{folder.name}, checkpoint of update {checkpoint.update}:")
    for name, value in metrics.items():
        print(f"  {name:24} {value:.6g}")
    return metrics
