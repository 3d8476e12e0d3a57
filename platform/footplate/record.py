"""The record of a run: what rank 0 writes into the run folder and shows on the screen."""

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

from footplate.checkpoint import CheckpointStore
from footplate.errors import FootplateError
from footplate.faults import LostWorkerError
from footplate.folder import RunFolder, stop_reason
from footplate.job import Job
from footplate.ledger import Ledger
from footplate.step import Activity, Part, Step
from footplate.tracking import Tracker, open_trackers
from footplate.tracking.messages import messages_to

SECONDS_BETWEEN_STATUS = 1.0
SECONDS_BETWEEN_LOOKS = 0.1  # at the `stop` file: a look costs more than the rest of a short update's books


class Record:
    """A context manager that holds the run folder's lock, its trackers and its checkpoint store.

    Whatever is logged to the logger `footplate` while it is open (`logging.getLogger("footplate").info(...)`) goes to
    log.txt and to the screen. `best` is the best score of the updates before. Where the lock is not held already
    (`locked`), this takes it.
    """

    def __init__(
        self, job: Job, folder: RunFolder, ledger: Ledger, best: float | None = None, *, locked: bool = False
    ) -> None:
        self._job = job
        self._locked = locked
        self._folder = folder
        self._ledger = ledger
        self._status: dict[str, Any] = {"state": "running", "update": ledger.update, "updates": job.updates}
        self._note_best(best)
        self._status_written = 0.0
        self._looked_for_stop = -math.inf
        self._said_that_the_status_fails = False
        self._outcome = "finished"
        self._said_that_the_best_is_missing = False
        self._said_that_the_best_is_not_saved = False

    def __enter__(self) -> "Record":
        with ExitStack() as opening:
            if not self._locked:
                opening.enter_context(self._folder.lock())
            self._folder.sweep()
            self._tracker: Tracker = open_trackers(
                self._job, self._folder, total_updates=self._job.updates, resumed_from=self._ledger.update
            )
            opening.enter_context(messages_to(self._tracker))
            self._exit = opening.pop_all()
        higher = self._job.best is None or self._job.best.better == "higher"
        save = self._job.save
        self._store = CheckpointStore(
            self._folder.checkpoints,
            self._tracker.message,
            keep_last=save.keep_last,
            keep_best=save.keep_best,
            higher_is_better=higher,
            companions=(self._folder.metrics,),
        )
        if self._ledger.update > 0:  # who begins anew in a folder that has checkpoints may not have meant to
            self._store.forget_after(self._ledger.update)
        self._store.sweep()
        self._write_status()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit | KeyboardInterrupt):
            self._outcome = "stopped"
        elif isinstance(error, LostWorkerError):
            self._outcome = "killed"
        elif error is not None:
            self._fail(error)
        try:
            unsaved = self._finish_saving()
            if unsaved is not None and error is None:
                self._fail(unsaved)
            self._write_status(state=self._outcome, activity=None)
            self._tracker.close(self._outcome)
        finally:
            with suppress(OSError):  # whoever starts the run next removes it, or hears why not
                self._folder.stop.unlink(missing_ok=True)
            self._exit.close()
        if unsaved is not None and error is None:
            raise unsaved

    def _fail(self, error: BaseException) -> None:
        self._outcome = "failed"
        self._status["error"] = f"{type(error).__name__}: {error}"
        # The screen shows it anyway.
        with suppress(OSError), self._folder.log.open("a", encoding="utf-8") as log:
            if isinstance(error, FootplateError):
                log.write(f"error: {error}\n")
            else:
                traceback.print_exception(error, file=log)

    def _finish_saving(self) -> Exception | None:
        """Wait for the last checkpoint; the error, whatever it is, of a run that ends without it."""
        try:
            self._store.close()
        except Exception as unsaved:
            return unsaved
        return None

    def say_what_the_device_lacks(self, device: str) -> None:
        """Say that a precision is not to be had where this runs: a recipe for a GPU still runs without one."""
        if self._job.precision == "tf32" and device != "cuda":
            self._tracker.message(f"precision: tf32 is how CUDA GPUs multiply; on {device} this run computes in fp32")

    def activity(self, step: Step) -> None:
        """Show what goes on between two updates."""
        if step.activity is not None:
            self._tracker.activity(step.activity)
            self._write_status_sometimes(step.activity)
        if step.media:
            self._tracker.media(step.update, step.media)

    def row(self, step: Step, best: float | None, used: Sequence[Mapping[str, float]] = ()) -> None:
        """Write the row that ends with this step, and its media.

        `best` is the best score so far, `used` what each rank takes of its machine.
        """
        self._note_best(best)
        system = {f"system/{rank}/{name}": value for rank, each in enumerate(used) for name, value in each.items()}
        self._tracker.row(self._ledger.row() | system)
        if step.media:
            self._tracker.media(step.update, step.media)
        self._write_status_sometimes(None)

    def _note_best(self, best: float | None) -> None:
        if self._job.best is not None and best is not None:
            self._status["best"] = {"metric": self._job.best.metric, "value": best}

    def save(self, step: Step, own: Mapping[str, Part], score: float | None) -> None:
        """Save the step's parts and `drive`'s own."""
        if step.state is not None:
            self._store.save(step.update, {**step.state, **own}, score=score)

    def say_that_the_best_is_missing(self, step: Step) -> None:
        """Warn, once, of an evaluation without the metric that the job watches: no checkpoint will be the best."""
        best = self._job.best
        if best is not None and best.metric not in step.metrics and not self._said_that_the_best_is_missing:
            self._said_that_the_best_is_missing = True
            there = ", ".join(sorted(name for name in step.metrics if name.startswith("eval/")))
            self._tracker.message(f"best.metric: {best.metric} is not among what was evaluated: {there}")

    def say_that_the_best_is_not_saved(self, step: Step) -> None:
        """Warn, once, of the best evaluation so far at an update without a checkpoint: `keep_best` can't keep it."""
        if self._job.save.keep_best and not self._said_that_the_best_is_not_saved:
            self._said_that_the_best_is_not_saved = True
            self._tracker.message(
                f"save: update {step.update} has the best evaluation so far and no checkpoint, so it can't be kept; "
                "evaluate where checkpoints are saved (save.every_updates)"
            )

    def stop_requested(self) -> str | None:
        """The reason in the run folder's `stop` file, which whoever launched the run may write."""
        now = time.monotonic()
        if now - self._looked_for_stop < SECONDS_BETWEEN_LOOKS:
            return None
        self._looked_for_stop = now
        return stop_reason(self._folder.stop)

    def stopping(self, reason: str, *, saved: bool = True) -> None:
        """Note why the run ends before its last update, and where it will go on if it could not be saved here."""
        self._status["reason"] = reason
        ended_itself = reason.startswith(("target", "patience"))
        self._outcome = "finished" if ended_itself else "stopped"
        text = f"stopping after update {self._ledger.update}: {reason}"
        if not saved:
            self._store.wait()
            updates = self._store.updates()
            start = f"goes back to update {updates[-1]}" if updates else "starts over"
            text += f"; this task cannot be saved here, `footplate resume {self._folder.argument}` {start}"
        self._tracker.message(text)

    def _write_status_sometimes(self, activity: Activity | None) -> None:
        if time.monotonic() - self._status_written >= SECONDS_BETWEEN_STATUS:
            shown = (
                None if activity is None else {"name": activity.name, "done": activity.done, "total": activity.total}
            )
            self._write_status(activity=shown)

    def _write_status(self, **changes: Any) -> None:
        self._status |= {"update": self._ledger.update, "seconds": self._ledger.seconds, **changes}
        self._status_written = time.monotonic()
        try:
            self._folder.write_status(self._status)
        except OSError as error:
            if not self._said_that_the_status_fails:
                self._said_that_the_status_fails = True
                self._tracker.message(
                    f"{self._folder.status}: cannot be written ({error.strerror}); training goes on, "
                    "`footplate runs` shows an older state"
                )
