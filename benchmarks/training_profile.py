"""Where the time of a translator's update goes: the recipe multi30k-en-de, 4,096-token batches, one thread.

Each operation that torch's profiler saw counts, with the time that it took itself, for the part that the outermost
named operation around it belongs to. The rest is Python and what lies between operations.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from report import machine, replace_block
from torch.profiler import ProfilerActivity, profile, record_function
from training_speed import MULTI30K, recipe

from footplate.context import Context
from footplate.update import Update
from footplate_nlp.batches import BatchOrder, GlobalBatch
from footplate_nlp.dropout import Dropout
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.model import build_model
from footplate_nlp.tokenised import tokenise
from footplate_nlp.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1]
BATCHES = "batches: gather, pad"
PARTS = {
    "logits, loss, and their gradients": ("_SmoothedCrossEntropy",),
    "products of the layers, forward": ("aten::linear",),
    "products of the layers, backward": ("AddmmBackward0", "TBackward0"),
    "attention, forward": ("aten::scaled_dot_product_attention",),
    "attention, backward": ("ScaledDotProduct",),
    "dropout, forward": ("dropout",),
    "dropout, backward": ("MulBackward0",),
    "layer norms": ("aten::layer_norm", "NativeLayerNormBackward0"),
    "activation": ("aten::relu", "ReluBackward0"),
    "embedding": ("aten::embedding", "EmbeddingBackward0"),
    "optimizer": ("Optimizer.step",),
    "norm of the gradient, division by the count": ("aten::_foreach",),
    BATCHES: (BATCHES,),
}


def training(multi30k: Path) -> tuple[Update, Iterator[GlobalBatch]]:
    """The recipe's update and its batches, taken out of the task's loop."""
    config: Any = recipe(multi30k, []).config
    context, vocabulary = Context(), Vocabulary()
    vocabulary.learn(config.vocabulary, lambda: config.corpus.pairs("train"))
    pairs = tokenise(config.corpus.pairs("train"), vocabulary)
    context.seed_torch("initialise")
    model = build_model(config.model, vocabulary.source.size, vocabulary.target.size)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.register_forward_pre_hook(_begin)
            module.register_forward_hook(_end)
    loss = TranslationLoss(model, config.label_smoothing)
    update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=config.updates)
    return update, BatchOrder(pairs, config.batch_tokens, config.longest, context).updates()


def _begin(module: Any, inputs: Any) -> None:
    module.region = record_function("dropout")
    module.region.__enter__()


def _end(module: Any, inputs: Any, output: Any) -> None:
    module.region.__exit__(None, None, None)


def part_of(event: Any) -> str:
    """The part of the outermost named operation around an event, itself included."""
    found = "rest"
    while event is not None:
        name = event.name.removeprefix("autograd::engine::evaluate_function: ")
        for part, beginnings in PARTS.items():
            if name.startswith(beginnings):
                found = part
        event = event.cpu_parent
    return found


def main() -> None:
    """Profile, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--multi30k", type=Path, default=MULTI30K, help="the folder with Multi30k")
    parser.add_argument("--updates", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    update, batches = training(options.multi30k)
    for _ in range(2):
        update(next(batches).microbatches)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        began = time.perf_counter()
        for _ in range(options.updates):
            with record_function(BATCHES):
                batch = next(batches)
            update(batch.microbatches)
        total = 1e6 * (time.perf_counter() - began)
    spent: Counter[str] = Counter()
    for event in profiled.events():
        spent[part_of(event)] += event.self_cpu_time_total
    spent["rest"] += total - spent.total()
    lines = ["| part of an update | ms | share |", "|---|---|---|"]
    lines += [
        f"| {part} | {time / 1000 / options.updates:.1f} | {time / total:.1%} |" for part, time in spent.most_common()
    ]
    lines.append(f"| all | {total / 1000 / options.updates:.1f} | |")
    print("\n".join(lines))
    command = f"`python benchmarks/training_profile.py` ({options.updates} updates, 1 thread)"
    replace_block(ROOT / "docs" / "speed.md", "training-profile", [*lines, "", f"{command}, {machine()}."])


if __name__ == "__main__":
    main()
