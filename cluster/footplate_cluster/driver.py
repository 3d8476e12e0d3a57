"""A task with actors on Ray: the task itself, the driver, and all its actors share one placement group.

All of it is reserved at once or nothing is, so no driver ever waits for actors that other drivers keep from it.
"""

import sys
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from footplate.context import Context
from footplate.errors import FootplateError, TrainingError, described
from footplate.execution import resolve_device, run
from footplate.faults import LostWorkerError
from footplate.folder import RunFolder, is_url
from footplate.job import Job, job_from_yaml
from footplate.launch import newest_checkpoint
from footplate.pool import ADVICE, WorkerDiedError
from footplate.storage import StorageError
from footplate.tracking.log_file import LogFile
from footplate.tracking.tracker import Guard
from footplate_cluster.actors import Actors
from footplate_cluster.capacity import SECONDS_TO_SETTLE, wait_for_room
from footplate_cluster.marker import problem_with, write_marker
from footplate_cluster.parameters import RayParameters
from footplate_cluster.places import seen_here
from footplate_cluster.resources import ActorShare
from footplate_cluster.supervision import Supervisor


class DriverSupervisor(Supervisor):
    """Supervises the driver of a task with actors, which replaces those itself; a driver that is lost starts anew."""

    def __init__(
        self, job: Job, folder: RunFolder, scratch: Path, share: Mapping[str, float], actors: ActorShare
    ) -> None:
        super().__init__(job, folder, scratch, share)
        self._actors = actors

    def _starts(self, patience_seconds: float) -> bool:
        bundles = [dict(self._share), *({"CPU": self._actors.cpus} for _ in range(self._actors.number))]
        group = placement_group(bundles, strategy="PACK")
        try:
            if not group.wait(SECONDS_TO_SETTLE):
                self._wait(group, patience_seconds)
            if self.is_stopping.is_set():
                return False
            lost = self._drive(group)
        finally:
            remove_placement_group(group)
        if lost is None:
            return False
        self._wait_for_the_lock()
        self._note(lost)
        return not self.is_stopping.is_set()

    def _wait(self, group: PlacementGroup, patience_seconds: float) -> None:
        driver = " and ".join(f"{amount:g} {kind}" for kind, amount in self._share.items())
        wanted = f"{driver} for the task and {self._actors.number} x {self._actors.cpus:g} CPU for its actors"
        self._say(f"waiting: {wanted} are needed, and the cluster has no room for that now")
        advice = "resources.cpus_per_actor, or for fewer actors"
        wait_for_room(group.wait, wanted, advice, patience_seconds, self.is_stopping.is_set)

    def _drive(self, group: PlacementGroup) -> str | None:
        """Run the driver until it ends; what was lost if it did not end by itself. Raises its error."""
        token = uuid.uuid4().hex
        if self._folder.url is None:
            write_marker(self._folder.path, token)
        place = PlacementGroupSchedulingStrategy(group, 0)
        cpus, gpus = self._share["CPU"], self._share.get("GPU", 0)
        driver = _drive.options(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy=place)
        place_of_run = self._folder.url or str(self._folder.path)
        told, self._told = self._told, []
        try:
            ray.get(driver.remote(self._job.to_yaml(), place_of_run, token, group, self._actors.cpus, told))
        except RayError as failure:
            return loss_of_driver(failure)
        return None


def loss_of_driver(failure: RayError) -> str:
    """What was lost, in words such as `the driver died`. Raises what ends the run: the task's own error."""
    if isinstance(failure, RayTaskError):
        cause = failure.cause
        if isinstance(cause, WorkerDiedError):  # while all rest nobody replaces it
            return cause.what
        if isinstance(cause, LostWorkerError | StorageError):
            return str(cause)
        if isinstance(cause, FootplateError):
            raise cause from None
        raise TrainingError(f"driver: {' '.join(str(cause).split())}; {ADVICE}") from None
    if isinstance(failure, OutOfMemoryError):
        return "the driver was ended, as its machine ran out of memory"
    if isinstance(failure, WorkerCrashedError):
        return "the driver died"
    if isinstance(failure, NodeDiedError):
        return "the machine of the driver is gone"
    return "the driver was lost"


@ray.remote
def _drive(job_yaml: str, place: str, token: str, group: PlacementGroup, cpus: float, told: Sequence[str]) -> None:
    """Train in this process. `told` is for the log: what the supervisor could not write there."""
    job = job_from_yaml(job_yaml)
    sys.argv[1:] = ["resume", place]  # W&B uploads it; Ray's has the addresses and the id of the cluster
    with seen_here(place, 0, 1) as folder:
        if not is_url(place) and (problem := problem_with(folder.path, token)) is not None:
            raise FootplateError(problem)
        log = Guard("log.txt", LogFile(folder.log), print)  # nobody sees what is printed here
        for line in told:
            log.message(line)
        try:
            with folder.lock():
                context = Context(
                    seed=job.seed,
                    device=resolve_device(job.device),
                    precision=job.precision,
                    folder=folder.path,
                    checkpoint=newest_checkpoint(folder, log.message),
                    holds_lock=True,
                    pool=Actors(group, cpus).open,
                    share=partial(RayParameters, group=group),
                )
                for _ in run(job, context):
                    pass
        except FootplateError:
            raise
        except Exception as error:
            raise TrainingError(f"{described(error)}; {ADVICE}") from error
