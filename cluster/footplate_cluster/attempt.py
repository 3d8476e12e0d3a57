"""One start of the workers: `TorchTrainer.fit` in a thread of its own, with nothing left for Ray to decide."""

import math
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from footplate.folder import RunFolder
from footplate.job import Job
from footplate_cluster.marker import write_marker
from footplate_cluster.roll import Roll
from footplate_cluster.workers import train_worker

SECONDS_TO_START = 300
"""What Ray Train gives its workers to start; a minute by default, which a busy machine exceeds."""


class Attempt(threading.Thread):
    """Runs the job on so many workers until it ends, or fails with `error`."""

    error: BaseException | None = None

    def __init__(self, job: Job, folder: RunFolder, scratch: Path, share: Mapping[str, float], workers: int) -> None:
        super().__init__(name="ray-train", daemon=True)
        self.workers = workers
        # A fresh name each time: Ray would silently resume its own book-keeping under an old one.
        self._start_name = uuid.uuid4().hex
        self.roll = Roll(self._start_name)
        self._job = job
        self._folder = folder
        self._scratch = scratch
        self._share = share

    def run(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = self._share.get("GPU", 0)
        patience = math.ceil(self._job.faults.timeout_seconds)
        try:
            write_marker(self._folder.path, self._start_name)
            with _settings_of_ray_train(patience):
                TorchTrainer(
                    train_worker,
                    train_loop_config={
                        "job": self._job.to_yaml(),
                        "folder": str(self._folder.path),
                        "start": self._start_name,
                    },
                    torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=patience),
                    scaling_config=ScalingConfig(
                        num_workers=self.workers, use_gpu=gpus > 0, resources_per_worker=dict(self._share)
                    ),
                    run_config=RunConfig(
                        name=self._start_name,
                        storage_path=str(self._scratch),
                        failure_config=FailureConfig(  # type: ignore[call-arg]  # mypy sees the first version's
                            max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                        ),
                    ),
                ).fit()
        except BaseException as error:  # whatever it is, the supervisor looks at it
            self.error = error


@contextmanager
def _settings_of_ray_train(patience_seconds: int) -> Iterator[None]:
    """What Ray Train takes from the environment of the process that calls `fit`, and hands on to its own."""
    settings = {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(patience_seconds),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(SECONDS_TO_START),
        # It restarts workers by itself, and costs a process; the supervisor looks for machines that leave.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
