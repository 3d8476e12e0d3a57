"""`Feed`: a slow tracker on a thread of its own, which training never waits for."""

import threading
from collections import deque
from collections.abc import Callable

from footplate.tracking.tracker import Call, Relay, Tracker, switched_off


class Feed(Relay):
    """Passes calls to a tracker that lives on its own daemon thread, where it is also opened.

    Calls wait in a bounded queue, which is emptied once in `pace_seconds`: a thread that woke for each row would take
    the interpreter from training each time. Where it is full, the oldest row makes room; how many were lost is said
    once, when the feed is closed. A tracker that raises, when it is opened or later, is switched off with one warning.
    """

    def __init__(
        self,
        name: str,
        open_tracker: Callable[[], Tracker],
        warn: Callable[[str], None],
        *,
        capacity: int = 10_000,
        close_seconds: float = 75.0,
        pace_seconds: float = 0.5,
    ) -> None:
        self._name = name
        self._open_tracker = open_tracker
        self._warn = warn
        self._capacity = capacity
        self._close_seconds = close_seconds
        self._pace_seconds = pace_seconds
        self._calls: deque[Call] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._dropped = 0
        self._is_on = True
        self._thread = threading.Thread(target=self._work, name=f"feed {name}", daemon=True)
        self._thread.start()

    def pass_on(self, call: Call) -> None:
        with self._lock:
            if not self._is_on:
                return
            if call.method == "activity" and self._calls and self._calls[-1].method == "activity":
                self._calls.pop()  # only the newest progress is of interest
            if len(self._calls) >= self._capacity:
                self._drop_oldest()
            self._calls.append(call)

    def close(self, outcome: str) -> None:
        """Let the tracker finish, for a limited time, and say what was lost."""
        super().close(outcome)
        self._closing.set()
        self._thread.join(self._close_seconds)
        with self._lock:
            was_on, self._is_on = self._is_on, False
            unsent = len(self._calls)
        if was_on and self._thread.is_alive():
            self._warn(
                f"{self._name}: still not done after {self._close_seconds:g} seconds, {unsent} calls behind; "
                "not waited for any longer, metrics.jsonl has every row"
            )
        if self._dropped:
            self._warn(f"{self._name}: too slow, {self._dropped} rows were left out; metrics.jsonl has every row")

    def _drop_oldest(self) -> None:
        oldest_row = next((call for call in self._calls if call.method == "row"), self._calls[0])
        self._calls.remove(oldest_row)
        self._dropped += 1

    def _work(self) -> None:
        try:
            tracker = self._open_tracker()
            while True:
                call = self._next()
                call.make(tracker)
                if call.method == "close":
                    return
        except Exception as error:
            with self._lock:
                was_on, self._is_on = self._is_on, False
                self._calls.clear()
            if was_on:
                self._warn(switched_off(self._name, error))

    def _next(self) -> Call:
        while True:
            with self._lock:
                if self._calls:
                    return self._calls.popleft()
            self._closing.wait(self._pace_seconds)
