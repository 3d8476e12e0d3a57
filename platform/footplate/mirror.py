"""The mirror of a run: a thread that brings its folder up to the storage while it trains, whatever the storage does."""

import logging
import threading
import time
from collections.abc import Callable

from footplate.errors import TrainingError
from footplate.folder import RunFolder
from footplate.interrupts import say_if_heard
from footplate.lease import Lease
from footplate.storage import Storage, StorageError
from footplate.upload import Upload

SECONDS_BETWEEN_PASSES = 3.0
LONGEST_PAUSE_SECONDS = 60.0
SECONDS_OF_SILENCE = 3.0
PATIENCE_SECONDS = 120.0
"""How long the end of a run waits for a storage that fails."""


class Mirror:
    """Starts with `start`; `finish` returns when everything is up. Training never waits for it in between."""

    def __init__(self, folder: RunFolder, storage: Storage, lease: Lease) -> None:
        self._folder = folder
        self._storage = storage
        self._lease = lease
        self._upload = Upload(folder, storage, lease.require)
        self._finishing = threading.Event()
        self._failure = ""
        self._asked_to_finish = 0.0
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin to upload."""
        self._thread.start()

    def bring_up(self) -> None:
        """Bring everything up now, before the thread begins. Raises StorageError."""
        self._upload.bring_up()

    def finish(self, say: Callable[[str], None] = say_if_heard) -> None:
        """Wait until everything is up. Raises TrainingError where the storage fails for too long, or is another's."""
        self._asked_to_finish = time.monotonic()
        self._finishing.set()
        self._thread.join(SECONDS_OF_SILENCE)
        if self._thread.is_alive():
            say(f"{self._storage.url}: the rest of the run is going up")
            self._thread.join()
        if self._failure:
            there = self._upload.newest
            has = "no checkpoint" if there is None else f"the checkpoint of update {there}"
            mend = "" if self._lease.is_lost else f", and `footplate resume {self._storage.url}` here brings it up"
            raise TrainingError(f"{self._failure}; it has {has}, {self._folder.path} has the rest{mend}")

    def _work(self) -> None:
        pause = SECONDS_BETWEEN_PASSES
        while True:
            self._finishing.wait(pause)
            is_last = self._finishing.is_set()
            try:
                self._upload.bring_up()
            except Exception as error:  # whatever it is: a thread that died would leave the rest behind in silence
                pause = self._fail(error, pause)
                if is_last and self._give_up():
                    return
            else:
                self._succeed()
                pause = SECONDS_BETWEEN_PASSES
                if is_last:
                    return

    def _fail(self, error: Exception, pause: float) -> float:
        """Say it once, and how long to wait before the next attempt."""
        known = isinstance(error, StorageError)
        failure = str(error).partition("; ")[0] if known else f"{self._storage.url}: {type(error).__name__}: {error}"
        if not self._failure:
            _say(f"{failure}; training goes on, the upload is tried again until it works")
        self._failure = failure
        if self._finishing.is_set():
            time.sleep(min(pause, 5.0))
        return min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _give_up(self) -> bool:
        return self._lease.is_lost or time.monotonic() - self._asked_to_finish > PATIENCE_SECONDS

    def _succeed(self) -> None:
        if self._failure:
            _say(f"{self._storage.url}: answers again, everything is up")
            self._failure = ""


def _say(text: str) -> None:
    """To the log and the screen while a run is recorded, else to stderr."""
    logging.getLogger("footplate").warning(text)
