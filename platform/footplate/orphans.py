"""Processes and those who started them: none outlives its parent, and how one died. Takes no time to import."""

import os
import signal
from multiprocessing import connection, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread


def end_with_parent() -> None:
    """From now on this process ends as soon as its parent has, even by SIGKILL, whatever is under way here."""
    Thread(target=_wait, name="end with parent", daemon=True).start()


def _wait() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def how_it_died(process: BaseProcess) -> str:
    """The signal that ended a process, or its exit code."""
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
