"""A task with actors on Ray: the task itself, the driver, and all its actors share one placement group.

All of it is reserved at once or nothing is, so no driver ever waits for actors that other drivers keep from it.
"""

import sys
from functools import partial
from typing import NamedTuple

import ray
from ray.exceptions import RayTaskError, WorkerCrashedError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.execution import resolve_device, run
from footplate.folder import RunFolder
from footplate.job import Job, job_from_yaml
from footplate.tasks import actors_of, load_task
from footplate_cluster.actors import Actors
from footplate_cluster.parameters import RayParameters
from footplate_cluster.workers import agreed_checkpoint, visible_folder


class ActorShare(NamedTuple):
    """How many actors a job has, and the CPU cores that each reserves."""

    number: int
    cpus: float


def share_of_actors(job: Job, driver: dict[str, float]) -> ActorShare | None:
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
    if room < count:
        raise FootplateError(
            f"resources: {driver['CPU']:g} CPU for the task and {count} x {cpus:g} CPU for its actors are needed, and "
            f"the cluster has {left + driver['CPU']:g} CPU; ask for less with resources.cpus_per_actor, or for fewer"
        )
    return ActorShare(count, cpus)


def train_with_actors(job: Job, folder: RunFolder, driver: dict[str, float], actors: ActorShare) -> None:
    """Train, with the driver and its actors on the cluster, until the run ends. Its errors are raised here."""
    group = placement_group([driver, *({"CPU": actors.cpus} for _ in range(actors.number))], strategy="PACK")
    try:
        while not group.wait(1):  # others may have the cluster now
            if folder.stop.exists():
                return
        place = PlacementGroupSchedulingStrategy(group, 0)
        options = {"num_cpus": driver["CPU"], "num_gpus": driver.get("GPU", 0), "scheduling_strategy": place}
        ray.get(_drive.options(max_retries=0, **options).remote(job.to_yaml(), str(folder.path), group, actors.cpus))
    except RayTaskError as failure:
        if isinstance(failure.cause, FootplateError):
            raise failure.cause from None
        print(failure, file=sys.stderr)
        raise TrainingError(
            f"the task failed as shown above; mend it, then `footplate resume {folder.argument}` goes on"
        ) from None
    except WorkerCrashedError:
        raise TrainingError(
            f"the task's process died; `footplate resume {folder.argument}` goes on from the last checkpoint"
        ) from None
    finally:
        remove_placement_group(group)


@ray.remote
def _drive(job_yaml: str, path: str, group: PlacementGroup, cpus: float) -> None:
    job = job_from_yaml(job_yaml)
    folder = visible_folder(path)
    context = Context(
        seed=job.seed,
        device=resolve_device(job.device),
        precision=job.precision,
        folder=folder.path,
        checkpoint=agreed_checkpoint(folder, rank=0, ranks=1),
        pool=Actors(group, cpus).open,
        share=partial(RayParameters, group=group),
    )
    for _ in run(job, context):
        pass
