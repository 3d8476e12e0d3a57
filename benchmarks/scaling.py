"""How the cost of training a translator grows with the batch, the length of sentences and the vocabulary.

The tiny Transformer of the recipe multi30k-en-de on random tokens, all sentences of one length: no padding. Each figure
comes from a process of its own, since the peak of a process's memory never falls.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import machine, replace_block

from footplate.context import Context
from footplate.job import load_job
from footplate.update import Update
from footplate_nlp.batches import to_batch
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.model import build_model
from footplate_nlp.tokenised import Pairs, Sentences

ROOT = Path(__file__).parents[1]
DEFAULTS = {"batch_tokens": 4096, "length": 20, "vocabulary": 8000}
SWEEPS = {
    "batch_tokens": [512, 1024, 2048, 4096, 8192, 16384],
    "length": [10, 20, 50, 100, 200],
    "vocabulary": [1000, 2000, 4000, 8000, 16000, 32000],
}
NAMES = {"batch_tokens": "tokens in a batch", "length": "tokens in a sentence", "vocabulary": "vocabulary"}


def child(batch_tokens: int, length: int, vocabulary: int, seconds: float) -> dict[str, float]:
    """Target tokens a second, and the peak of resident memory in MB, of this process."""
    config: Any = load_job("multi30k-en-de").config
    context = Context()
    context.seed_torch("initialise")
    model = build_model(config.model, vocabulary, vocabulary)
    loss = TranslationLoss(model, 0.1)
    update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=1000)
    sentences = batch_tokens // length
    tokens = context.stream("tokens").integers(4, vocabulary, (2, sentences, length - 1))
    sides = [Sentences.of(side.tolist()) for side in tokens]
    batch = to_batch(Pairs(*sides), np.arange(sentences), context.device)
    update([batch])
    updates, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or updates < 2:
        update([batch])
        updates += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"rate": updates * sentences * length / spent, "megabytes": peak}


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4, help="how long each figure is measured")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps(child(**json.loads(options.child), seconds=options.seconds)))
        return
    lines = []
    for axis, values in SWEEPS.items():
        found = []
        for value in values:
            sizes = json.dumps(DEFAULTS | {axis: value})
            command = [sys.executable, __file__, "--threads", str(options.threads), "--seconds", str(options.seconds)]
            done = subprocess.run([*command, "--child", sizes], check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout))
            print(axis, value, found[-1], flush=True)
        lines.append(f"| {NAMES[axis]} | " + " | ".join(f"{value:,}" for value in values) + " |")
        lines.append("|---" * (len(values) + 1) + "|")
        lines.append("| target tokens/s | " + " | ".join(f"{each['rate']:,.0f}" for each in found) + " |")
        lines.append("| peak resident MB | " + " | ".join(f"{each['megabytes']:,.0f}" for each in found) + " |")
        lines.append("")
    others = ", ".join(f"{NAMES[axis]} {value:,}" for axis, value in DEFAULTS.items())
    command = (
        f"`python benchmarks/scaling.py --seconds {options.seconds:g}` ({options.threads} thread; otherwise {others})"
    )
    replace_block(ROOT / "docs" / "speed.md", "scaling-translator", [*lines, f"{command}, {machine()}."])


if __name__ == "__main__":
    main()
