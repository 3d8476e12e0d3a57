"""What became of workers that failed: a mistake, which ends the run, or a loss, which does not.

An exception out of the user's code, a FootplateError, too little memory in torch: the same would happen again, so the
run ends at once. A process that died, a machine that is gone, a worker that does not answer: the run may go on.
"""

from collections.abc import Mapping

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from footplate.errors import FootplateError, TrainingError
from footplate.faults import LostWorkerError, SilentWorkerError
from footplate.storage import StorageError
from footplate_cluster.roll import Place

_NOT_STARTED = (WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError)


def loss(error: BaseException, places: Mapping[int, Place], waiting: set[int], patience_seconds: float) -> str:
    """What was lost, in words such as `worker 1 on host died`.

    `places` and `waiting` are those of the roll. Raises what ends the run: the worker's own error, or this one.
    """
    if isinstance(error, ControllerError):
        cause = getattr(error.controller_failure, "cause", error.controller_failure)
        if isinstance(cause, _NOT_STARTED):
            return "the workers could not be started"
        # Such as code that cannot be imported there.
        raise TrainingError(
            f"the workers could not be started: {(str(cause) or repr(cause)).splitlines()[0]}"
        ) from error
    if isinstance(error, RayActorError):
        return "Ray's controller of the run died"
    if not isinstance(error, WorkerGroupError):
        raise error
    failures: dict[int, BaseException] = dict(sorted(error.worker_failures.items()))
    for rank, failure in failures.items():
        if not isinstance(failure, _LOSSES):
            raise _own(failure, rank)
    died = {rank: failure for rank, failure in failures.items() if isinstance(failure, WorkerHealthCheckFailedError)}
    if died:
        return "; ".join(_death(ranks, failure, places) for ranks, failure in _alike(died, places))
    for failure in failures.values():
        if isinstance(failure, StorageError):  # as long as it does not answer, a new start fails as well
            return str(failure)
    silent = {rank for rank, failure in failures.items() if isinstance(failure, WorkerHealthCheckTimeoutError)}
    if any(isinstance(failure, SilentWorkerError) for failure in failures.values()):
        silent |= set(places) - waiting - set(failures)
    if silent:
        return f"{_named(sorted(silent), places)} did not answer for {patience_seconds:g} seconds"
    return "a worker died"


_LOSSES = (LostWorkerError, StorageError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)


def _own(failure: BaseException, rank: int) -> BaseException:
    if isinstance(failure, FootplateError):
        return failure
    return TrainingError(f"worker {rank}: {type(failure).__name__}: {' '.join(str(failure).split())}")


def _alike(
    died: Mapping[int, WorkerHealthCheckFailedError], places: Mapping[int, Place]
) -> list[tuple[list[int], Exception]]:
    """The ranks that died on one machine together, with the failure of the first."""
    by_host: dict[str, list[int]] = {}
    for rank in died:
        by_host.setdefault(places[rank].node if rank in places else "", []).append(rank)
    return [(ranks, died[ranks[0]].health_check_failure) for ranks in by_host.values()]


def _death(ranks: list[int], failure: Exception, places: Mapping[int, Place]) -> str:
    said = str(failure)
    who = _named(ranks, places)
    if isinstance(failure, NodeDiedError) or "node has died" in said or "node was terminated" in said:
        return f"the machine of {who} is gone"
    if isinstance(failure, OutOfMemoryError) or "memory monitor" in said or "running low on memory" in said:
        return f"{who} was ended, as its machine ran out of memory"
    return f"{who} died" if isinstance(failure, RayError) else f"{who} was lost"


def _named(ranks: list[int], places: Mapping[int, Place]) -> str:
    """The workers and their machines.

    >>> _named([1, 2], {1: Place("node7", 1, ""), 2: Place("node7", 2, "")})
    'workers 1 and 2 on node7'
    """
    hosts = sorted({places[rank].host for rank in ranks if rank in places})
    numbers = [str(rank) for rank in ranks]
    listed = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
    return f"worker{'s' * (len(ranks) > 1)} {listed}" + (f" on {' and '.join(hosts)}" if hosts else "")
