"""Training a translator: target tokens a second beside JoeyNMT 2.3.0, on the same tokens, in one run.

Both train the tiny Transformer of the recipe multi30k-en-de, or with `--model` the LSTM of multi30k-en-de-lstm with fed
input or without, with batches of 4,096 tokens, each by the road that its users take: `run(job)` here, `TrainManager`
there. Rounds are interleaved, and each side gets the number of threads that is best for it. Counted are the target
tokens that carry a loss, the end of sentence included, padding not.

JoeyNMT has one `dropout` for everything in a Transformer. Ours is therefore measured twice: as the recipe is, and with
dropout wherever JoeyNMT has it.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from peer import measure, python_of
from report import machine, replace_block

from footplate.context import Context
from footplate.execution import run
from footplate.job import Job, load_job
from footplate.step import metric_value
from footplate_nlp.batches import BatchOrder
from footplate_nlp.tokenised import tokenise
from footplate_nlp.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1]
MULTI30K = ROOT / "data" / "multi30k"
PEER = ROOT / "benchmarks" / "peers" / "joeynmt_training.py"
BATCH_TOKENS = 4096
WARMUP_UPDATES = 2
SAME_DROPOUT = ["model.attention_dropout=0.3", "model.activation_dropout=0.3"]
FOOTPLATE, SAME, JOEYNMT = "Footplate", "Footplate, dropout as in JoeyNMT", "JoeyNMT 2.3.0"
RECIPES = {"transformer": "multi30k-en-de", "lstm": "multi30k-en-de-lstm", "lstm-fed": "multi30k-en-de-lstm"}
OURS: dict[str, dict[str, list[str]]] = {
    "transformer": {FOOTPLATE: [], SAME: SAME_DROPOUT},
    "lstm": {FOOTPLATE: ["model.attention.input_feeding=false"]},
    "lstm-fed": {FOOTPLATE: []},
}
"""The overrides of each row of ours; the names are those of the peer's program."""


def recipe(multi30k: Path, overrides: list[str], model: str = "transformer") -> Job:
    """The model's recipe with one batch of 4,096 tokens an update."""
    return load_job(
        RECIPES[model],
        [f"corpus.folder={multi30k}", f"batch_tokens={BATCH_TOKENS}", "update.accumulate=1", *overrides],
    )


def ours(multi30k: Path, overrides: list[str], model_name: str, threads: int, updates: int) -> dict[str, float]:
    """What a peer's program prints: rate, updates a second, parameters, the first loss."""
    tokens, began, first_loss = 0, 0.0, None
    overrides = [f"threads={threads}", "track.every_updates=1000000", *overrides]
    for step in run(recipe(multi30k, overrides, model_name)):
        first_loss = first_loss or metric_value(step.metrics["train/loss"])
        tokens += step.work["target_tokens"]
        if step.update == WARMUP_UPDATES:
            tokens, began = 0, time.perf_counter()
        if step.update == WARMUP_UPDATES + updates:
            seconds = time.perf_counter() - began
            model: Any = (step.state or {})["model"]
            return {
                "rate": tokens / seconds,
                "updates_per_second": updates / seconds,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "first_loss": first_loss or 0.0,
            }
    raise ValueError(f"{updates} updates are more than the recipe makes")


