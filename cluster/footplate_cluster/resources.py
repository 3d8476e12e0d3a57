"""What each worker reserves, and whether a cluster has it."""

from collections.abc import Mapping, Sequence

from footplate.errors import FootplateError
from footplate.job import Job


def room_on(nodes: Sequence[Mapping[str, float]], share: Mapping[str, float]) -> int:
    """For how many workers such nodes have room, whoever is using them now; a worker lies on one node.

    >>> room_on([{"CPU": 4}, {"CPU": 3}], {"CPU": 2})
    3
    """
    return sum(int(min(node.get(kind, 0) // amount for kind, amount in share.items())) for node in nodes)


def share_of_a_worker(job: Job, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The resources that each worker reserves on a cluster of such nodes.

    Raises FootplateError where the cluster does not have them, unless the job waits until it does.
    """
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
            f"resources: the cluster's nodes have room for {room} workers of {wanted} each, and {workers} are needed; "
            "a worker lies on one node: ask for less with resources.cpus_per_worker or --workers"
        )
    return share
