"""Launching: where a run folder meets a job, in this process or by a launcher that another package brings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Protocol, cast

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.errors import FootplateError
from footplate.folder import RunFolder
from footplate.interrupts import say_if_heard, stop_on_signals
from footplate.job import Faults, Job, Resources


class Launcher(Protocol):
    """Run the job in its folder, from the newest checkpoint there if there is one, until it ends."""

    def __call__(self, job: Job, folder: RunFolder) -> None: ...


def launch(job: Job, folder: RunFolder) -> None:
    """Run the job where it says (`on`), going on from the newest checkpoint in its folder."""
    find_launcher(job)(job, folder)


def find_launcher(job: Job) -> Launcher:
    """What runs the job where it says. Raises FootplateError, before anything is written, where that can't be."""
    if job.on == "here":
        _refuse_what_only_a_cluster_has(job)
        return _launch_here
    for entry in entry_points(group="footplate.launchers", name=job.on):
        try:
            return cast(Launcher, entry.load().launch)
        except ModuleNotFoundError as error:
            if error.name != job.on:
                raise
            raise FootplateError(f"on: {job.on}: not installed; pip install 'footplate[{job.on}]'") from error
    raise FootplateError(f"on: {job.on}: no installed package offers this launcher; use on=here")


class Submitter(Protocol):
    """Send the resumption of a run to a cluster elsewhere."""

    def __call__(self, run: str, runs: str, address: str, *, follow: bool, allow_open: bool) -> None: ...


def find_submitter() -> Submitter:
    """What submits to a cluster, from the entry points `footplate.submitters`. Raises FootplateError without any."""
    for entry in entry_points(group="footplate.submitters"):
        return cast(Submitter, entry.load().submit_resumption)
    raise FootplateError("--address: no installed package submits to a cluster; give auto or host:6379")


def _refuse_what_only_a_cluster_has(job: Job) -> None:
    if (count := job.resources.most_workers) > 1:
        raise FootplateError(f"resources.workers: {count} workers need Ray; add --on ray, or use 1 worker")
    if job.resources != Resources():
        raise FootplateError(
            "resources: are what a cluster reserves, and this job runs here; add --on ray, or drop them"
        )
    if job.faults != Faults():
        raise FootplateError(
            "faults: are what a cluster run does about lost workers, and this job runs here; add --on ray, or drop them"
        )
    if job.address is not None:
        raise FootplateError(f"address: {job.address} is a cluster's, and this job runs here; add --on ray, or drop it")


def newest_checkpoint(folder: RunFolder, say: Callable[[str], None]) -> Checkpoint | None:
    """What a run goes on from; None where it starts, or starts over, which is said. Raises CheckpointError."""
    checkpoint = CheckpointStore(folder.checkpoints, say).newest()
    if checkpoint is None and folder.metrics.exists():
        say(f"{folder.checkpoints}: has no checkpoint to go on from; starting over")
    return checkpoint


@contextmanager
def chosen_checkpoint(folder: RunFolder, say: Callable[[str], None] = say_if_heard) -> Iterator[Checkpoint | None]:
    """What a run goes on from, chosen and then used under the folder's lock: nobody trains it further meanwhile.

    A request to stop from before is forgotten. Raises FootplateError where another process trains the run.
    """
    with folder.lock():
        folder.forget_stop()
        yield newest_checkpoint(folder, say)


@contextmanager
def trained_here(folder: RunFolder, say: Callable[[str], None] = say_if_heard) -> Iterator[RunFolder]:
    """The folder to train a run in: its own, or of a run at a URL the one that `footplate.remote` keeps and mirrors."""
    if folder.url is None:
        yield folder
        return
    from footplate import remote

    with remote.trained_here(folder.url, say) as here:
        yield here


@contextmanager
def kept_fresh(folder: RunFolder) -> Iterator[Callable[[], None]]:
    """Meanwhile a run that is trained elsewhere can be followed in its folder; to be called once it has ended."""
    if folder.url is None:
        yield lambda: None
        return
    from footplate import remote

    with remote.kept_fresh(folder.url) as refresh:
        yield refresh


def _launch_here(job: Job, folder: RunFolder) -> None:
    from footplate.execution import local_context, run

    with stop_on_signals() as stop_requested, trained_here(folder) as folder, chosen_checkpoint(folder) as checkpoint:
        stop_requested.nothing_to_save = True
        context = replace(local_context(job, folder.path, checkpoint, stop_requested), holds_lock=True)
        for step in run(job, context):
            stop_requested.nothing_to_save &= step.activity is not None
