"""A pool of stateful workers: objects that live somewhere and are asked for one thing after another.

Whoever uses a pool knows neither where its workers are nor what carries the calls, so that another package can offer
one on a cluster: `context.pool` is the function that opens one.

    with closing(context.pool(Player, [(config, 0), (config, 1)], processes=True)) as pool:
        futures = [pool.submit(worker, "play", 100) for worker in range(pool.count)]
"""

import atexit
import logging
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch
from torch import multiprocessing

from footplate.errors import FootplateError, TrainingError, described
from footplate.interrupts import SIGNALS
from footplate.orphans import end_with_parent, how_it_died
from footplate.step import Metric
from footplate.usage import Usage, UsageOfWorkers

ADVICE = "mend it, and `footplate resume` goes on from the last checkpoint"
_SECONDS_TO_END = 5.0


class WorkerDiedError(TrainingError):
    """A worker's process ended from outside: killed, out of memory, or with its machine. `Pool.replace` mends that."""

    def __init__(self, what: str) -> None:
        """`what` says who died and how."""
        super().__init__(f"{what}; {ADVICE}")
        self.what = what

    def __reduce__(self) -> tuple[type["WorkerDiedError"], tuple[str]]:
        return WorkerDiedError, (self.what,)


DebugSettings = tuple[int, bool]


def debug_settings() -> DebugSettings:
    """The switches of torch that a worker elsewhere takes over from this process."""
    return torch.get_deterministic_debug_mode(), torch.is_anomaly_enabled()


def settle(settings: DebugSettings) -> None:
    """Make this the process of a worker: one thread, and the switches of the process that asked for it."""
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode(settings[0])
    torch.autograd.set_detect_anomaly(settings[1])


class Pool(Protocol):
    """Workers with the numbers 0 to `count` - 1, each an object made by `make(*arguments[number])`."""

    count: int

    def submit(self, worker: int, method: str, *arguments: Any) -> Future[Any]:
        """Call a method of a worker; its calls run one after another, in the order of their submission.

        Arguments and results travel pickled where workers are elsewhere; tensors in shared memory stay shared. What the
        method raises is raised by the future: a FootplateError as it is, anything else as a TrainingError that says in
        one line what was raised and where. Where the worker's process dies, this call and those behind it raise
        WorkerDiedError.
        """

    def replace(self, worker: int) -> None:
        """Make a worker anew, in the state in which it began, where one died; what it was still asked for is lost."""

    def pause(self) -> None:
        """Return when no worker has anything left to do; what is submitted later sets it to work again."""

    def usage(self) -> dict[str, Metric]:
        """What workers in processes of their own took since the last call, for a step: `system/actor-0/cores`, ..."""

    def close(self) -> None:
        """Call `close` of each worker that is not at work, and end them all. Nothing may be submitted afterwards."""


class Replacements:
    """Replaces workers that die, so many over the life of a pool and no more, and says each."""

    def __init__(self, pool: Pool, at_most: int) -> None:
        self._pool, self._at_most = pool, at_most
        self.count = 0
        """How many there were."""

    def replace(self, worker: int, death: WorkerDiedError) -> None:
        """Make the worker anew. Raises its death where there have been enough."""
        if self.count == self._at_most:
            raise death
        self.count += 1
        logging.getLogger("footplate").info(f"{death.what}; replaced, {self.count} of at most {self._at_most}")
        self._pool.replace(worker)


OpenPool = Callable[..., Pool]
"""`open_pool`, or what has its signature."""


def open_pool(make: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, processes: bool) -> Pool:
    """A worker for each tuple of arguments, in this thread or each in a process of its own on this machine."""
    return ProcessPool(make, arguments) if processes else ThisThread(make, arguments)


