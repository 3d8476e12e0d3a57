"""Supervision: start the workers, and start them again when some are lost, when machines leave and when others come.

Where the run goes on is decided by the checkpoints in its folder. Whatever happens is one line in log.txt, which the
driver's terminal follows.
"""

import math
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from footplate.checkpoint import CheckpointStore
from footplate.errors import TrainingError
from footplate.folder import RunFolder
from footplate.job import Job
from footplate.storage import StorageError
from footplate.tracking.log_file import LogFile
from footplate.tracking.tracker import Guard
from footplate_cluster.attempt import Attempt
from footplate_cluster.capacity import Request, find_room, leaving_nodes
from footplate_cluster.failures import loss
from footplate_cluster.places import SECONDS_TO_LET_GO

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_REQUESTS = 5.0
SECONDS_BEFORE_GROWING = 60.0
"""A run that takes in a machine saves and starts anew, which costs some ten seconds: not more often than this."""


class Supervisor(threading.Thread):
    """Runs the job until it ends, is asked to stop, or fails with `error`. `is_stopping` is set when that is asked."""

    error: BaseException | None = None

    def __init__(self, job: Job, folder: RunFolder, scratch: Path, share: Mapping[str, float]) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.is_stopping = threading.Event()
        self._job = job
        self._folder = folder
        self._scratch = scratch
        self._share = share
        self._log = Guard("log.txt", LogFile(folder.log), print)
        self._told: list[str] = []
        self._asked_at = -math.inf
        self._limit = Restarts(job.faults.restarts)
        self._workers = 0
        self._is_paused = False

    def run(self) -> None:
        try:
            patience = math.inf
            while self._starts(patience):
                patience = math.inf if self._job.resources.wait else self._job.faults.wait_seconds
        except BaseException as error:  # whatever it is, the main thread raises it
            self.error = error

    def ask_to_stop(self, reason: str) -> None:
        """Ask the run to save and end, and not to be started again; to be called until it has ended."""
        first = not self.is_stopping.is_set()
        self.is_stopping.set()
        if first or self._folder.url is not None:
            self._ask(reason)

    def _ask(self, reason: str) -> None:
        """Ask the workers to leave: at a URL again and again, as who begins to train there forgets an older request."""
        if self._folder.url is None:
            self._folder.ask_to_stop(reason)
        elif time.monotonic() - self._asked_at > SECONDS_BETWEEN_REQUESTS:
            self._asked_at = time.monotonic()
            with suppress(StorageError):
                self._folder.ask_to_stop(reason)

    def _starts(self, patience_seconds: float) -> bool:
        """Start the workers once, and return when they have ended: whether they are to be started again."""
        resources = self._job.resources
        workers = find_room(resources, self._share, patience_seconds, self._say, self.is_stopping.is_set)
        if workers == 0:
            return False
        self._say_how_it_starts(workers)
        attempt = Attempt(self._job, self._folder, self._scratch, self._share, workers, self._told)
        self._told = []
        attempt.start()
        pause = self._watch(attempt)
        try:
            if attempt.error is None:
                self._is_paused = pause is not None and self._seen().read_status().get("reason") == pause
                return self._is_paused and not self.is_stopping.is_set()
            places, waiting = attempt.roll.places(), attempt.roll.waiting()
            lost = loss(attempt.error, places, waiting, self._job.faults.timeout_seconds)
        finally:
            attempt.roll.clear()
        self._wait_for_the_lock()
        self._note(lost)
        return not self.is_stopping.is_set()

    def _say_how_it_starts(self, workers: int) -> None:
        before, self._workers = self._workers, workers
        counted = f"{workers} worker{'s' * (workers > 1)}"
        if before not in (0, workers):
            self._say(
                f"going on from {self._newest()[0]} with {counted} instead of {before}: "
                "the same samples in the same order, the weights equal to rounding"
            )
        elif self._is_paused:
            self._say(f"going on from {self._newest()[0]} with {counted}")
        elif before == 0 and workers < self._job.resources.most_workers:
            most = self._job.resources.most_workers
            self._say(f"starting with {workers} of up to {most} workers: the cluster has no room for more now")
        self._is_paused = False

    def _watch(self, attempt: Attempt) -> str | None:
        """Return when the workers have ended; the reason if they were asked to pause."""
        grows = attempt.workers < self._job.resources.most_workers
        began, room, pause = time.monotonic(), None, None
        try:
            while attempt.is_alive():
                attempt.join(SECONDS_BETWEEN_LOOKS)
                if pause is not None and self._folder.url is not None and not self.is_stopping.is_set():
                    self._ask(pause)
                if pause is not None or self.is_stopping.is_set():
                    continue
                if grows and room is None and time.monotonic() - began > SECONDS_BEFORE_GROWING:
                    # Not before the workers are there, or the request would take the room that is meant for them.
                    room = Request(self._share, 1) if len(attempt.roll.places()) == attempt.workers else None
                pause = self._reason_to_pause(attempt, room)
                if pause is not None and not self.is_stopping.is_set():
                    self._ask(pause)
            return pause
        finally:
            if room is not None:
                room.withdraw()

    def _reason_to_pause(self, attempt: Attempt, room: Request | None) -> str | None:
        if leaving := leaving_nodes():
            hosts = {place.host for place in attempt.roll.places().values() if place.node in leaving}
            if hosts:
                return f"{' and '.join(sorted(hosts))} is about to be taken away"
        if room is not None and room.is_met_within(0.01):
            return "the cluster has room for more workers"
        return None

    def _say(self, line: str) -> None:
        """Into the log, which the terminal follows; at a URL only who trains writes it: there with the next start."""
        if self._folder.url is None:
            self._log.message(line)
        else:
            self._told.append(line)

    def _seen(self) -> RunFolder:
        """The run as it is now; at a URL that does not answer, as it was seen last."""
        try:
            return self._folder.refreshed()
        except StorageError:
            return self._folder

    def _wait_for_the_lock(self) -> None:
        if self._folder.url is not None:  # who trains next waits for its lease
            return
        end = time.monotonic() + SECONDS_TO_LET_GO
        while self._folder.is_locked() and time.monotonic() < end:
            time.sleep(0.1)

    def _note(self, lost: str) -> None:
        """Say what was lost and how it goes on. Raises TrainingError where it does not."""
        where, update = self._newest()
        if self.is_stopping.is_set():
            self._say(f"{lost} while the run was stopping")
            return
        number = self._limit.count(update)
        if number is None:
            times = f"{self._limit.limit} restart{'s' * (self._limit.limit != 1)}"
            allowed = (
                "no restarts are allowed (faults.restarts)"
                if self._limit.limit == 0
                else f"{times} since {where} did not help"
            )
            raise TrainingError(f"{lost}; {allowed}; `footplate resume {self._folder.argument}` goes on from {where}")
        if self._folder.url is None:  # at a URL who trains does so
            self._folder.forget_stop()
        self._say(f"{lost}; going on from {where}, restart {number} of {self._limit.limit}")

    def _newest(self) -> tuple[str, int]:
        updates = CheckpointStore(self._seen().checkpoints).updates()
        return (f"update {updates[-1]}", updates[-1]) if updates else ("the start", 0)


class Restarts:
    """Counts restarts in a row, that is, without a new checkpoint in between."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._number = 0
        self._newest: int | None = None

    def count(self, newest_update: int) -> int | None:
        """The number of this restart from a checkpoint; None where it is one too many.

        >>> restarts = Restarts(2)
        >>> [restarts.count(update) for update in (0, 0, 40, 40, 40)]
        [1, 2, 1, 2, None]
        """
        self._number = self._number + 1 if newest_update == self._newest else 1
        self._newest = newest_update
        return self._number if self._number <= self.limit else None
