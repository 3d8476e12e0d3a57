"""What each worker and each actor reserves, and whether a cluster has it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from footplate.errors import FootplateError
from footplate.job import Job
from footplate.tasks import actors_of, load_task


def room_on(nodes: Sequence[Mapping[str, float]], share: Mapping[str, float]) -> int:
    """For how many workers, actors or trials such nodes have room, whoever uses them now; each lies on one node.

    >>> room_on([{"CPU": 4}, {"CPU": 3}], {"CPU": 2}), room_on([{"CPU": 1}], {"CPU": 0.1})
    (3, 10)
    """
    return sum(int(min(node.get(kind, 0) / amount for kind, amount in share.items()) + 1e-9) for node in nodes)


def share_of_a_worker(job: Job, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The resources that each worker reserves on a cluster of such nodes.

    Raises FootplateError where the cluster does not have them, unless the job waits until it does, and where the job
    names a device on which workers cannot compute: they take the GPUs that Ray reserves for them, else the CPU.
    """
    _refuse_another_device(job)
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    workers = job.resources.fewest_workers
    gpus = job.resources.gpus_per_worker
    if gpus == 0 and (job.device == "cuda" or (job.device == "auto" and total["GPU"] >= workers)):
        gpus = 1
    asked: dict[str, float] = {"CPU": job.resources.cpus_per_worker, "GPU": gpus}
    share = {kind: amount for kind, amount in asked.items() if amount}
    if job.resources.wait:
        return share
    for kind, amount in share.items():
        needed = workers * amount
        if needed > (there := total[kind]):
            raise FootplateError(
                f"resources: {workers} x {amount:g} {kind} = {needed:g} {kind} are needed, the cluster has {there:g}; "
                f"ask for fewer with --workers or resources.{kind.lower()}s_per_worker, or let it grow with --wait"
            )
    if (room := room_on(nodes, share)) < workers:
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in share.items())
        raise FootplateError(
            f"resources: the cluster's nodes have room for {room} worker{'s' * (room != 1)} of {wanted} each, "
            f"and {workers} are needed; a worker lies on one node: "
            "ask for less with resources.cpus_per_worker or --workers"
        )
    return share


def _refuse_another_device(job: Job) -> None:
    gpus = job.resources.gpus_per_worker
    if job.device == "cpu" and gpus > 0:
        raise FootplateError(
            f"device: cpu, and resources.gpus_per_worker reserves {gpus} GPU{'s' * (gpus > 1)} for each worker; "
            "drop one of the two"
        )
    if job.device == "mps" and not actors_of(load_task(job.task), job):
        raise FootplateError("device: mps: workers on Ray compute on cpu or cuda; drop --on ray, or this")


class ActorShare(NamedTuple):
    """How many actors a job has, and the CPU cores that each reserves."""

    number: int
    cpus: float


def share_of_actors(job: Job, driver: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> ActorShare | None:
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
    cores = sorted(node.get("CPU", 0) for node in nodes)
    left = sum(cores) - driver["CPU"]
    cpus = asked or 1.0
    if asked is None and job.address in (None, "local") and 0 < left < count:
        cpus = int(100 * left / count) / 100
    cores[-1] -= driver["CPU"]
    room = room_on([{"CPU": node} for node in cores if node > 0], {"CPU": cpus})
    if room < count and not job.resources.wait:
        raise FootplateError(
            f"resources: {driver['CPU']:g} CPU for the task and {count} x {cpus:g} CPU for its actors are needed, and "
            f"the cluster has {left + driver['CPU']:g} CPU; ask for less with "
            "resources.cpus_per_actor, for fewer, or let it grow with --wait"
        )
    return ActorShare(count, cpus)


def require_resources(job: Job, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise FootplateError where a cluster of such nodes does not have what the job reserves."""
    share_of_actors(job, share_of_a_worker(job, nodes), nodes)
