"""`--on ray`: the launcher behind the entry point `footplate.launchers`.

Ray starts the workers and watches them; where a run resumes is decided by our checkpoint store alone.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from footplate.folder import RunFolder
from footplate.interrupts import stop_on_signals
from footplate.job import Job
from footplate.tracking.console import Console
from footplate.tracking.follow import follow
from footplate.tracking.log_file import LogFile
from footplate_cluster.connection import connected, share_of_a_worker
from footplate_cluster.driver import DriverSupervisor, share_of_actors
from footplate_cluster.supervision import Supervisor


def launch(job: Job, folder: RunFolder) -> None:
    """Train on Ray, showing in this terminal what rank 0 writes into the run folder.

    Ctrl-C and SIGTERM write the folder's `stop` file: every worker leaves after the same update, having saved.
    Raises TrainingError where a worker failed, or was lost once too often; FootplateError where the cluster cannot run
    the job.
    """
    folder.forget_stop()
    scratch = folder.path / "ray"
    with stop_on_signals() as stop_requested, connected(job.address), _removed_afterwards(scratch):
        share = share_of_a_worker(job)
        actors = share_of_actors(job, share)
        supervisor = Supervisor(job, folder, scratch, share)
        if actors is not None:
            supervisor = DriverSupervisor(job, folder, scratch, share, actors)

        def done() -> bool:
            if supervisor.ident is None:  # not before somebody follows what it says
                supervisor.start()
            if not supervisor.is_stopping.is_set() and (reason := stop_requested()) is not None:
                supervisor.is_stopping.set()
                folder.stop.write_text(reason)
            return not supervisor.is_alive()

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
    status = folder.read_status()
    if status["state"] == "killed":
        folder.write_status({**status, "state": "failed", "error": f"{type(error).__name__}: {error}"})
        LogFile(folder.log).message(f"error: {error}")
