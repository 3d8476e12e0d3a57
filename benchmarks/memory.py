"""What training holds in memory: whether the corpus's size enters it, and whether it grows over a long run.

The figure is the anonymous resident memory (`Anonymous` in /proc/self/smaps_rollup): all that a process has allocated.
Pages of the memory-mapped corpus are not in it; the kernel takes those back whenever it wants memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from report import machine, replace_block

from footplate.execution import local_context, run
from footplate.folder import create_run
from footplate.job import load_job

ROOT = Path(__file__).parents[1]
MULTI30K = ROOT / "data" / "multi30k"
SAMPLE_SECONDS = 10


def anonymous_megabytes() -> float:
    """The anonymous resident memory of this process, in units of 10^6 bytes."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/smaps_rollup has no line Anonymous")


def sampled(recipe: str, overrides: list[str], *, updates: int | None, minutes: float | None) -> dict[str, list[float]]:
    """Train, as `footplate train` does, for so many updates or minutes: times, updates and megabytes on the way."""
    found: dict[str, list[float]] = {"seconds": [], "updates": [], "megabytes": []}
    with tempfile.TemporaryDirectory() as runs:
        job = load_job(recipe, overrides)
        folder = create_run(Path(runs), "memory", recipe)
        began = due = time.monotonic()
        for step in run(job, local_context(job, folder.path)):
            now = time.monotonic()
            over = step.update == updates or (minutes is not None and now > began + 60 * minutes)
            if over or (minutes is not None and now >= due):
                due = now + SAMPLE_SECONDS
                found["seconds"].append(now - began)
                found["updates"].append(step.update)
                found["megabytes"].append(anonymous_megabytes())
            if over:
                break
    return found


def repeated(folder: Path, times: int, into: Path) -> Path:
    """A copy of Multi30k with its training text so many times over; validation and test text as they are."""
    into.mkdir()
    for path in folder.glob("*.??"):
        (into / path.name).write_bytes(path.read_bytes() * (times if path.name.startswith("train") else 1))
    return into


def corpus_rows(folder: Path, updates: int, times: int) -> list[str]:
    """A row for the corpus and one for the same corpus `times` over, each trained in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for count in (1, times):
            corpus = repeated(folder, count, Path(work) / str(count))
            pairs = len((corpus / "train.de").read_bytes().splitlines())
            command = [sys.executable, __file__, "--child", f"corpus.folder={corpus}", "--updates", str(updates)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            megabytes = json.loads(done.stdout.splitlines()[-1])["megabytes"][-1]
            rows.append(f"| Multi30k x {count}, {pairs:,} pairs, after {updates} updates | {megabytes:,.0f} MB |")
            print(rows[-1], flush=True)
    return rows


def growth_row(recipe: str, overrides: list[str], minutes: float) -> str:
    """A row for a long run: its memory after a quarter of the time, at the end, and the slope between."""
    found = sampled(recipe, overrides, updates=None, minutes=minutes)
    late = [
        (seconds / 3600, megabytes)
        for seconds, megabytes in zip(found["seconds"], found["megabytes"], strict=True)
        if seconds > 15 * minutes
    ]
    hours, megabytes = zip(*late, strict=True)
    slope = statistics.linear_regression(hours, megabytes).slope
    return (
        f"| `{recipe}`, {minutes:g} minutes, {found['updates'][-1]:,.0f} updates | {megabytes[0]:,.0f} MB after a "
        f"quarter, {megabytes[-1]:,.0f} MB at the end, at most {max(megabytes):,.0f} MB; {slope:+.1f} MB/hour |"
    )


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--multi30k", type=Path, default=MULTI30K, help="the folder with Multi30k")
    parser.add_argument("--minutes", type=float, default=60, help="how long the long run is")
    parser.add_argument("--updates", type=int, default=60, help="updates on each corpus")
    parser.add_argument("--times", type=int, default=20, help="how often the corpus is repeated")
    parser.add_argument("--recipe", default="scan-transformer", help="what the long run trains")
    parser.add_argument("--child", metavar="corpus.folder=...", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        settings = [
            "vocabulary.training_lines=29000",
            "batch_tokens=2048",
            "update.accumulate=1",
            "threads=1",
            "evaluate.every_updates=1000000",
        ]
        found = sampled("multi30k-en-de", [options.child, *settings], updates=options.updates, minutes=None)
        print(json.dumps(found))
        return
    torch.set_num_threads(1)
    lines = ["| what | anonymous resident memory |", "|---|---|"]
    if options.multi30k.is_dir():
        lines += corpus_rows(options.multi30k, options.updates, options.times)
    lines.append(growth_row(options.recipe, ["updates=1000000000", "best=null"], options.minutes))
    print(lines[-1])
    command = f"`python benchmarks/memory.py --minutes {options.minutes:g} --updates {options.updates}`"
    replace_block(ROOT / "docs" / "speed.md", "memory", [*lines, "", f"{command}, {machine()}."])


if __name__ == "__main__":
    main()
