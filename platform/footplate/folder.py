"""The run folder: everything that a run leaves behind, and who is at work in it.

runs/<name>/job.yaml  metrics.jsonl  log.txt  status.json  checkpoints/<update>/  samples/  videos/  data/
"""

import fcntl
import json
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from footplate.errors import FootplateError

SWEEP_FILE = "sweep.yaml"
"""What makes a folder a sweep's; its run folders lie inside."""
_LEFTOVER = re.compile(r"\.(job|status|metrics\.jsonl|data)-|\.wandb")
"""What is written beside its place and then renamed; other hidden files are the user's."""
_PASSWORD = re.compile(r"([^:/]+)://[^/:@]*:(?!\d+/)[^@]*@")
"""Up to a password's end. S3's own may hold slashes; what is a number up to the slash is a port."""
ORIGIN = ".origin"
"""In the folder of a run at a URL: the URL."""
LEASE = ".lease"
"""In the copy of a run at a URL: who trained it when the copy was made."""
SECONDS_TO_LOCK = 1.0
"""Whoever asks whether a run is locked holds its lock for an instant, which must not keep anybody from training it."""
SECONDS_BETWEEN_TRIES = 0.02


class RunFolder:
    """The places in a run folder. `open_run` and `create_run` make sure that it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def url(self) -> str | None:
        """Where the run is, if that is a URL; then this folder is a copy, or where it is trained (`remote`)."""
        try:
            return str(json.loads((self.path / ORIGIN).read_text("utf-8"))["url"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def runs(self) -> str:
        """What lies around the run: a path or a URL."""
        return str(self.path.parent) if self.url is None else self.url.rpartition("/")[0]

    @property
    def argument(self) -> str:
        """What to call the run on the command line, from the working directory."""
        if self.url is not None:
            return self.url
        return shlex.quote(self.name if self.path.parent == Path("runs").absolute() else str(relative(self.path)))

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
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.job)
            for folder in (self.path, self.path.parent):
                descriptor = os.open(folder, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
        if self.url is not None:
            from footplate.remote import write_job

            write_job(self)

    def refreshed(self) -> "RunFolder":
        """The run as it is now: of one at a URL, this copy brought up to date."""
        return self if self.url is None else open_run(self.url, "")

    def remove(self) -> None:
        """Remove a run that has not begun; its name is free again."""
        if self.url is not None:
            from footplate.remote import remove

            remove(self)
        else:
            shutil.rmtree(self.path)

    def ask_to_stop(self, reason: str) -> None:
        """Ask the run to save and end, wherever it is trained."""
        if self.url is not None:
            from footplate.remote import ask_to_stop

            ask_to_stop(self.url, reason)
        else:
            self.stop.write_text(reason, encoding="utf-8")

    def sweep(self) -> None:
        """Remove what a killed process was about to put in its place; for the holder of the lock only."""
        for leftover in self.path.glob(".*"):
            if _LEFTOVER.match(leftover.name):
                is_folder = leftover.is_dir() and not leftover.is_symlink()
                shutil.rmtree(leftover) if is_folder else leftover.unlink()

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
        beside.write_text(json.dumps(status) + "\n", encoding="utf-8")
        beside.replace(self.status)

    def write_failure(self, problem: str) -> None:
        """Say in status.json that the run has failed, for who could not do so; how far it had come stays there."""
        self.write_status({**self.read_status(), "state": "failed", "error": problem, "activity": None})

    def read_status(self) -> dict[str, Any]:
        """The last status written; a run that says `running` while nobody holds its lock was killed."""
        try:
            status = _checked(json.loads(self.status.read_text("utf-8")))
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
            end = time.monotonic() + SECONDS_TO_LOCK
            while not self._is_taken(file):
                if time.monotonic() >= end:
                    raise FootplateError(
                        f"{self.path}: this run is being trained by another process; stop that one first"
                    )
                time.sleep(SECONDS_BETWEEN_TRIES)
            yield

    def _is_taken(self, file: IO[str]) -> bool:
        try:
            return _try_lock(file)
        except OSError as error:
            raise FootplateError(
                f"{self.path}: cannot be locked ({error.strerror}); put it on a disk that has locks"
            ) from error

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FootplateError(
                f"{path}: cannot be written ({error.strerror}); make room, or make it writable"
            ) from error

    def is_locked(self) -> bool:
        """Whether a process on this machine holds the lock, or one somewhere the lease of a run at a URL."""
        if self.url is not None and (self.path / LEASE).exists():
            from footplate.lease import is_alive

            return is_alive((self.path / LEASE).read_bytes())
        try:
            with (self.path / "lock").open("r") as file:
                return not _try_lock(file, fcntl.LOCK_SH)
        except OSError:
            return False


def _checked(status: Any) -> dict[str, Any]:
    """A status as `write_status` gets them. Raises KeyError, TypeError or ValueError for anything else."""
    counts = [status["update"], status.get("updates", 0)]
    best = status["best"] if status.get("best") is not None else {"metric": "", "value": 0.0}
    activity = status.get("activity") or {"name": "", "done": 0, "total": 0}
    counts += [activity["done"], activity["total"]]
    is_one = (
        all(isinstance(text, str) for text in (status["state"], best["metric"], activity["name"]))
        and all(type(count) is int and 0 <= count < 2**63 for count in counts)
        and _is_number(best["value"])
        and _is_number(seconds := status.get("seconds", 0.0))
        and 0 <= seconds < math.inf
    )
    if not is_one:
        raise ValueError("not a status")
    return dict(status)


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold; NaN and infinity are."""
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def _try_lock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stop_reason(path: Path) -> str | None:
    """The reason in a `stop` file; None where there is none, so that nobody is asked to stop."""
    try:
        return path.read_text("utf-8", errors="replace").strip() or "asked to stop"
    except OSError:
        return None