class ThisThread:
    """Runs a call at once, where it is submitted: breakpoints stop, and what is raised keeps its traceback."""

    def __init__(self, make: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        self.count = len(arguments)
        self._make, self._arguments = make, list(arguments)
        self._workers = [make(*own) for own in arguments]

    def submit(self, worker: int, method: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(getattr(self._workers[worker], method)(*arguments))
        except Exception as problem:
            future.set_exception(problem)
        return future

    def replace(self, worker: int) -> None:
        """None dies here without this process; a debugger may still ask for it."""
        self._workers[worker].close()
        self._workers[worker] = self._make(*self._arguments[worker])

    def pause(self) -> None:
        """Nothing is ever under way."""

    def usage(self) -> dict[str, Metric]:
        """It is this process's own."""
        return {}

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


class ProcessPool:
    """Each worker in a spawned process with one torch thread, which ends when this one does, however that ends.

    Never forked: torch's threads hold locks that a forked child would wait for. Ctrl-C and SIGTERM are left to this
    process.
    """

    def __init__(self, make: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        self.count = len(arguments)
        self._make, self._arguments = make, list(arguments)
        self._settings = debug_settings()
        # One thread a worker does nothing but wait for its answers: a future that needs no machinery of our own.
        self._threads = [ThreadPoolExecutor(1, f"worker {number}") for number in range(self.count)]
        self._futures: list[set[Future[Any]]] = [set() for _ in range(self.count)]
        self._usage = UsageOfWorkers()
        started = [self._started(number) for number in range(self.count)]
        self._processes = [process for process, _ in started]
        self._pipes = [pipe for _, pipe in started]
        atexit.register(self._kill)

    def _started(self, number: int) -> tuple[BaseProcess, connection.Connection]:
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe()
        call = there, number, self._make, self._arguments[number], self._settings
        process = spawn.Process(target=_serve, args=call, daemon=True)
        process.start()
        there.close()
        return process, here

    def replace(self, worker: int) -> None:
        self._threads[worker].submit(self._replace, worker).result()  # behind the calls that fail

    def _replace(self, worker: int) -> None:
        self._pipes[worker].close()
        self._processes[worker].kill()
        self._processes[worker].join()
        self._processes[worker], self._pipes[worker] = self._started(worker)

    def submit(self, worker: int, method: str, *arguments: Any) -> Future[Any]:
        future = self._threads[worker].submit(self._call, worker, method, arguments)
        self._futures[worker].add(future)
        future.add_done_callback(self._futures[worker].discard)
        return future

    def pause(self) -> None:
        wait([future for futures in self._futures for future in list(futures)])

    def usage(self) -> dict[str, Metric]:
        return self._usage.metrics()

    def close(self) -> None:
        asked = [self._asked_to_end(worker) for worker in range(self.count)]
        for process, will_end in zip(self._processes, asked, strict=True):
            process.join(_SECONDS_TO_END if will_end else 0)
            if process.is_alive():
                process.kill()
                process.join()
        atexit.unregister(self._kill)
        for thread in self._threads:  # they have read the end of their pipes
            thread.shutdown(cancel_futures=True)
        for pipe in self._pipes:
            pipe.close()

    def _kill(self) -> None:
        """At the end of an interpreter that left the pool open: it sends SIGTERM, which is ignored, and would wait."""
        for process in self._processes:
            process.kill()

    def _asked_to_end(self, worker: int) -> bool:
        if not all(future.done() for future in list(self._futures[worker])):
            return False  # in the middle of what is being sent to it this would be noise
        try:
            self._pipes[worker].send(None)
        except OSError:
            return False
        return True

    def _call(self, worker: int, method: str, arguments: tuple[Any, ...]) -> Any:
        pipe, process = self._pipes[worker], self._processes[worker]
        try:
            pipe.send((method, arguments))
            (answer, problem), lap = pipe.recv()
        except (EOFError, OSError) as cause:
            process.join(_SECONDS_TO_END)  # its pipe closes a moment before it has ended
            raise WorkerDiedError(f"worker {worker}: its process died ({how_it_died(process)})") from cause
        self._usage.add(worker, lap)
        if problem is not None:
            raise problem
        return answer


def _serve(
    pipe: connection.Connection,
    number: int,
    make: Callable[..., Any],
    arguments: tuple[Any, ...],
    settings: DebugSettings,
) -> None:
    """What a worker's process does: make the worker, then answer calls until it is told to end."""
    # They reach every process of a terminal or of a group: the trainer saves and then ends these.
    for number_of_signal in SIGNALS:
        signal.signal(number_of_signal, signal.SIG_IGN)
    end_with_parent()
    settle(settings)
    usage = Usage(torch.device("cpu"))
    worker, failure = tried(number, make, arguments)
    try:
        while (call := pipe.recv()) is not None:
            method, own = call
            answer = (None, failure) if failure is not None else tried(number, getattr(worker, method), own)
            pipe.send((answer, usage.lap()))
    except (EOFError, OSError):
        pass  # nobody listens any more
    if failure is None:
        worker.close()


def tried(number: int, call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """What the call returned, or what it raised in a form that can travel."""
    try:
        return call(*arguments), None
    except FootplateError as problem:
        return None, problem
    except Exception as problem:
        return None, TrainingError(f"worker {number}: {described(problem)}; {ADVICE}")
