"""What a process does that should not outlive the one that started it. Needs nothing that takes long to import."""

import os
from multiprocessing import connection, parent_process
from threading import Thread


def end_with_parent() -> None:
    """From now on this process ends as soon as its parent has, even by SIGKILL, whatever is under way here."""
    Thread(target=_wait, name="end with parent", daemon=True).start()


def _wait() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