def write_pieces(multi30k: Path, folder: Path) -> tuple[float, float]:
    """Our tokens as text for the peer: pieces between blanks, and the list of pieces.

    Returns how many target tokens, and how many padded positions, a batch of ours has on the average over an epoch.
    """
    config: Any = recipe(multi30k, []).config
    vocabulary = Vocabulary()
    vocabulary.learn(config.vocabulary, lambda: config.corpus.pairs("train"))
    pieces = vocabulary.source.pieces()
    (folder / "pieces.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    tokenised = {part: tokenise(config.corpus.pairs(part), vocabulary) for part in ("valid", "train")}
    for part, pairs in tokenised.items():
        for suffix, side in (("source", pairs.source), ("target", pairs.target)):
            lines = (" ".join(pieces[index] for index in side[row]) for row in range(len(side)))
            (folder / f"{part}.{suffix}").write_text("".join(f"{line}\n" for line in lines))
    order = BatchOrder(tokenised["train"], BATCH_TOKENS, config.longest, Context())
    tokens, positions = [], []
    for batch in order.updates():
        if order.state_dict()["epoch"]:
            return statistics.mean(tokens), statistics.mean(positions)
        (piece,) = batch.microbatches
        tokens.append(batch.target_tokens)
        positions.append(len(piece.source_BS) * max(piece.source_BS.shape[1], piece.target_BT.shape[1]))
    raise AssertionError("updates() never ends")


def table(
    found: dict[tuple[str, int], list[dict[str, float]]], per_update: dict[str, tuple[float, float]]
) -> list[str]:
    """A row for each side with the number of threads that has the best median."""
    lines = ["| | target tokens/s | lowest | highest | ratio | threads | updates/s | target tokens in a batch |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    medians = {key: statistics.median(each["rate"] for each in measured) for key, measured in found.items()}
    best = {side: max((median, key[1]) for key, median in medians.items() if key[0] == side) for side, _ in found}
    for side, (median, threads) in best.items():
        measured = found[side, threads]
        rates = [each["rate"] for each in measured]
        updates = statistics.median(each["updates_per_second"] for each in measured)
        tokens, positions = per_update[side]
        lines.append(
            f"| {side} | {median:,.0f} | {min(rates):,.0f} | {max(rates):,.0f} | {median / best[JOEYNMT][0]:.2f} | "
            f"{threads} | {updates:.2f} | {tokens:,.0f} of {positions:,.0f} ({1 - tokens / positions:.0%} padding) |"
        )
    other = "; ".join(f"{side} with {threads}: {medians[side, threads]:,.0f}" for side, threads in found)
    parameters = ", ".join(
        f"{side} {found[side, best[side][1]][0]['parameters']:,.0f}" for side in (FOOTPLATE, JOEYNMT)
    )
    losses = ", ".join(f"{side} {found[side, best[side][1]][0]['first_loss']:.2f}" for side in best)
    return [
        *lines,
        "",
        f"By threads, tokens/s: {other}. Parameters: {parameters}. Loss of the first update (random weights, smoothed "
        f"cross-entropy a token): {losses}.",
    ]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--multi30k", type=Path, default=MULTI30K, help="the folder with Multi30k")
    parser.add_argument("--model", choices=RECIPES, default="transformer")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to try")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=10, help="timed updates of ours in a round; JoeyNMT makes half")
    options = parser.parse_args()
    python = python_of("joeynmt", "joeynmt==2.3.0", "importlib_metadata", "sentencepiece==0.2.0")
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        per_update = dict.fromkeys(OURS[options.model], write_pieces(options.multi30k, Path(name)))
        counts = ["--batch-tokens", BATCH_TOKENS, "--warmup", WARMUP_UPDATES, "--updates", options.updates // 2]
        counts += ["--model", options.model]
        for _ in range(options.rounds):
            for threads in options.threads:
                for side, overrides in OURS[options.model].items():
                    measured = ours(options.multi30k, overrides, options.model, threads, options.updates)
                    found[side, threads].append(measured)
                    print(side, threads, found[side, threads][-1], flush=True)
                theirs = measure(python, PEER, name, *map(str, counts), threads=threads)
                found[JOEYNMT, threads].append(theirs)
                per_update[JOEYNMT] = theirs["tokens_per_update"], theirs["positions_per_update"]
                print(JOEYNMT, threads, theirs, flush=True)
    lines = table(found, per_update)
    print("\n".join(lines))
    chosen = "" if options.model == "transformer" else f" --model {options.model}"
    command = f"`python benchmarks/training_speed.py{chosen} --rounds {options.rounds}`: medians of {options.rounds} "
    command += f"rounds of {options.updates} updates (JoeyNMT {options.updates // 2}) after {WARMUP_UPDATES} more"
    block = "training" + chosen.replace(" --model ", "-")
    replace_block(ROOT / "docs" / "speed.md", block, [*lines, "", f"{command}, {machine()}."])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
