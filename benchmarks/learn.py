"""`make learn`: train the small recipes with three seeds each, evaluate, and write the table into docs/learning.md.

Every run goes through the command line, as a user's would: `footplate train`, then `footplate evaluate` on the held-out
split or on fresh environments. It takes hours, and what is stopped goes on where it was: a run that was cut is resumed,
and one that has finished is only evaluated. `--anew` forgets the runs.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from report import machine, replace_block

ROOT = Path(__file__).parents[1]


class Goal(NamedTuple):
    """What a recipe is expected to reach, and how that is measured."""

    recipe: str
    evaluation: tuple[str, ...]
    metric: str
    at_least: float
    training: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What its rows and runs are called by."""
        return " ".join([self.recipe, *self.training])


FRESH = ("evaluate.episodes=100",)
PRIORITIES = ("replay.kind=proportional",)
RESULTS = Path(__file__).with_name("learn.json")
SCAN = Path("data", "scan")  # from ROOT, where every command runs
PUBLISHED_SCAN = Goal(
    "scan-transformer", ("evaluate.split=test",), "eval/exact_match", 99.5, (f"corpus.folder={SCAN}",)
)
OWN_SCAN = PUBLISHED_SCAN._replace(training=())
"""Measured where the published files are not."""
GOALS = (
    Goal("copy-transformer", ("evaluate.split=test",), "eval/exact_match", 99.0),
    Goal("catch-paac", FRESH, "eval/return", 0.99),
    # Its policy must keep exploring, which costs balls where actions are sampled: it is judged by its likeliest ones.
    Goal("catch-a3c", (*FRESH, "evaluate.actions=greedy"), "eval/return", 0.99),
    Goal("catch-async-q", FRESH, "eval/return", 0.99),
    Goal("catch-ppo", FRESH, "eval/return", 0.99),
    Goal("catch-apex", FRESH, "eval/return", 0.99),
    Goal("catch-dqn", FRESH, "eval/return", 0.99),
    Goal("catch-dqn", FRESH, "eval/return", 0.99, PRIORITIES),
    Goal("cartpole-paac", FRESH, "eval/return", 475.0),
    Goal("cartpole-a3c", FRESH, "eval/return", 475.0),
    Goal("cartpole-async-q", FRESH, "eval/return", 475.0),
    Goal("cartpole-ppo", FRESH, "eval/return", 475.0),
    Goal("cartpole-a3c", FRESH, "eval/return", 475.0, ("--on", "ray")),
    Goal("cartpole-apex", FRESH, "eval/return", 475.0),
    Goal("cartpole-apex", FRESH, "eval/return", 475.0, ("--on", "ray")),
    Goal("cartpole-dqn", FRESH, "eval/return", 475.0),
    Goal("cartpole-dqn", FRESH, "eval/return", 475.0, PRIORITIES),
    PUBLISHED_SCAN,
    OWN_SCAN,
)


def footplate(*arguments: str, shown: bool = False) -> str:
    """Run the command line, its output also on the screen where it is `shown`; it ends this program where it fails."""
    command = [sys.executable, "-m", "footplate", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if shown:
                print(f"  {line}", end="", flush=True)
    output = "".join(lines)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{output}")
    return output


def score(goal: Goal, seed: int, runs: Path, *, anew: bool) -> tuple[float, float]:
    """Train, from where it was if it was cut, and evaluate; the score and the seconds of training."""
    name = re.sub(r"[^\w.-]+", "-", f"{goal.name}-seed-{seed}")
    if anew:
        shutil.rmtree(runs / name, ignore_errors=True)
    if (runs / name / "job.yaml").exists():
        footplate("resume", name, "--runs", str(runs), shown=True)
    else:
        shutil.rmtree(runs / name, ignore_errors=True)  # killed before it had written a job
        footplate("train", goal.recipe, f"seed={seed}", *goal.training, "--runs", str(runs), "--name", name, shown=True)
    state = json.loads((runs / name / "status.json").read_text())["state"]
    if state != "finished":
        sys.exit(f"{name}: {state}; the same command goes on where it was")
    rows = (runs / name / "metrics.jsonl").read_text().splitlines()
    output = footplate("evaluate", name, *goal.evaluation, "--runs", str(runs))
    found = re.search(rf"^\s*{re.escape(goal.metric)}\s+(\S+)$", output, re.MULTILINE)
    if found is None:
        sys.exit(f"{name}: the evaluation says nothing of {goal.metric}:\n{output}")
    return float(found.group(1)), json.loads(rows[-1])["time/seconds"]


def write_table(results: dict[str, dict[str, Any]]) -> None:
    """Put every result so far into docs/learning.md; each row says when and where it was measured."""
    lines = [
        "| recipe | metric | required | scores, a seed each | seconds of training | measured |",
        "|---|---|---|---|---|---|",
    ]
    for goal in GOALS:
        if (result := results.get(goal.name)) is not None:
            scores = ", ".join(f"{value:.4g}" for value in result["scores"])
            seconds = ", ".join(f"{value:.0f}" for value in result["seconds"])
            cells = [goal.name, goal.metric, f"{goal.at_least:g}", scores, seconds, result["machine"]]
            lines.append(f"| {' | '.join(cells)} |")
    replace_block(ROOT / "docs" / "learning.md", "learn", lines)


def main() -> None:
    """Train what is asked for, print each result as it comes, and bring the table up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", action="append", help="only this recipe (may be repeated)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 1")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learn", help="where the runs go")
    parser.add_argument("--anew", action="store_true", help="remove the runs of before and train again")
    options = parser.parse_args()
    other_scan = OWN_SCAN if (ROOT / SCAN).is_dir() else PUBLISHED_SCAN
    goals = [goal for goal in GOALS if goal != other_scan and (not options.recipe or goal.recipe in options.recipe)]
    if unknown := {*(options.recipe or ())} - {goal.recipe for goal in GOALS}:
        known = ", ".join(dict.fromkeys(goal.recipe for goal in GOALS))
        sys.exit(f"--recipe: there is no {', '.join(sorted(unknown))}; there are {known}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    missed = []
    for number, goal in enumerate(goals, start=1):
        result: dict[str, Any] = {"scores": [], "seconds": [], "machine": machine()}
        for seed in range(1, options.seeds + 1):
            print(f"[{number}/{len(goals)}] {goal.name}, seed {seed}", flush=True)
            reached, seconds = score(goal, seed, options.runs, anew=options.anew)
            print(f"[{number}/{len(goals)}] {goal.name}, seed {seed}: {goal.metric} {reached:g}, {seconds:.0f} s")
            result["scores"].append(reached)
            result["seconds"].append(seconds)
        results[goal.name] = result
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write_table(results)
        if min(result["scores"]) < goal.at_least:
            missed.append(goal.name)
    sys.exit(f"lower than required: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")
