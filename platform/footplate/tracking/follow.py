"""Following a run from another process: its files, as they grow, become calls of a tracker."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from footplate.folder import RunFolder
from footplate.step import Activity
from footplate.tracking.log_file import without_stamp
from footplate.tracking.metrics_file import read_row
from footplate.tracking.tracker import Tracker

OUTCOMES = ("finished", "stopped", "failed", "killed")
SECONDS_BETWEEN_LOOKS = 0.2


def follow(folder: RunFolder, tracker: Tracker, until: Callable[[], bool]) -> None:
    """Tell `tracker` what the run does until `until()` is true, then the rest of it, and how it ended.

    The files may not exist yet, end in half a line, or be cut back to a checkpoint meanwhile.
    """
    follower = Follower(folder, tracker)
    while not until():
        follower.look()
        time.sleep(SECONDS_BETWEEN_LOOKS)
    follower.look()
    outcome = folder.read_status().get("state")
    tracker.close(outcome if outcome in ("finished", "stopped") else "failed")


class Follower:
    """One look after the other at the files of a run, each telling only what is new."""

    def __init__(self, folder: RunFolder, tracker: Tracker) -> None:
        self._folder = folder
        self._tracker = tracker
        self._rows = Tail(folder.metrics)
        self._messages = Tail(folder.log)
        self._activity: Activity | None = None

    def look(self) -> None:
        """Tell what is new."""
        for line in self._messages.new_lines():
            text = without_stamp(line.decode(errors="replace"))
            if text not in OUTCOMES and not text.startswith("error: "):  # whoever follows says how it ended
                self._tracker.message(text)
        for line in self._rows.new_lines():
            # Shared disks may show a line before its bytes: the screen does without, the file will be whole.
            with suppress(ValueError):
                self._tracker.row(read_row(line))
        shown = self._folder.read_status().get("activity")
        activity = Activity(shown["name"], shown["done"], shown["total"]) if shown else None
        if activity is not None and activity != self._activity:
            self._tracker.activity(activity)
        self._activity = activity


class Tail:
    """The complete lines that a file has gained since the last call; what it held when this was made is old.

    Of a file that was cut or replaced, all is old that is there when this is noticed: it was cut back to what has been
    told.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_number = 0
        self._offset = 0
        self.new_lines()

    def new_lines(self) -> list[bytes]:
        """The new lines, without their ends."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            found = os.fstat(file.fileno())
            was_cut = self._file_number not in (0, found.st_ino) or found.st_size < self._offset
            self._file_number = found.st_ino
            file.seek(0 if was_cut else self._offset)
            written = file.read()
            end = written.rfind(b"\n") + 1  # half a line is left for the next time
            self._offset = end if was_cut else self._offset + end
            return [] if was_cut else written[:end].splitlines()
