"""The run folder: everything that a run leaves behind, and who is at work in it.

runs/<name>/job.yaml  metrics.jsonl  log.txt  status.json  checkpoints/<update>/  samples/  videos/  data/
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from footplate.errors import FootplateError

SWEEP_FILE = "sweep.yaml"
"""What makes a folder a sweep's; its run folders lie inside."""
_LEFTOVER = re.compile(r"\.(job|status|metrics\.jsonl|data)-|\.wandb")
"""What is written beside its place and then renamed; other hidden files are the user's."""


class RunFolder:
    """The places in a run folder. `open_run` and `create_run` make sure that it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def argument(self) -> str:
        """What to call the run on the command line, from the working directory."""
        return self.name if self.path.parent == Path("runs").absolute() else str(relative(self.path))

    @property
    def job(self) -> Path:
        return self.path / "job.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def stop(self) -> Path:
        """A file whose presence asks the run to save and end; its text is the reason."""
        return self.path / "stop"

    def write_job(self, text: str) -> None:
        """Write job.yaml, for good: what follows can be resumed. Raises FootplateError where that fails."""
        with self._explained(self.job):
            beside = self.path / f".job-{os.getpid()}"
            with beside.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.job)
            for folder in (self.path, self.path.parent):
                descriptor = os.open(folder, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    def sweep(self) -> None:
        """Remove what a killed process was about to put in its place; for the holder of the lock only."""
        for leftover in self.path.glob(".*"):
            if _LEFTOVER.match(leftover.name):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def forget_stop(self) -> None:
        """Remove the request to stop of an earlier day. Raises FootplateError where the folder cannot be written."""
        with self._explained(self.path):
            self.stop.unlink(missing_ok=True)
            attempt = self.path / f".status-{os.getpid()}"  # the lock alone may be writable
            attempt.touch()
            attempt.unlink()

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace status.json at once: a reader sees the old or the new, never a part."""
        beside = self.path / f".status-{os.getpid()}"
        beside.write_text(json.dumps(status) + "\n")
        beside.replace(self.status)

    def read_status(self) -> dict[str, Any]:
        """The last status written; a run that says `running` while nobody holds its lock was killed."""
        try:
            status = _checked(json.loads(self.status.read_text()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # missing, or not what was written
            return {"state": "unknown", "update": 0}
        if status["state"] == "running" and not self.is_locked():
            status["state"] = "killed"
        return status

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder: a second process that would write into it is refused."""
        with self._explained(self.path):
            file = (self.path / "lock").open("a+")
        with file:
            if not _try_lock(file):
                raise FootplateError(f"{self.path}: this run is being trained by another process; stop that one first")
            yield

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FootplateError(
                f"{path}: cannot be written ({error.strerror}); make room, or make it writable"
            ) from error

    def is_locked(self) -> bool:
        """Whether a process on this machine holds the lock."""
        try:
            with (self.path / "lock").open("r") as file:
                return not _try_lock(file, fcntl.LOCK_SH)
        except OSError:
            return False


def _checked(status: Any) -> dict[str, Any]:
    """A status as `write_status` gets them. Raises KeyError, TypeError or ValueError for anything else."""
    numbers = [status["update"], status.get("updates", 0)]
    if status.get("best") is not None:
        numbers.append(status["best"]["value"])
    if not isinstance(status["state"], str) or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("not a status")
    return dict(status)


def _try_lock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def create_run(runs: Path, name: str | None, recipe: str) -> RunFolder:
    """A new run folder called `name`; without one, the recipe's name with the first number that is free.

    Raises FootplateError where the name is taken or the folder cannot be made.
    """
    candidates = [name] if name is not None else [recipe, *(f"{recipe}-{number}" for number in range(2, 10_000))]
    for candidate in candidates:
        if Path(candidate).name != candidate or candidate in {"", ".."} or not candidate.isprintable():
            raise FootplateError(
                f"--name: {candidate!r} is not a plain folder name; choose one without slashes or control characters"
            )
        try:
            (runs / candidate).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise FootplateError(
                f"{runs / candidate}: cannot be made ({error.strerror}); choose another folder with --runs"
            ) from error
        return RunFolder(runs / candidate)
    raise FootplateError(
        f"{runs / candidates[0]}: a run of this name exists; "
        f"choose another --name, or `footplate resume {RunFolder(runs / candidates[0]).argument}`"
    )


def open_run(run: str | Path, runs: Path) -> RunFolder:
    """The folder of an existing run, named by its path or by its name under `runs`."""
    for path in (runs / run, Path(run)):
        if (path / "job.yaml").is_file():
            return RunFolder(path)
        if (path / SWEEP_FILE).is_file():
            raise FootplateError(
                f"{run}: is a sweep; name one of its trials, which `footplate runs --runs {relative(path)}` lists"
            )
    raise FootplateError(
        f"{run}: no such run under {runs} (and no such folder with a job.yaml); `footplate runs` lists them"
    )


def relative(path: Path) -> Path:
    """The path as it is shortest from the working directory: relative where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
