"""`make learn`: train the small recipes with three seeds each, evaluate, and write the table into docs/learning.md.

Every run goes through the command line, as a user's would: `footplate train`, then `footplate evaluate` on the held-out
split or on fresh environments.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
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
        """What `--recipe` asks for, and the table shows: `cartpole-a3c`, or `cartpole-a3c --on ray`."""
        return " ".join([self.recipe, *(self.training if self.training[:1] == ("--on",) else ())])


RESULTS = Path(__file__).with_name("learn.json")
SCAN = Path("..", "shared", "data", "scan")  # from ROOT, where every command runs
GOALS = (
    Goal("copy-transformer", ("evaluate.split=test",), "eval/exact_match", 99.0),
    Goal("catch-paac", ("evaluate.episodes=100",), "eval/return", 0.99),
    Goal("cartpole-paac", ("evaluate.episodes=100",), "eval/return", 475.0),
    Goal("catch-a3c", ("evaluate.episodes=100", "evaluate.actions=greedy"), "eval/return", 0.99),
    Goal("catch-async-q", ("evaluate.episodes=100",), "eval/return", 0.99),
    Goal("catch-ppo", ("evaluate.episodes=100",), "eval/return", 0.99),
    Goal("cartpole-a3c", ("evaluate.episodes=100",), "eval/return", 475.0),
    Goal("cartpole-async-q", ("evaluate.episodes=100",), "eval/return", 475.0),
    Goal("cartpole-ppo", ("evaluate.episodes=100",), "eval/return", 475.0),
    Goal("catch-apex", ("evaluate.episodes=100",), "eval/return", 0.99),
    Goal("cartpole-apex", ("evaluate.episodes=100",), "eval/return", 475.0),
    Goal("cartpole-a3c", ("evaluate.episodes=100",), "eval/return", 475.0, ("--on", "ray")),
    Goal("cartpole-apex", ("evaluate.episodes=100",), "eval/return", 475.0, ("--on", "ray")),
    Goal("catch-dqn", ("evaluate.episodes=100",), "eval/return", 0.99),
    Goal("cartpole-dqn", ("evaluate.episodes=100",), "eval/return", 475.0),
    Goal(
        "scan-transformer",
        ("evaluate.split=test",),
        "eval/exact_match",
        99.5,
        (f"corpus.folder={SCAN}",) if (ROOT / SCAN).is_dir() else (),
    ),
)


def footplate(*arguments: str) -> str:
    """Run the command line; its output, or the end of this program with it where it failed."""
    command = [sys.executable, "-m", "footplate", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def score(goal: Goal, seed: int, runs: Path) -> tuple[float, float]:
    """Train and evaluate once; the score and the seconds of training."""
    name = f"{goal.name.replace(' --on ', '-on-')}-seed-{seed}"
    began = time.perf_counter()
    footplate("train", goal.recipe, f"seed={seed}", *goal.training, "--runs", str(runs), "--name", name)
    seconds = time.perf_counter() - began
    output = footplate("evaluate", name, *goal.evaluation, "--runs", str(runs))
    found = re.search(rf"^\s*{re.escape(goal.metric)}\s+(\S+)$", output, re.MULTILINE)
    if found is None:
        sys.exit(f"{name}: the evaluation says nothing of {goal.metric}:\n{output}")
    return float(found.group(1)), seconds


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
            cells = [result["trained"], goal.metric, f"{goal.at_least:g}", scores, seconds, result["machine"]]
            lines.append(f"| {' | '.join(cells)} |")
    replace_block(ROOT / "docs" / "learning.md", "learn", lines)


def main() -> None:
    """Train what is asked for, print each result as it comes, and bring the table up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--recipe",
        action="append",
        help="only this recipe, such as `catch-a3c` or `cartpole-a3c --on ray` (may be repeated)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 1")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learn", help="where the runs go")
    options = parser.parse_args()
    shutil.rmtree(options.runs, ignore_errors=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = False
    for goal in GOALS:
        if options.recipe and goal.name not in options.recipe:
            continue
        found = []
        for seed in range(1, options.seeds + 1):
            found.append(score(goal, seed, options.runs))
            print(f"{goal.name} seed {seed}: {goal.metric} {found[-1][0]:g} in {found[-1][1]:.0f} s", flush=True)
        scores, seconds = zip(*found, strict=True)
        failed |= min(scores) < goal.at_least
        trained = " ".join([goal.recipe, *goal.training])
        results[goal.name] = {"trained": trained, "scores": scores, "seconds": seconds, "machine": machine()}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write_table(results)
    sys.exit("a score is lower than required" if failed else 0)


if __name__ == "__main__":
    main()
