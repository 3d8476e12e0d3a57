"""What a sweep costs beside the training: 20 trials on two cores, timed by the lines that it prints."""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from report import machine, replace_block

from footplate.sweeps.folder import SweepFolder

ROOT = Path(__file__).parents[1]
SWEEP = """
recipe: copy-transformer
overrides:
  updates: 100
  corpus.train_pairs: 2000
  evaluate: {every_updates: 50, sentences: 50}
space:
  optimizer.learning_rate: {kind: log_uniform, low: 1e-3, high: 1e-1}
  model.width: [32, 64]
search: {kind: random, trials: TRIALS}
concurrent: 2
"""


@dataclass(frozen=True)
class Times:
    """Seconds: of the whole command, to the first trial, to the end of the last, and trained in all trials together."""

    whole: float
    first_trial: float
    last_trial: float
    trained: float
    trials: int

    def lines(self) -> list[tuple[str, float]]:
        """What each second goes to."""
        among_trials = 2 * (self.last_trial - self.first_trial)
        return [
            ("from the command to the first trial: checks, Ray's start, a process with torch", self.first_trial),
            (f"from there to the end of the last of {self.trials} trials", self.last_trial - self.first_trial),
            ("training a trial, on average", self.trained / self.trials),
            ("overhead a trial: its core's time but training", (among_trials - self.trained) / self.trials),
            ("from the last trial to the prompt: table, picture, Ray's end", self.whole - self.last_trial),
        ]


def measure(trials: int) -> Times:
    """Run a sweep once. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory(prefix="footplate-sweep-") as place:
        file = Path(place) / "copy.yaml"
        file.write_text(SWEEP.replace("TRIALS", str(trials)))
        command = [sys.executable, "-m", "footplate", "sweep", str(file), "--runs", place]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        moments = [(time.monotonic() - began, line) for line in process.stdout]
        if process.wait() != 0:
            raise RuntimeError("".join(line for _, line in moments))
        whole = time.monotonic() - began
        starts = [moment for moment, line in moments if " starts: " in line]
        ends = [moment for moment, line in moments if " finished after " in line]
        standings = SweepFolder(Path(place) / "copy").standings()
        if not len(starts) == len(ends) == len(standings) == trials:
            raise RuntimeError("".join(line for _, line in moments))
        return Times(whole, starts[0], ends[-1], sum(standing.seconds for standing in standings), trials)


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    times = measure(parser.parse_args().trials)
    lines = ["| what | seconds |", "|---|---|", *(f"| {what} | {seconds:.1f} |" for what, seconds in times.lines())]
    print("\n".join(lines))
    replace_block(ROOT / "docs" / "sweeps.md", "sweep", [*lines, "", f"`python benchmarks/sweep.py`, {machine()}."])


if __name__ == "__main__":
    main()
