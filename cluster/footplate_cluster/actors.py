"""Actors: the workers of a `footplate.pool.Pool` on a Ray cluster, each in its own bundle of one placement group."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any

import ray
import torch
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from footplate.errors import TrainingError
from footplate.pool import ADVICE, DebugSettings, Pool, ThisThread, WorkerDiedError, debug_settings, settle, tried
from footplate.step import Metric
from footplate.usage import Lap, Usage, UsageOfWorkers

SECONDS_TO_CLOSE = 5.0
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_NOTICE = 60.0
"""Within which Ray notices that a node is gone."""


@ray.remote
class _Host:
    """The process of a worker: makes it at the first call and answers one call after another."""

    def __init__(
        self, number: int, make: Callable[..., Any], arguments: tuple[Any, ...], settings: DebugSettings
    ) -> None:
        settle(settings)
        self._usage = Usage(torch.device("cpu"))
        self._number = number
        self._worker, self._failure = tried(number, make, arguments)

    def call(self, method: str, arguments: tuple[Any, ...]) -> tuple[tuple[Any, Exception | None], Lap]:
        if self._failure is not None:
            return (None, self._failure), self._usage.lap()
        return tried(self._number, getattr(self._worker, method), arguments), self._usage.lap()

    def ping(self) -> None:
        """Answer."""

    def close(self) -> None:
        if self._failure is None:
            self._worker.close()


class RayPool:
    """`Pool` of Ray actors. They end with the process that opened it, however that ends: Ray sees to it."""

    def __init__(
        self,
        make: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        group: PlacementGroup,
        cpus: float,
        first_bundle: int,
    ) -> None:
        """A worker for each tuple of arguments, each with `cpus` in a bundle of `group` from `first_bundle` on."""
        self.count = len(arguments)
        self._make, self._arguments, self._settings = make, list(arguments), debug_settings()
        self._group, self._cpus, self._first_bundle = group, cpus, first_bundle
        self._futures: set[Future[Any]] = set()
        self._usage = UsageOfWorkers()
        self._hosts = [self._started(number) for number in range(self.count)]

    def _started(self, number: int) -> Any:
        place = PlacementGroupSchedulingStrategy(self._group, self._first_bundle + number)
        own = number, self._make, self._arguments[number], self._settings
        return _Host.options(num_cpus=self._cpus, max_restarts=0, scheduling_strategy=place).remote(*own)  # type: ignore[attr-defined]

    def submit(self, worker: int, method: str, *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        self._futures.add(answer)
        answer.add_done_callback(self._futures.discard)
        asked: Future[Any] = self._hosts[worker].call.remote(method, arguments).future()
        asked.add_done_callback(lambda future: _pass_on(worker, future, answer, self._usage))
        return answer

    def replace(self, worker: int) -> None:
        """The new actor waits for room in the dead one's bundle, which Ray moves where a node was lost."""
        _wait_for_a_verdict(self._hosts[worker])
        ray.kill(self._hosts[worker])
        self._hosts[worker] = self._started(worker)

    def pause(self) -> None:
        wait(list(self._futures))

    def usage(self) -> dict[str, Metric]:
        return self._usage.metrics()

    def close(self) -> None:
        if not self._futures:
            ray.wait([host.close.remote() for host in self._hosts], num_returns=self.count, timeout=SECONDS_TO_CLOSE)
        for host in self._hosts:
            ray.kill(host)


def _wait_for_a_verdict(host: Any) -> None:
    """Return when Ray knows whether the actor is dead.

    Where one cannot be reached its node may be gone, and until Ray has noticed it would send the next one there.
    """
    end = time.monotonic() + SECONDS_TO_NOTICE
    while (left := end - time.monotonic()) > 0:
        try:
            ray.get(host.ping.remote(), timeout=left)
        except ActorUnavailableError:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        except RayError:  # it is dead, or has not answered in all this time
            return
        else:
            return


def _pass_on(worker: int, asked: "Future[Any]", answer: "Future[Any]", usage: UsageOfWorkers) -> None:
    """Settle the future that the user of the pool holds, in words that are not Ray's."""
    problem = asked.exception()
    if problem is None:
        (result, raised), lap = asked.result()
        usage.add(worker, lap)
        if raised is None:
            answer.set_result(result)
        else:
            answer.set_exception(raised)
    elif isinstance(problem, RayActorError | OutOfMemoryError) and not getattr(problem, "actor_init_failed", False):
        answer.set_exception(WorkerDiedError(f"worker {worker}: {_cause_of_death(problem)}"))
    else:
        what = str(problem).strip().splitlines()[-1]  # of a trace, what was raised in the end
        answer.set_exception(TrainingError(f"worker {worker}: Ray could not make or reach it ({what}); {ADVICE}"))


def _cause_of_death(problem: RayError) -> str:
    if "node has died" in str(problem):
        return "its node died"
    return "it cannot be reached" if isinstance(problem, ActorUnavailableError) else "its process died"


class Actors:
    """Opens the pools of one run, as `Context.pool` does: bundle after bundle of its placement group."""

    def __init__(self, group: PlacementGroup, cpus: float) -> None:
        """Bundle 0 is the driver's; each of the others has `cpus` for one worker."""
        self._group, self._cpus, self._next = group, cpus, 1

    def open(self, make: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, processes: bool) -> Pool:
        """Workers on the cluster, or with `processes` false in this thread. There must be a bundle for each."""
        if not processes:
            return ThisThread(make, arguments)
        first, self._next = self._next, self._next + len(arguments)
        assert self._next <= self._group.bundle_count, "the task opened more workers than its `actors` said"
        return RayPool(make, arguments, self._group, self._cpus, first)
