"""`--on ray`: the launcher behind the entry point `footplate.launchers`.

Ray starts the workers and watches them; where a run resumes is decided by our checkpoint store alone.
"""

import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from footplate.errors import FootplateError, TrainingError
from footplate.folder import RunFolder
from footplate.interrupts import stop_on_signals
from footplate.job import Job
from footplate.tracking.console import Console
from footplate.tracking.follow import follow
from footplate_cluster.connection import connected, share_of_a_worker
from footplate_cluster.driver import share_of_actors, train_with_actors
from footplate_cluster.workers import train_worker


def launch(job: Job, folder: RunFolder) -> None:
    """Train on Ray, showing in this terminal what rank 0 writes into the run folder.

    Ctrl-C and SIGTERM write the folder's `stop` file: every worker leaves after the same update, having saved.
    Raises TrainingError where a worker failed, FootplateError where the cluster cannot run the job.
    """
    folder.forget_stop()
    scratch = folder.path / "ray"
    with stop_on_signals() as stop_requested, connected(job.address), _removed_afterwards(scratch):
        fitting = _Fitting(job, folder, scratch)
        fitting.start()

        asked: list[str] = []

        def done() -> bool:
            if not asked and (reason := stop_requested()) is not None:
                asked.append(reason)
                folder.stop.write_text(reason)
            return not fitting.is_alive()

        first = (job.best.metric,) if job.best is not None else ()
        follow(folder, Console(job.updates, folder.name, first=first), done)
        fitting.join()
    if fitting.error is not None:
        raise _explained(fitting.error, folder)


@contextmanager
def _removed_afterwards(scratch: Path) -> Iterator[None]:
    """Ray Train insists on a folder for book-keeping that nobody reads here."""
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Fitting(threading.Thread):
    """`TorchTrainer.fit` in a thread of its own: the main thread follows the run and takes the signals."""

    def __init__(self, job: Job, folder: RunFolder, scratch: Path) -> None:
        super().__init__(name="ray-train", daemon=True)
        self.error: BaseException | None = None
        self._job = job
        self._folder = folder
        self._scratch = scratch
        self._share = share_of_a_worker(job)
        self._actors = share_of_actors(job, self._share)

    def run(self) -> None:
        try:
            if self._actors:
                train_with_actors(self._job, self._folder, self._share, self._actors)
            else:
                self._fit()
        except BaseException as error:  # whatever it is, the main thread raises it
            self.error = error

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = self._share.get("GPU", 0)
        TorchTrainer(
            train_worker,
            train_loop_config={"job": self._job.to_yaml(), "folder": str(self._folder.path)},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=self._job.resources.workers, use_gpu=gpus > 0, resources_per_worker=self._share
            ),
            # A fresh name each time: Ray would silently resume its own book-keeping under an old one.
            run_config=RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(self._scratch),
                failure_config=FailureConfig(max_failures=0),
            ),
        ).fit()


def _explained(error: BaseException, folder: RunFolder) -> BaseException:
    """The worker's own error if it is one for the user; else its whole trace on stderr, and a line to sum it up."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, FootplateError):
            return cause
        print(failure, file=sys.stderr)
        return TrainingError(
            f"worker {rank}: failed as shown above; mend it, then `footplate resume {folder.argument}` goes on"
        )
    return error
