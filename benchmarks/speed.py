"""`make benchmark`: what this machine does in a second, written into docs/speed.md.

Each figure is the median of several runs in one process, with the spread beside it. Machines are shared and noisy:
compare two figures only if they come from one call of this program.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from report import machine, replace_block

from footplate.context import Context
from footplate.execution import run
from footplate.job import load_job
from footplate_nlp.beam import BeamConfig
from footplate_nlp.hypothesis import Length
from footplate_nlp.model import build_model
from footplate_nlp.search import GreedyConfig, search
from footplate_nlp.transformer import TransformerConfig

ROOT = Path(__file__).parents[1]
MULTI30K = ROOT / "data" / "multi30k"
TINY = TransformerConfig(
    encoder_layers=4, decoder_layers=4, width=128, feed_forward_width=256, heads=4, norm="post", dropout=0.3, tie="all"
)


def rates(recipe: str, overrides: list[str], work: str, warmup: int, updates: int, repeats: int) -> list[float]:
    """Units of `work` a second of a recipe, each from `updates` updates after `warmup` ones."""
    found = []
    for _ in range(repeats):
        amount, began = 0, 0.0
        for step in run(load_job(recipe, overrides)):
            if step.update == warmup:
                amount, began = 0, time.perf_counter()
            elif step.activity is None:
                amount += step.work[work]
            if step.update == warmup + updates:
                found.append(amount / (time.perf_counter() - began))
                break
    return found


def decoding(beam: int, batch: int, repeats: int) -> list[float]:
    """Sentences a second of the tiny model with 20 target tokens forced, 20 source tokens, vocabulary 8,000."""
    Context(seed=1).seed_torch("initialise")
    model = build_model(TINY, 8000, 8000).eval()
    sources = torch.randint(4, 8000, (batch, 20), generator=Context(seed=1).torch_stream("sources"))
    length = Length(minimum=19, maximum=20, factor=0, extra=20)
    config = GreedyConfig(length=length) if beam == 1 else BeamConfig(size=beam, length=length)
    times = []
    for repeat in range(repeats + 1):
        rounds = max(1, 64 // batch // 4)
        began = time.perf_counter()
        for _ in range(rounds):
            search(model, sources, config)
        if repeat:  # the first one warms up
            times.append(rounds * batch / (time.perf_counter() - began))
    return times


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--multi30k", type=Path, default=MULTI30K, help="the folder with Multi30k")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threads = f"threads={options.threads}"
    corpus = [f"corpus.folder={options.multi30k}", "batch_tokens=4096", "update.accumulate=1", threads]
    alone = ["threads=1", "evaluate.every_updates=1000000", "reset_every_updates=1000000", "save.every_updates=1000000"]
    measured: dict[str, Callable[[], list[float]]] = {
        "PAAC, CartPole: steps/s": lambda: rates("cartpole-paac", alone, "steps", 20, 100, options.repeats),
        "PAAC, Pong: steps/s": lambda: rates("pong-paac", alone, "steps", 20, 60, options.repeats),
        "beam 5, batch 64: sentences/s": lambda: decoding(5, 64, options.repeats),
        "greedy, batch 64: sentences/s": lambda: decoding(1, 64, options.repeats),
        "beam 5, batch 1: sentences/s": lambda: decoding(5, 1, options.repeats),
    }
    if options.multi30k.is_dir():
        training = lambda: rates("multi30k-en-de", corpus, "target_tokens", 3, 12, options.repeats)  # noqa: E731
        measured = {"training, Multi30k, 4,096-token batches: target tokens/s": training, **measured}
    lines = ["| what | median | lowest | highest |", "|---|---|---|---|"]
    for name, measure in measured.items():
        values = measure()
        numbers = (statistics.median(values), min(values), max(values))
        lines.append(f"| {name} | " + " | ".join(f"{value:,.0f}" for value in numbers) + " |")
        print(lines[-1], flush=True)
    command = (
        f"`python benchmarks/speed.py --repeats {options.repeats} --threads {options.threads}` (PAAC with 1 thread)"
    )
    replace_block(ROOT / "docs" / "speed.md", "speed", [*lines, "", f"{command}, {machine()}."])


if __name__ == "__main__":
    main()
