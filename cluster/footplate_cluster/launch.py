"""`--on ray`: the launcher behind the entry point `footplate.launchers`.

Ray starts the workers and watches them; where a run resumes is decided by our checkpoint store alone.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from footplate.errors import FootplateError
from footplate.folder import RunFolder
from footplate.interrupts import stop_on_signals
from footplate.job import Job
from footplate.launch import kept_fresh
from footplate.tracking.console import Console
from footplate.tracking.follow import follow
from footplate.tracking.log_file import LogFile
from footplate_cluster.connection import connected
from footplate_cluster.resources import share_of_a_worker, share_of_actors
from footplate_cluster.submitted import record_submission


def launch(job: Job, folder: RunFolder) -> None:
    """Train on Ray, showing in this terminal what rank 0 writes into the run folder.

    Ctrl-C and SIGTERM write the folder's `stop` file: every worker leaves after the same update, having saved.
    Raises TrainingError where a worker failed, or was lost once too often; FootplateError where the cluster cannot run
    the job.
    """
    if folder.url is None and folder.is_locked():
        raise FootplateError(f"{folder.path}: this run is being trained by another process; stop that one first")
    folder.forget_stop()
    record_submission(folder)
    scratch = folder.path / "ray"
    with (
        stop_on_signals() as stop_requested,
        connected(job.address),
        _removed_afterwards(scratch),
        kept_fresh(folder) as refresh,
    ):
        from footplate_cluster.capacity import nodes
        from footplate_cluster.driver import DriverSupervisor
        from footplate_cluster.supervision import Supervisor

        there = nodes()
        share = share_of_a_worker(job, there)
        actors = share_of_actors(job, share, there)
        supervisor = Supervisor(job, folder, scratch, share)
        if actors is not None:
            supervisor = DriverSupervisor(job, folder, scratch, share, actors)

        def done() -> bool:
            if supervisor.ident is None:  # not before somebody follows what it says
                supervisor.start()
            if (reason := stop_requested()) is not None:
                supervisor.ask_to_stop(reason)
            if supervisor.is_alive():
                return False
            refresh()
            return True

        first = (job.best.metric,) if job.best is not None else ()
        follow(folder, Console(job.updates, folder.name, first=first), done)
        supervisor.join()
    if supervisor.error is not None:
        _write_how_it_ended(supervisor.error, folder)
        raise supervisor.error


@contextmanager
def _removed_afterwards(scratch: Path) -> Iterator[None]:
    """Ray Train insists on a folder for book-keeping that nobody reads here."""
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_how_it_ended(error: BaseException, folder: RunFolder) -> None:
    """For a run whose first worker could not do so: it was lost, or waited for another one that failed."""
    if folder.read_status()["state"] == "killed" and folder.url is None:  # at a URL only who trains may write
        folder.write_failure(f"{type(error).__name__}: {error}")
        LogFile(folder.log).message(f"error: {error}")
