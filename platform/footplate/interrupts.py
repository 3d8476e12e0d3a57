"""Ctrl-C and SIGTERM: the first asks the run to save and end, the second abandons it, the third leaves at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ABANDONED = 130
"""The exit code of a run that was abandoned: what shells say of a program that Ctrl-C ended."""


def say_if_heard(text: str) -> None:
    """Print a line, where there is still somebody to read it: what remains to be done matters more."""
    with suppress(OSError):
        print(text, flush=True)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], str | None]]:
    """A function that gives the name of the signal that arrived while the block runs, or None.

    The second signal raises KeyboardInterrupt where the program happens to be, and what was begun is closed. The third
    ends the process there and then, as a kill would, and a run survives a kill. Outside the main thread, where Python
    delivers no signals, nothing is installed.
    """
    arrived: list[str] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        arrived.append("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        if len(arrived) > 2:
            os._exit(ABANDONED)
        if len(arrived) > 1:
            raise KeyboardInterrupt
        # A bare write: printing from a signal handler can meet a print that it has interrupted.
        line = f"{arrived[0]}: ending after this update or evaluation, saved where that is possible; again abandons it"
        with suppress(OSError):  # `2>&1 | tee log`: Ctrl-C has ended tee first
            os.write(2, f"\n{line}\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: arrived[0] if arrived else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
