"""A run that is killed by SIGKILL at chosen moments, resumed until it ends, and compared with one that nobody touched.

`benchmarks/chaos.py` does this for hours, the tests a few times; both through the command line, as a user would.
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from footplate.checkpoint import CheckpointStore
from footplate.folder import RunFolder
from footplate.tracking.metrics_file import MEASURED, read_rows

Kill = Callable[["subprocess.Popen[bytes]"], None]
Moment = Literal["start", "training", "write"]
MOMENTS: tuple[Moment, ...] = ("start", "training", "write")
SHARES = (0.1, 0.45, 0.45)
TRAINING_SECONDS = 0.3  # dozens of updates of a small model, and several checkpoints
WRITE_SECONDS = 0.01  # a small checkpoint takes longer than that, mostly
LIFE_SECONDS = 900.0


@dataclass
class Figures:
    """What happened, added up over all the runs that were killed."""

    runs: int = 0
    kills: int = 0
    kills_during_a_write: int = 0
    kills_before_the_first_update: int = 0
    resumptions: int = 0
    updates: int = 0
    updates_repeated: int = 0
    seconds_to_the_first_update: list[float] = field(default_factory=list)

    def lines(self) -> list[tuple[str, str]]:
        """Each figure with what it is called."""
        waits = self.seconds_to_the_first_update
        return [
            ("runs that ended with the same bytes", f"{self.runs:,}"),
            ("kills", f"{self.kills:,}"),
            ("of them while a checkpoint was being written", f"{self.kills_during_a_write:,}"),
            ("of them before the first update", f"{self.kills_before_the_first_update:,}"),
            ("resumptions", f"{self.resumptions:,}"),
            ("updates in the runs", f"{self.updates:,}"),
            ("updates made again after a kill", f"{self.updates_repeated:,}"),
            ("seconds from `resume` to its first update, median", f"{statistics.median(waits):.1f}" if waits else "-"),
        ]


class Victim:
    """A run under a new name, and what is done to it. Its rows must be one an update (`track.every_updates=1`)."""

    def __init__(self, recipe: str, overrides: Sequence[str], runs: Path, name: str, figures: Figures) -> None:
        self.folder = RunFolder(runs / name)
        self.output = runs / f"{name}.txt"
        self._train = ["train", recipe, *overrides, "--runs", str(runs), "--name", name]
        self._resume = ["resume", name, "--runs", str(runs)]
        self._figures = figures

    def let_it_end(self) -> RunFolder:
        """Train or resume without disturbance. Raises RuntimeError, with all that was printed, where that fails."""
        process = self._start()
        if process.wait(LIFE_SECONDS):
            raise RuntimeError(self.output.read_text())
        return self.folder

    def live_and_die(self, moment: Moment, chance: random.Random, kill: Kill) -> bool:
        """Train or resume, and kill it at a random moment of this kind; False if it ended before.

        Raises RuntimeError, with all that was printed, where it fails by itself.
        """
        began, before = time.monotonic(), _file_state(self.folder.metrics)
        process = self._start()
        saved = self._newest()

        def has_a_new_update() -> bool:
            return _file_state(self.folder.metrics) != before and last_update(self.folder) > saved

        if moment == "start":
            waits = self._figures.seconds_to_the_first_update or [5.0]
            _wait(process, lambda: False, chance.uniform(0, statistics.median(waits)))
        elif _wait(process, has_a_new_update):
            self._figures.seconds_to_the_first_update.append(time.monotonic() - began)
        if moment == "training":
            _wait(process, lambda: False, chance.uniform(0, TRAINING_SECONDS))
        elif moment == "write" and _wait(process, self._is_writing):
            _wait(process, lambda: False, chance.uniform(0, WRITE_SECONDS))
        if process.poll() is not None:
            if process.returncode:
                raise RuntimeError(self.output.read_text())
            return False
        kill(process)
        while self.folder.is_locked():  # workers on a cluster outlive their driver by a moment
            time.sleep(0.1)
        self._note_the_kill(is_new=has_a_new_update())
        return True

    def _note_the_kill(self, *, is_new: bool) -> None:
        figures = self._figures
        figures.kills += 1
        figures.kills_before_the_first_update += not is_new
        figures.kills_during_a_write += self._is_writing()
        figures.updates_repeated += max(0, last_update(self.folder) - self._newest()) if is_new else 0
        if not self.folder.job.exists():  # before anything had begun: the name is taken by an empty folder
            shutil.rmtree(self.folder.path, ignore_errors=True)

    def _start(self) -> "subprocess.Popen[bytes]":
        is_new = not self.folder.job.exists()
        self._figures.resumptions += not is_new
        with self.output.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "footplate", *(self._train if is_new else self._resume)],
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that the whole of it can be killed at once
            )

    def _newest(self) -> int:
        return max(CheckpointStore(self.folder.checkpoints).updates(), default=0)

    def _is_writing(self) -> bool:
        """Whether a checkpoint is half written, now or since the kill."""
        return any(self.folder.checkpoints.glob(".writing-*"))


def kill_all_of(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL every process of the session that this one leads; returns when none is left."""
    while members := _members(process.pid):
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.poll()  # else it stays a zombie
        time.sleep(0.01)
    process.wait()


def training_workers(session: int) -> list[int]:
    """Ray's training workers among the processes of a session."""
    return sorted(pid for pid in _members(session) if _title(pid).startswith("ray::RayTrainWorker"))


def check_equal(through: RunFolder, killed: RunFolder) -> None:
    """Compare the ends of two runs. Raises AssertionError where a byte, a state or a row is another.

    Weights are compared by the byte, the other files of the last checkpoint by what they hold (but for seconds), the
    rows but for times and rates; each run has a row of each update, once and in order.
    """
    update = CheckpointStore(through.checkpoints).updates()[-1]
    first, second = (CheckpointStore(folder.checkpoints).at(update) for folder in (through, killed))
    assert first.manifest["files"].keys() == second.manifest["files"].keys()
    for name in first.manifest["files"]:
        path = Path(name)
        if path.suffix == ".safetensors":
            assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), f"{name}: other bytes"
        else:
            assert same(first.load_state(path.stem), second.load_state(path.stem)), f"{name}: another state"
    for folder in (through, killed):
        assert [row["update"] for row in read_rows(folder.metrics)] == list(range(1, update + 1)), folder.metrics
    assert _untimed(through) == _untimed(killed), "other rows"


def same(first: Any, second: Any) -> bool:
    """Whether two states hold the same, bit for bit; the seconds that they took are left out."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        names = [name for name in first if "seconds" not in str(name)]
        return list(first) == list(second) and all(same(first[name], second[name]) for name in names)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def last_update(folder: RunFolder) -> int:
    """The update of the last row in metrics.jsonl; 0 without any."""
    with suppress(OSError):
        return int(max((row["update"] for row in read_rows(folder.metrics)), default=0))
    return 0


def _untimed(folder: RunFolder) -> list[dict[str, Any]]:
    rows = read_rows(folder.metrics)
    return [{name: str(row[name]) for name in row if not name.startswith(MEASURED)} for row in rows]


def _file_state(path: Path) -> tuple[int, int]:
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_size
    return 0, 0


def _wait(process: "subprocess.Popen[bytes]", until: Callable[[], bool], seconds: float = LIFE_SECONDS) -> bool:
    """Whether `until()` became true within the time, before the process ended."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if until():
            return True
        time.sleep(0.001)
    return False


def _members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # pid (name) state parent group session; the name may hold anything
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                members.append(int(path.parent.name))
    return members


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""
