"""Train variants of a recipe with several seeds and compare them: `benchmarks/study.py scheduled-sampling`.

Every run goes through the command line, as a user's would, and is kept under runs/study: what has finished is not
trained again, what was interrupted is resumed. The table lies in the study's page between `<!-- NAME -->` and its end.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from report import machine, replace_block

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("study.json")
DATA = Path("data")  # from ROOT, where every command runs


class Study(NamedTuple):
    """Variants of one recipe, each a list of changes; the first is what the others are compared with."""

    page: str
    recipe: str
    fixed: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]
    evaluation: tuple[str, ...]
    metrics: tuple[str, ...]
    seeds: int = 3


SMALL = (
    f"corpus.folder={DATA / 'multi30k'}",
    "vocabulary.size=4000",
    "model.encoder_layers=2",
    "model.decoder_layers=2",
    "model.width=64",
    "model.feed_forward_width=128",
    "model.dropout=0.1",
    "optimizer.learning_rate=0.003",
    "schedule.warmup_updates=300",
    "updates=1500",
    "batch_tokens=4096",
    "update.accumulate=1",
    "evaluate.every_updates=500",
    "threads=1",
)
BEAM = ("evaluate.split=test", "evaluate.search.kind=beam")
STUDIES = {
    "scheduled-sampling": Study(
        "training.md",
        "multi30k-en-de",
        SMALL,
        {
            "teacher forcing": (),
            "one pass more, down to 0.7": (
                "scheduled_sampling.decay.kind=linear",
                "scheduled_sampling.decay.updates=4000",
                "scheduled_sampling.decay.floor=0.7",
                "scheduled_sampling.begin_update=300",
            ),
        },
        BEAM,
        ("eval/bleu", "eval/chrf"),
    ),
    "bpe-dropout": Study(
        "text.md",
        "multi30k-en-de",
        SMALL,
        {"one segmentation": (), "dropout 0.1": ("vocabulary.bpe_dropout=0.1",)},
        BEAM,
        ("eval/bleu", "eval/chrf"),
    ),
}


def footplate(*arguments: str) -> str:
    """Run the command line; its output, or the end of this program with it where it failed."""
    command = [sys.executable, "-m", "footplate", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def score(study: Study, run: str, overrides: tuple[str, ...], runs: Path) -> dict[str, float]:
    """Train (or finish) one run and evaluate its best checkpoint."""
    if not (runs / run).exists():
        footplate("train", study.recipe, *study.fixed, *overrides, "--runs", str(runs), "--name", run)
    elif json.loads((runs / run / "status.json").read_text())["state"] != "finished":
        footplate("resume", run, "--runs", str(runs))
    return evaluated(run, study.evaluation, study.metrics, runs)


def evaluated(run: str, overrides: tuple[str, ...], metrics: tuple[str, ...], runs: Path) -> dict[str, float]:
    """What `footplate evaluate` says of a run."""
    output = footplate("evaluate", run, *overrides, "--runs", str(runs))
    found = {}
    for metric in metrics:
        line = re.search(rf"^\s*{re.escape(metric)}\s+(\S+)$", output, re.MULTILINE)
        if line is None:
            sys.exit(f"{run}: the evaluation says nothing of {metric}:\n{output}")
        found[metric] = float(line.group(1))
    return found


def table(study: Study, results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Mean and standard deviation over the seeds, then each seed's score."""
    lines = [f"| | {' | '.join(study.metrics)} |", f"|---|{'---|' * len(study.metrics)}"]
    for variant, found in results.items():
        cells = []
        for metric in study.metrics:
            values = [scores[metric] for scores in found]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread} ({', '.join(f'{value:.2f}' for value in values)})")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Train what is missing, print each result as it comes, and bring the table up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, help="how many seeds, from 1")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "study", help="where the runs are")
    options = parser.parse_args()
    study = STUDIES[options.study]
    seeds = options.seeds or study.seeds
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, seeds + 1):
        for number, (variant, overrides) in enumerate(study.variants.items()):
            run = f"{options.study}-{number}-seed-{seed}"
            results.setdefault(variant, []).append(score(study, run, (*overrides, f"seed={seed}"), options.runs))
            print(f"{variant}, seed {seed}: {results[variant][-1]}", flush=True)
            every = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            every[options.study] = {"machine": machine(), "scores": results}
            RESULTS.write_text(json.dumps(every, indent=1) + "\n")
            said = f"Mean ± standard deviation over seeds (each seed). {machine()}."
            replace_block(ROOT / "docs" / study.page, options.study, [*table(study, results), "", said])


if __name__ == "__main__":
    main()
