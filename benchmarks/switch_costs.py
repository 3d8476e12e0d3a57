"""What each training switch costs: the time of an update with it over the time without, in turns, in one process.

The tiny Transformer of the recipe multi30k-en-de on random tokens. For scheduled sampling there is beside it what its
passes alone cost: a decoder pass and its logits, without gradients.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import machine, replace_block

from footplate.context import Context
from footplate.ema import ExponentialAverage
from footplate.job import load_job
from footplate.update import Update
from footplate_nlp.batches import Batch, to_batch
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.model import build_model
from footplate_nlp.scheduled_sampling import predictions
from footplate_nlp.tokenised import Pairs, Sentences

ROOT = Path(__file__).parents[1]
BATCH_TOKENS, LENGTH, VOCABULARY = 4096, 20, 8000
SAMPLING = ["scheduled_sampling.decay.kind=linear", "scheduled_sampling.decay.updates=1000000"]
SWITCHES: dict[str, list[str]] = {
    "scheduled sampling, one pass more": SAMPLING,
    "scheduled sampling, two passes more": [*SAMPLING, "scheduled_sampling.passes=2"],
    "scheduled sampling, one pass more, drawn": [*SAMPLING, "scheduled_sampling.prediction=sample"],
    "word dropout": ["word_dropout.source=0.1", "word_dropout.target=0.1"],
    "copying": ["model.copying=true"],
    "copying and coverage loss": ["model.copying=true", "coverage_loss=1"],
    "moving average of the weights": ["ema_decay=0.999"],
}


def an_update(overrides: list[str], batch: Batch) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What makes one update, and what makes only the pass with which scheduled sampling predicts."""
    config: Any = load_job("multi30k-en-de", overrides).config
    context = Context()
    context.seed_torch("initialise")
    model = build_model(config.model, VOCABULARY, VOCABULARY)
    loss = TranslationLoss(
        model,
        config.label_smoothing,
        coverage_weight=config.coverage_loss,
        word_dropout=config.word_dropout,
        scheduled_sampling=config.scheduled_sampling,
    )
    loss.true_share = 0.5
    update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=1_000_000)
    average = ExponentialAverage(model, config.ema_decay) if config.ema_decay else None

    def once() -> None:
        update([batch])
        if average is not None:
            average.update(update.number)

    @torch.no_grad()
    def predict() -> None:
        memory = model.encode(batch.source_BS)
        predictions(model, memory, model.decode(memory, batch.input_BT), None)

    return once, predict


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Measure in turns, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sentences = BATCH_TOKENS // LENGTH
    tokens = Context().stream("tokens").integers(4, VOCABULARY, (2, sentences, LENGTH - 1))
    batch = to_batch(Pairs(*(Sentences.of(side.tolist()) for side in tokens)), np.arange(sentences), Context().device)
    plain, predict = an_update([], batch)
    calls = {name: an_update(overrides, batch)[0] for name, overrides in SWITCHES.items()}
    ratios: dict[str, list[float]] = {name: [] for name in ("prediction", *calls)}
    for call in (plain, predict, *calls.values()):
        call()
    for _ in range(options.rounds):
        base = min(seconds(plain), seconds(plain))
        ratios["prediction"].append(seconds(predict) / base)
        for name, call in calls.items():
            ratios[name].append(seconds(call) / base)
    median = {name: statistics.median(values) for name, values in ratios.items()}
    lines = ["| switch | time of an update |", "|---|---|", "| none | 1 |"]
    lines += [f"| {name} | {median[name]:.2f} |" for name in calls]
    print("\n".join(lines))
    said = (
        f"The pass that predicts, with its encoder and its logits, takes {median['prediction']:.2f} of an update. "
        f"Medians of {options.rounds} rounds in turns, {BATCH_TOKENS:,} tokens, {LENGTH} a sentence, vocabulary "
        f"{VOCABULARY:,}, {options.threads} thread. "
        f"`python benchmarks/switch_costs.py --rounds {options.rounds}`, {machine()}."
    )
    print(said)
    replace_block(ROOT / "docs" / "speed.md", "switch-costs", [*lines, "", said])


if __name__ == "__main__":
    main()
