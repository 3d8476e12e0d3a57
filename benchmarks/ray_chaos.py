"""`make ray-chaos MINUTES=5`: a run on several raylets loses a worker, a machine or its driver again and again.

The next loss follows 0 to 5 seconds after each recovery. A lost machine is replaced by a new one, a lost driver by
`footplate resume`; workers and machines the run replaces by itself. However often that happens, the run must end with
the bytes of one that nobody disturbed. The figures go into docs/resume.md.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kills import check_equal, last_update, training_workers
from report import machine, replace_block

from footplate.checkpoint import CheckpointStore
from footplate.folder import RunFolder

import footplate_cluster.connection  # noqa: F401  # it sets what Ray reads when it is imported  # isort: skip
import ray
from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[1]
OVERRIDES = ["threads=1", "batch_tokens=128", "track.every_updates=1", "evaluate.sentences=8", "faults.restarts=10"]
FAULTS = ("worker", "machine", "driver")
MEMORY = 80_000_000
SECONDS_TO_RECOVER = 600.0


class Torment:
    """One run after another on a cluster of raylets, and what was done to them."""

    def __init__(self, updates: int, workers: int, runs: Path, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self.seconds_to_recover: dict[str, list[float]] = {fault: [] for fault in FAULTS}
        self.updates = self.updates_repeated = self.runs_ended = 0
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY},
        )
        self._machines = [self._new_machine() for _ in range(workers)]
        self._chance = random.Random(seed)
        self._folder = runs
        where = ["--on", "ray", "--address", self._cluster.address, "--workers", str(workers), "--runs", str(runs)]
        often = [f"updates={updates}", f"evaluate.every_updates={updates // 4}", "save.every_updates=15"]
        self._train = ["train", "copy-transformer", *OVERRIDES, *often, *where]

    def undisturbed(self) -> RunFolder:
        """What the others are compared with."""
        if self._start("through").wait():
            raise RuntimeError((self._folder / "through.txt").read_text())
        return RunFolder(self._folder / "through")

    def disturb(self, through: RunFolder, until: float) -> None:
        """Train once more, with a fault soon after each recovery till then. Raises AssertionError on another end."""
        name = f"killed-{self.runs_ended + 1}"
        folder = RunFolder(self._folder / name)
        process = self._start(name)
        while _trains(process, folder, lambda: last_update(folder) > 0) and time.monotonic() < until:
            time.sleep(self._chance.uniform(0, 5))
            if process.poll() is not None:
                break
            fault, reached = self._chance.choice(FAULTS), last_update(folder)
            saved = max(CheckpointStore(folder.checkpoints).updates(), default=0)
            began, file, told = time.monotonic(), folder.metrics.stat().st_ino, _restarts(folder)
            if fault == "driver":
                told = -1  # nothing is told: when it is resumed nobody of the lost start is left
            process = self._cause(fault, process, name)
            self.faults[fault] += 1
            if not _trains(process, folder, partial(_is_back, folder, saved, reached, file, told)):
                break
            self.seconds_to_recover[fault].append(time.monotonic() - began)
            self.updates_repeated += max(0, reached - saved)
            print(f"{name}: {fault} lost at update {reached}, back to {saved}", flush=True)
        if process.wait():
            raise RuntimeError((self._folder / f"{name}.txt").read_text())
        check_equal(through, folder)
        self.runs_ended += 1
        self.updates += last_update(folder)

    def close(self) -> None:
        """Stop the raylets."""
        self._cluster.shutdown()

    def lines(self) -> list[str]:
        """The table of all that happened."""
        waits = {
            fault: statistics.median(seconds) if seconds else None for fault, seconds in self.seconds_to_recover.items()
        }
        shown = {fault: "-" if wait is None else f"{wait:.0f}" for fault, wait in waits.items()}
        return [
            "| lost | times | seconds until it trains again, median |",
            "|---|---|---|",
            *(f"| {fault} | {self.faults[fault]} | {shown[fault]} |" for fault in FAULTS),
            "",
            f"{self.runs_ended} run{'s' * (self.runs_ended != 1)} of {self.updates // max(1, self.runs_ended):,} "
            f"updates ended with the same bytes; {self.updates_repeated:,} updates were made again.",
        ]

    def _cause(self, fault: str, process: "subprocess.Popen[bytes]", name: str) -> "subprocess.Popen[bytes]":
        """Let it happen; returns the driver's process, which is another one if it was that."""
        if fault == "worker" and (workers := training_workers(os.getsid(0))):
            os.kill(self._chance.choice(workers), signal.SIGKILL)
        elif fault == "machine":
            self._cluster.remove_node(self._machines.pop(0), allow_graceful=False)
            self._machines.append(self._new_machine())
        elif fault == "driver":
            process.kill()
            process.wait()
            folder = RunFolder(self._folder / name)
            while folder.is_locked():  # its workers outlive it by a moment
                time.sleep(0.1)
            return self._start(name)
        return process

    def _start(self, name: str) -> "subprocess.Popen[bytes]":
        is_new = not (self._folder / name).exists()
        command = [*self._train, "--name", name] if is_new else ["resume", name, "--runs", str(self._folder)]
        with (self._folder / f"{name}.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "footplate", *command], stdout=output, stderr=output, start_new_session=True
            )

    def _new_machine(self) -> object:
        return self._cluster.add_node(num_cpus=1, object_store_memory=MEMORY)


def _trains(process: "subprocess.Popen[bytes]", folder: RunFolder, condition: Callable[[], bool]) -> bool:
    """Whether the condition came true before the run ended."""
    end = time.monotonic() + SECONDS_TO_RECOVER
    while process.poll() is None and time.monotonic() < end:
        if folder.metrics.exists() and condition():
            return True
        time.sleep(0.05)
    return False


def _is_back(folder: RunFolder, saved: int, reached: int, file: int, told: int) -> bool:
    """Whether there is an update since the run was started anew; before, who is left may still make one."""
    was_cut = folder.metrics.stat().st_ino != file  # to what was saved
    return last_update(folder) > saved if was_cut else _restarts(folder) > told and last_update(folder) > reached


def _restarts(folder: RunFolder) -> int:
    """How often the log says that the run goes on."""
    return folder.log.read_text().count("going on from") if folder.log.exists() else 0


def main() -> None:
    """Disturb runs for some minutes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--updates", type=int, default=400, help="of each run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    runs = Path(tempfile.mkdtemp(prefix="footplate-ray-chaos-"))
    print(f"the runs lie in {runs}, Ray {ray.__version__}", flush=True)
    torment = Torment(options.updates, options.workers, runs, options.seed)
    try:
        through = torment.undisturbed()
        until = time.monotonic() + 60 * options.minutes
        while time.monotonic() < until:
            torment.disturb(through, until)
    finally:
        torment.close()
    command = f"`python benchmarks/ray_chaos.py --minutes {options.minutes:g} --updates {options.updates}`"
    said = f"{command}, {options.workers} workers, each on a raylet of its own, Ray {ray.__version__}, {machine()}."
    replace_block(ROOT / "docs" / "resume.md", "ray-chaos", [*torment.lines(), "", said])
    print("\n".join(torment.lines()))


if __name__ == "__main__":
    main()
