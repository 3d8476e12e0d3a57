"""What decoding makes of one trained translator: beam sizes, length penalties, UID, sampling, ensembles, averages.

    benchmarks/decoding_study.py RUN --runs FOLDER

Each row is one `footplate evaluate` of the test split; the tables go into docs/search.md.
"""

import argparse
import json
from pathlib import Path

from report import machine, replace_block
from study import ROOT, evaluated

RESULTS = Path(__file__).with_name("decoding_study.json")
METRICS = ("eval/bleu", "eval/bleu_tokenised", "eval/chrf")
BEAM = ("evaluate.search.kind=beam",)
LAST = ("--checkpoint", "last")


def beam(size: int, *more: str) -> tuple[str, ...]:
    """A beam of this size."""
    return (*BEAM, f"evaluate.search.size={size}", *more)


def uid(regularizer: str, strength: float) -> tuple[str, ...]:
    """A beam of 5 that also asks how evenly surprisal is spread, without a length penalty, as in its paper."""
    settings = f"{{regularizer: {regularizer}, strength: {strength}}}"
    none = "evaluate.search.length_penalty.kind=none"
    return beam(5, none, "evaluate.search.stop=all", f"evaluate.search.uid={settings}")


def sample(*more: str) -> tuple[str, ...]:
    """One sample of each sentence."""
    return ("evaluate.search.kind=sample", *(f"evaluate.search.{each}" for each in more))


TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "beam, log p / length": {str(size): beam(size) for size in (1, 2, 3, 5, 10, 20, 50)},
    "beam, log p": {
        str(size): beam(size, "evaluate.search.length_penalty.kind=none") for size in (1, 2, 3, 5, 10, 20, 50)
    },
    "UID, beam 5": {
        f"{regularizer}, {strength}": uid(regularizer, strength)
        for regularizer in ("greedy", "variance", "local_variance", "max", "squares")
        for strength in (0.1, 0.5, 2.0)
    },
    "sampling": {
        **{f"nucleus {p}": sample(f"top_p={p}") for p in (0.3, 0.5, 0.7, 0.9, 0.95, 1.0)},
        "top-k 10": sample("top_k=10"),
        "temperature 0.5": sample("temperature=0.5"),
    },
    "several checkpoints, beam 5": {
        "the last one": (*LAST, *beam(5)),
        "the mean of the last 5": (*LAST, *beam(5, "average=5")),
        "the mean of the last 10": (*LAST, *beam(5, "average=10")),
    },
}


def main() -> None:
    """Evaluate what is missing, print each result as it comes, and bring the tables up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--ensemble", type=int, nargs="*", default=[], help="updates whose models decode together")
    options = parser.parse_args()
    tables = dict(TABLES)
    if options.ensemble:
        last, *others = sorted(options.ensemble, reverse=True)
        members = "[" + ", ".join(f'"{options.run}@{update}"' for update in others) + "]"
        name = f"an ensemble of updates {', '.join(map(str, sorted(options.ensemble)))}"
        together = ("--checkpoint", str(last), *beam(5, f"ensemble={members}"))
        tables["several checkpoints, beam 5"] = {**tables["several checkpoints, beam 5"], name: together}
    results: dict[str, dict[str, dict[str, float]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    lines: list[str] = []
    for title, rows in tables.items():
        lines += [f"| {title} | {' | '.join(METRICS)} |", f"|---|{'---|' * len(METRICS)}"]
        for name, overrides in rows.items():
            done = results.setdefault(title, {})
            if name not in done:
                done[name] = evaluated(options.run, (*overrides, "evaluate.split=test"), METRICS, options.runs)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                print(title, name, done[name], flush=True)
            lines.append(f"| {name} | {' | '.join(f'{done[name][metric]:.2f}' for metric in METRICS)} |")
        lines.append("")
    replace_block(ROOT / "docs" / "search.md", "decoding-study", [*lines, f"Run `{options.run}`, {machine()}."])


if __name__ == "__main__":
    main()
