"""What the spine costs: `drive` with every local tracker, the start of the program, the way to the first update.

`drive` is measured at a terminal (a pseudo-terminal that another process empties), by the suspended task itself.
"""

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import busy_task
import torch
from report import machine, replace_block

from footplate.execution import local_context, run
from footplate.folder import create_run
from footplate.job import load_job

ROOT = Path(__file__).parents[1]
FOOTPLATE = Path(sys.executable).with_name("footplate")
WARMUP_UPDATES = 100  # opening the trackers is not a cost of an update


@contextmanager
def terminal() -> Iterator[None]:
    """What is printed meanwhile goes to a terminal that nobody sees."""
    master, slave = pty.openpty()
    reader = subprocess.Popen(["cat"], stdin=master, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(master)
    stdout = sys.stdout
    sys.stdout = os.fdopen(slave, "w")
    try:
        yield
    finally:
        sys.stdout.close()
        sys.stdout = stdout
        reader.wait()


def drive_overhead(rounds: int, updates_a_row: int) -> list[float]:
    """Seconds that `drive` adds to an update: what it takes of the training thread, and what its threads compute."""
    added = []
    with tempfile.TemporaryDirectory() as runs:
        recipe = Path(runs) / "busy.yaml"
        recipe.write_text(
            f"task: busy_task\nthreads: 1\ntrack: {{tensorboard: true, every_updates: {updates_a_row}}}\n"
        )
        job = load_job(recipe)
        for number in range(rounds):
            folder = create_run(Path(runs), f"round-{number}", "busy")
            with terminal():
                for _ in run(job, local_context(job, folder.path)):
                    pass
            added.append(statistics.mean(busy_task.added_seconds[WARMUP_UPDATES:]))
    return added


def help_seconds(rounds: int) -> list[float]:
    """How long `footplate --help` takes."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([FOOTPLATE, "--help"], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return found


def first_update_seconds(rounds: int) -> list[float]:
    """From typing `footplate train copy-transformer` to the first row in its metrics.jsonl."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as runs:
            command = [FOOTPLATE, "train", "copy-transformer", "--runs", runs, "--name", "it", "track.every_updates=1"]
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            rows = Path(runs) / "it" / "metrics.jsonl"
            while not (rows.is_file() and rows.stat().st_size):
                if process.poll() is not None:
                    sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}")
                time.sleep(0.005)
            found.append(time.perf_counter() - began)
            process.kill()
            process.wait()
    return found


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    measured = {
        f"`drive` with metrics.jsonl, log, console and TensorBoard, {rows}: ms added to an update of 10 ms": [
            1000 * seconds for seconds in drive_overhead(rounds, updates_a_row)
        ]
        for rows, updates_a_row in (("a row each update", 1), ("a row in 10 updates", 10))
    } | {
        "`footplate --help`: s": help_seconds(rounds),
        "`footplate train copy-transformer` to its first update: s": first_update_seconds(rounds),
    }
    lines = ["| what | median | lowest | highest |", "|---|---|---|---|"]
    for name, values in measured.items():
        numbers = (statistics.median(values), min(values), max(values))
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in numbers) + " |")
    print("\n".join(lines))
    command = f"`python benchmarks/spine.py --rounds {rounds}`"
    replace_block(ROOT / "docs" / "speed.md", "spine", [*lines, "", f"{command}, {machine()}."])


if __name__ == "__main__":
    main()
