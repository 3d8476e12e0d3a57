"""Ctrl-C, SIGTERM, SIGHUP: the first asks a run to save and end, the second abandons it, the third leaves at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ABANDONED = 130
"""The exit code of a run that was abandoned: what shells say of a program that Ctrl-C ended."""


def say_if_heard(text: str) -> None:
    """Print a line, where there is still somebody to read it: what remains to be done matters more."""
    with suppress(OSError):
        print(text, flush=True)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""By which a run is asked to end: Ctrl-C, `timeout` and Slurm, a terminal that closes."""


class StopRequest:
    """The name of the signal that has arrived, or None."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.nothing_to_save = False
        """Whether the first signal may abandon the run, as nothing has been trained yet."""

    def __call__(self) -> str | None:
        return self.arrived[0] if self.arrived else None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """What arrives while the block runs.

    The second signal raises KeyboardInterrupt where the program happens to be, and what was begun is closed; so does
    the first while there is nothing to save. The third ends the process there and then, as a kill would, and a run
    survives a kill. Outside the main thread, where Python delivers no signals, nothing is installed; nor for SIGHUP
    where that is ignored, as under `nohup`. (Shells ignore SIGINT for what scripts start in the background.)
    """
    request = StopRequest()
    arrived = request.arrived

    def on_signal(number: int, frame: FrameType | None) -> None:
        arrived.append("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        if len(arrived) > 2:
            os._exit(ABANDONED)
        if len(arrived) > 1:
            raise KeyboardInterrupt
        what = "ending after this update or evaluation, saved where that is possible; again abandons it"
        if request.nothing_to_save:
            what = "no update has been made yet, so there is nothing to save"
        # A bare write: printing from a signal handler can meet a print that it has interrupted.
        with suppress(OSError):  # `2>&1 | tee log`: Ctrl-C has ended tee first
            os.write(2, f"\n{arrived[0]}: {what}\n".encode())
        if request.nothing_to_save:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heeded = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, on_signal) for number in heeded}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