def create_run(runs: str | Path, name: str | None, recipe: str) -> RunFolder:
    """A new run folder called `name`; without one, the recipe's name with the first number that is free.

    Raises FootplateError where the name is taken or the folder cannot be made.
    """
    candidates = [name] if name is not None else [recipe, *(f"{recipe}-{number}" for number in range(2, 10_000))]
    for candidate in candidates:
        if Path(candidate).name != candidate or candidate[:1] in {"", "."} or not candidate.isprintable():
            raise FootplateError(
                f"--name: {candidate!r} is not a plain folder name; choose one without slashes, control characters "
                "or a leading dot"
            )
        if (folder := _create(runs, candidate)) is not None:
            return folder
    taken = f"{str(runs).rstrip('/')}/{candidates[0]}" if is_url(runs) else Path(runs) / candidates[0]
    argument = taken if isinstance(taken, str) else RunFolder(taken).argument
    raise FootplateError(f"{taken}: a run of this name exists; choose another --name, or `footplate resume {argument}`")


def _create(runs: str | Path, name: str) -> RunFolder | None:
    """The new folder of this name, or None where there is one."""
    if is_url(runs):
        from footplate.remote import create

        return create(str(runs), name)
    path = Path(runs) / name
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return None
    except OSError as error:
        raise FootplateError(f"{path}: cannot be made ({error.strerror}); choose another folder with --runs") from error
    return RunFolder(path)


def find_run(run: str | Path, runs: str | Path) -> RunFolder | None:
    """The folder of a run, named by its path or URL, or by its name under `runs`; of one at a URL, a copy."""
    urls = [str(run)] if is_url(run) else [f"{str(runs).rstrip('/')}/{run}"] if is_url(runs) else []
    for url in urls:
        from footplate.remote import open_copy

        if (folder := open_copy(url)) is not None:
            return folder
    paths = [] if is_url(run) else [Path(run)] if is_url(runs) else [Path(runs) / run, Path(run)]
    return next((RunFolder(path) for path in paths if is_seen(path / "job.yaml")), None)


def open_run(run: str | Path, runs: str | Path) -> RunFolder:
    """What `find_run` finds. Raises FootplateError where there is no such run."""
    if (folder := find_run(run, runs)) is not None:
        return folder
    for path in () if is_url(run) or is_url(runs) else (Path(runs) / run, Path(run)):
        if is_seen(path / SWEEP_FILE):
            raise FootplateError(
                f"{run}: is a sweep; name one of its trials, which `footplate runs --runs {relative(path)}` lists"
            )
    if is_url(run):
        around = str(run).rstrip("/").rpartition("/")[0]
        raise FootplateError(f"{run}: no such run; `footplate runs --runs {around}` lists what is there")
    for path in () if is_url(run) or is_url(runs) else (Path(runs) / run, Path(run)):
        _require_a_look_into(path, run)
    flag = f" --runs {runs}" if is_url(runs) else ""
    raise FootplateError(
        f"{run}: no such run under {runs} (and no such folder with a job.yaml); `footplate runs{flag}` lists them"
    )


def _require_a_look_into(path: Path, run: str | Path) -> None:
    try:
        (path / "job.yaml").stat()
    except PermissionError as error:
        raise FootplateError(
            f"{run}: cannot be looked into ({error.strerror}); make {relative(path)} readable"
        ) from error
    except OSError:
        return


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL, in a storage, and no path."""
    return isinstance(place, str) and "://" in place


def is_seen(path: Path) -> bool:
    """Whether something is there, for this user.

    What he may not look into could as well not be there, and what has a name that no file can have is nowhere.
    """
    try:
        return path.exists()
    except OSError:
        return False


def refuse_password(place: str | Path) -> None:
    """Raise FootplateError, which does not repeat it, for a password in a URL: run folders and jobs name their URL.

    >>> refuse_password("abfs://container@account/runs"), refuse_password("hdfs://host:8020/runs@1")
    (None, None)
    """
    if is_url(place) and (found := _PASSWORD.match(str(place))) is not None:
        raise FootplateError(
            f"{found[1]}://...@{str(place).rpartition('@')[2]}: holds a password, which others see; "
            "give it to the storage by the environment, or by a file of its own"
        )


def relative(path: Path) -> Path:
    """The path as it is shortest from the working directory: relative where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
