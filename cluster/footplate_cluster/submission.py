"""One run that was submitted to a cluster: its state, what it prints, following and stopping it."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from footplate.checkpoint import CheckpointStore
from footplate.commands import DEFAULT_RUNS
from footplate.errors import FootplateError, TrainingError
from footplate.folder import RunFolder, find_run, is_seen, is_url
from footplate.job import read_job
from footplate.launch import kept_fresh
from footplate.tracking.console import Console
from footplate.tracking.follow import follow
from footplate_cluster.dashboard import Dashboard, RayJob
from footplate_cluster.patience import Patience
from footplate_cluster.submitted import Submitted, read_submitted

SECONDS_BETWEEN_LOOKS = 1.0
_STATES = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "STOPPED": "stopped",
    "SUCCEEDED": "finished",
    "FAILED": "failed",
}
_DRIVER_STARTS = re.compile(r"^Running entrypoint for job .*\n", re.MULTILINE)
"""The last line that Ray writes into a job's log before the program's own."""


@dataclass(frozen=True)
class Submission:
    """A run by name; `job` is None once the cluster has forgotten it, `dashboard` where nobody answers.

    `path` is the path or the URL of its folder.
    """

    run: str
    path: str
    dashboard: Dashboard | None
    job: RayJob | None

    @property
    def argument(self) -> str:
        """What to call the run on the command line, from the working directory: its path, unless it lies in `runs`."""
        return self.run if self.path == str(Path(DEFAULT_RUNS, self.run).absolute()) else self.path

    @property
    def folder(self) -> RunFolder | None:
        """The run's folder; None where it is not seen from this machine, or has not been begun.

        Of a run at a URL a copy, as old as this object: `refreshed` has a new one.
        """
        folder, found = self._copy if is_url(self.path) else _recorded(RunFolder(Path(self.path)))
        if found is None or (self.job is not None and found.submission_id != self.job.id):
            return None
        return folder

    @cached_property
    def _copy(self) -> tuple[RunFolder | None, Submitted | None]:
        from footplate.storage import StorageError

        try:
            return _recorded(find_run(self.path, ""))
        except StorageError:  # no credentials here, say: what the cluster tells is all there is
            return None, None

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.job is not None and not self.job.has_ended

    @property
    def never_began(self) -> bool:
        """Whether it ended before there was anything to go on from, as far as this is known from here.

        Its driver was never started, or it said nothing and left no folder where one would be seen.
        """
        if self.job is None or not self.job.has_ended or " footplate train " not in self.job.entrypoint:
            return False
        path = Path(self.path)
        if is_seen(path):  # of an earlier submission, at least
            return False
        would_be_seen = not is_url(self.path) and (is_seen(path.parent) or path.is_relative_to(Path.cwd()))
        return not self.job.has_begun or (would_be_seen and not self.logs())

    @property
    def anew(self) -> str:
        """The command that starts it anew."""
        return f"footplate submit RECIPE --name {self.run} --runs {self.path.rpartition('/')[0]}{self.flags}"

    @property
    def flags(self) -> str:
        """What commands about it end with: the cluster's address."""
        return "" if self.dashboard is None else f" --address {self.dashboard.address}"

    def state(self) -> str:
        """waiting, running, finished, stopped, failed or killed."""
        folder = self.folder
        if self.job is None or (self.job.has_ended and folder is not None):
            state = "unknown" if folder is None else str(folder.read_status()["state"])
            if state != "unknown" or self.job is None:
                return state
        return _STATES.get(self.job.status, self.job.status.lower())

    def progress(self) -> str:
        """Updates made of all, or nothing where the folder is not seen from here."""
        folder = self.folder
        status = {} if folder is None else folder.read_status()
        return f"{status['update']}/{status['updates']}" if "updates" in status else ""

    def refreshed(self) -> "Submission":
        """The same run as the cluster knows it now."""
        if self.dashboard is None or self.job is None:
            return replace(self)
        return replace(self, job=self.dashboard.job(self.job.id))

    def logs(self) -> str:
        """What the run has printed so far; from log.txt in its folder where the cluster has forgotten it."""
        if self.dashboard is not None and self.job is not None:
            text = self.dashboard.logs(self.job.id)
            starts = _DRIVER_STARTS.search(text)
            if starts is not None:
                return text[starts.end() :]
            return text if self.job.has_ended else ""
        if self.folder is None:
            raise FootplateError(f"{self.run}: the cluster has no log of it, and {self.path} is not seen from here")
        try:
            return self.folder.log.read_text("utf-8", errors="replace")
        except OSError:
            return ""

    def follow(self) -> str:
        """Show the run in this terminal as `train` does, until it ends; returns the state that it ends in.

        By its folder where that is seen from here, else by what its driver prints. Raises TrainingError where it fails,
        and where nobody knows any more how it ended.
        """
        current, patience = self, Patience()
        shown = 0
        while current.is_active:
            if current.folder is None:
                shown = _print_new(patience.ask(current.logs, ""), shown)
            if (folder := current.folder) is not None and not shown:
                current = self._follow_folder(folder)
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
            current = patience.ask(current.refreshed, current)
        if shown and current.job is not None:
            _print_new(current.logs(), shown)
        state = current.state()
        if state in ("failed", "killed", "unknown"):
            raise current.failure()
        return state

    def _follow_folder(self, folder: RunFolder) -> "Submission":
        current, patience = [self.refreshed()], Patience()
        looked = [time.monotonic()]
        job = read_job(folder.job)
        first = (job.best.metric,) if job.best is not None else ()
        with kept_fresh(folder) as refresh:

            def done() -> bool:
                if time.monotonic() - looked[0] >= SECONDS_BETWEEN_LOOKS:
                    current[0] = patience.ask(current[0].refreshed, current[0])
                    looked[0] = time.monotonic()
                if current[0].is_active:
                    return False
                refresh()
                return True

            follow(folder, Console(job.updates, folder.name, first=first), done)
        return current[0]

    def failure(self) -> FootplateError:
        """Why it failed: its driver's own line for a mistake, else the last thing that is known."""
        try:
            lines = self.logs().splitlines()
        except FootplateError:  # nobody has them; what is known is told all the same
            lines = []
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if said:
            return TrainingError("\n".join(said))
        reason = "the cluster does not know it any more"
        if self.job is not None:
            reason = (self.job.message.strip().splitlines() or ["no reason given"])[0]
        return TrainingError(
            f"{self.run}: {self.state()}: {reason[:300]}; `footplate logs {self.argument}{self.flags}` shows more"
        )

    def stop(self, say: Callable[[str], None] = print) -> "Submission":
        """Ask the run to save and end, wait until it has, and say where it stopped."""
        if self.dashboard is None or self.job is None or self.job.has_ended:
            raise FootplateError(f"{self.run}: does not run, it is {self.state()}; nothing was stopped")
        self.dashboard.stop(self.job.id)
        say(f"{self.run}: asked to save and end after this update or evaluation")
        current, patience = self, Patience()
        while current.is_active:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            current = patience.ask(current.refreshed, current)
        for line in current.stopped_lines():
            say(line)
        return current

    def stopped_lines(self) -> list[str]:
        """Where the run stopped, and the update that was saved last, as far as this is known from here."""
        if self.never_began:
            return [f"{self.run}: {self.state()} before it began", f"  start anew  {self.anew}"]
        said = [line for line in self.logs().splitlines() if line.startswith("stopping after update ")]
        progress = self.progress()
        lines = [f"{self.run}: {said[-1] if said else self.state() + (f', update {progress}' if progress else '')}"]
        if self.folder is not None:
            updates = CheckpointStore(self.folder.checkpoints).updates()
            lines.append(f"  saved       {f'update {updates[-1]}' if updates else 'nothing yet'}")
        return [*lines, f"  go on       footplate resume {self.argument}{self.flags}"]


def _recorded(folder: RunFolder | None) -> tuple[RunFolder | None, Submitted | None]:
    return folder, None if folder is None else read_submitted(folder)


def _print_new(text: str, shown: int) -> int:
    """Print the complete lines beyond those that were shown; returns how many characters have been.

    Not the error that it ends with: whoever follows raises it.
    """
    end = text.rfind("\n") + 1
    for line in text[shown:end].splitlines():
        if not line.startswith("error: "):
            print(line, flush=True)
    return max(end, shown)
