"""A task with actors on Ray: the task itself, the driver, and all its actors share one placement group.

All of it is reserved at once or nothing is, so no driver ever waits for actors that other drivers keep from it.
"""

import sys
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ray
from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.execution import resolve_device, run
from footplate.faults import LostWorkerError
from footplate.folder import RunFolder
from footplate.job import Job, job_from_yaml
from footplate.launch import newest_checkpoint
from footplate.pool import ADVICE, described
from footplate.tasks import actors_of, load_task
from footplate.tracking.log_file import LogFile
from footplate.tracking.tracker import Guard
from footplate_cluster.actors import Actors
from footplate_cluster.marker import problem_with, write_marker
from footplate_cluster.parameters import RayParameters
from footplate_cluster.supervision import Supervisor


class ActorShare(NamedTuple):
    """How many actors a job has, and the CPU cores that each reserves."""

    number: int
    cpus: float


def share_of_actors(job: Job, driver: Mapping[str, float]) -> ActorShare | None:
    """What the actors of a job reserve beside its driver; None for a task without any.

    Raises FootplateError at once where the cluster does not have it.
    """
    count = actors_of(load_task(job.task), job)
    asked = job.resources.cpus_per_actor
    if not count:
        if asked is not None:
            raise FootplateError(
                f"resources.cpus_per_actor: {asked:g} is for the actors of a task, and this job has none; leave it out"
            )
        return None
    nodes = sorted(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    left = sum(nodes) - driver["CPU"]
    cpus = asked or 1.0
    if asked is None and job.address in (None, "local") and 0 < left < count:
        cpus = int(100 * left / count) / 100
    nodes[-1] -= driver["CPU"]
    room = sum(int(node / cpus + 1e-9) for node in nodes if node > 0)
    if room < count and not job.resources.wait:
        raise FootplateError(
            f"resources: {driver['CPU']:g} CPU for the task and {count} x {cpus:g} CPU for its actors are needed, and "
            f"the cluster has {left + driver['CPU']:g} CPU; ask for less with "
            "resources.cpus_per_actor, for fewer, or let it grow with --wait"
        )
    return ActorShare(count, cpus)


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
            while not group.wait(1):  # others may have the cluster now
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

    def _drive(self, group: PlacementGroup) -> str | None:
        """Run the driver until it ends; what was lost if it did not end by itself. Raises its error."""
        token = uuid.uuid4().hex
        write_marker(self._folder.path, token)
        place = PlacementGroupSchedulingStrategy(group, 0)
        cpus, gpus = self._share["CPU"], self._share.get("GPU", 0)
        driver = _drive.options(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy=place)
        try:
            ray.get(driver.remote(self._job.to_yaml(), str(self._folder.path), token, group, self._actors.cpus))
        except RayTaskError as failure:
            if isinstance(failure.cause, LostWorkerError):
                return str(failure.cause)
            if isinstance(failure.cause, FootplateError):
                raise failure.cause from None
            raise TrainingError(f"driver: {' '.join(str(failure.cause).split())}; {ADVICE}") from None
        except WorkerCrashedError:
            return "the driver died"
        except NodeDiedError:
            return "the machine of the driver is gone"
        return None


@ray.remote
def _drive(job_yaml: str, path: str, token: str, group: PlacementGroup, cpus: float) -> None:
    job, folder = job_from_yaml(job_yaml), RunFolder(Path(path))
    if (problem := problem_with(folder.path, token)) is not None:
        raise FootplateError(problem)
    sys.argv[1:] = ["resume", str(folder.path)]  # W&B uploads it; Ray's has the addresses and the id of the cluster
    log = Guard("log.txt", LogFile(folder.log), print)  # nobody sees what is printed here
    context = Context(
        seed=job.seed,
        device=resolve_device(job.device),
        precision=job.precision,
        folder=folder.path,
        checkpoint=newest_checkpoint(folder, log.message),
        pool=Actors(group, cpus).open,
        share=partial(RayParameters, group=group),
    )
    try:
        for _ in run(job, context):
            pass
    except FootplateError:
        raise
    except Exception as error:
        raise TrainingError(f"{described(error)}; {ADVICE}") from error
