"""A watchdog for calls that can't be interrupted: native code that waits for ever hears neither Ctrl-C nor an alarm."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from footplate.errors import TrainingError

SECONDS_AT_A_TIME = 1.0
"""A limit is waited for in pieces, each counted as this long however long it took: where all was stopped meanwhile
(Ctrl-Z), what is waited for was stopped too."""


class Watchdog:
    """Runs calls one after another in a thread of its own, so that whoever waits for the answer can give up.

    The thread is a daemon: one that hangs keeps the process from nothing. A handover costs some 20 microseconds.
    """

    def __init__(self, timeout_seconds: float, message: str) -> None:
        self._timeout_seconds, self._message = timeout_seconds, message
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        Thread(target=_serve, args=(self._calls, self._answers), name="environment watchdog", daemon=True).start()

    def start(self, call: Callable[[], Any]) -> None:
        """Begin the call; every start is followed by one `result`."""
        self._calls.put(call)

    def result(self) -> Any:
        """What the call that was started returned or raised; TrainingError if it is not there within the timeout."""
        seconds_left = self._timeout_seconds
        while seconds_left > 0:
            try:
                answer, problem = self._answers.get(timeout=min(SECONDS_AT_A_TIME, seconds_left))
            except Empty:
                seconds_left -= SECONDS_AT_A_TIME
                continue
            if problem is not None:
                raise problem
            return answer
        raise TrainingError(self._message)

    def __call__(self, call: Callable[[], Any]) -> Any:
        """Start the call and wait for its result."""
        self.start(call)
        return self.result()

    def close(self) -> None:
        """Let the thread end once it has nothing left to do."""
        self._calls.put(None)


def _serve(
    calls: SimpleQueue[Callable[[], Any] | None], answers: SimpleQueue[tuple[Any, BaseException | None]]
) -> None:
    while (call := calls.get()) is not None:
        try:
            answers.put((call(), None))
        except BaseException as problem:  # handed over to whoever waits
            answers.put((None, problem))
        del call
