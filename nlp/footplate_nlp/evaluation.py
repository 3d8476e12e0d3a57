"""Evaluating a translator: loss under teacher forcing, and scores of what the search writes.

Axes: B sentences, S source positions, T target positions, V target vocabulary.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch

from footplate.context import Context
from footplate.section import Count, Every, WholeNumber
from footplate.step import Activity, Step, Table
from footplate_nlp.batches import batches_by_width, to_batch
from footplate_nlp.corpora import Corpus
from footplate_nlp.cross_entropy import cross_entropy
from footplate_nlp.metrics import Score, Scoring, score
from footplate_nlp.search import GreedyConfig, SearchConfig, search
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import PAD
from footplate_nlp.tokenised import Ints, Pairs, tokenise
from footplate_nlp.vocabulary import Vocabulary


class Evaluation(Every):
    """When and how the model is tried on text that it was not trained on; also after the last update."""

    split: Literal["valid", "test"] = "valid"
    """Which part of the corpus. A test score that chose its own checkpoint is worthless: keep `test` for the end."""
    search: SearchConfig = GreedyConfig()
    """How translations are found."""
    sentences: Count | None = None
    """Only the first so many pairs; null takes all."""
    samples: WholeNumber = 3
    """How many translations to show beside their references; others each time."""
    batch_tokens: Count = 4096
    """The padded tokens of a batch; the search multiplies it by the beam."""
    scoring: Scoring = Scoring()
    """How BLEU reads the text."""


@dataclass(frozen=True)
class Held:
    """The pairs held out for evaluation, as text and as tokens."""

    texts: list[tuple[str, str]]
    pairs: Pairs


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    metrics: dict[str, float]
    scores: dict[str, Score]
    samples: Table


def hold_out(corpus: Corpus, config: Evaluation, vocabulary: Vocabulary) -> Held:
    """Read the evaluation's part of the corpus: small enough for memory, or cut short by `sentences`."""
    texts = list(islice(corpus.pairs(config.split), config.sentences))
    return Held(texts, tokenise(texts, vocabulary))


def evaluate(
    model: Seq2Seq, vocabulary: Vocabulary, held: Held, config: Evaluation, context: Context, update: int
) -> Generator[Step, None, Evaluated]:
    """Yield progress, return the findings: the same on every rank, each of which does its share of every batch.

    `eval/loss` is in nats a token, without smoothing; `eval/perplexity` its exponential; the others are percentages.
    """
    rows = np.arange(len(held.texts))
    outputs: dict[int, str] = {}
    nll, tokens, done = 0.0, 0, 0
    model.eval()
    # The longest first: if anything is too large, it shows at once.
    for batch_rows in reversed(batches_by_width(held.pairs, rows, config.batch_tokens)):
        mine = batch_rows[context.rank :: context.ranks]
        if len(mine):
            with torch.inference_mode():
                batch_nll, batch_tokens = _teacher_forced(model, held.pairs, mine, context)
                outputs |= _translated(model, vocabulary, held.pairs, mine, config, context)
            nll, tokens = nll + batch_nll, tokens + batch_tokens
        done += len(batch_rows)
        yield Step(update, activity=Activity("evaluate", done, len(rows)))
    model.train()
    shares = context.gather((nll, tokens, outputs))
    loss = sum(share[0] for share in shares) / sum(share[1] for share in shares)
    outputs = {row: text for share in shares for row, text in share[2].items()}
    texts = [outputs[row] for row in range(len(rows))]
    scores = score(texts, [target for _, target in held.texts], config.scoring)
    metrics: dict[str, float] = {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}
    metrics |= {f"eval/{name}": found.value for name, found in scores.items()}
    return Evaluated(metrics, scores, _samples(held, texts, config.samples, context, update))


def _teacher_forced(model: Seq2Seq, pairs: Pairs, rows: Ints, context: Context) -> tuple[float, int]:
    batch = to_batch(pairs, rows, context.device)
    with context.autocast():
        memory = model.encode(batch.source_BS)
        _, nll = cross_entropy(model, memory, model.decode(memory, batch.input_BT), batch.target_BT, 0.0)
    return float(nll), int((batch.target_BT != PAD).sum())


def _translated(
    model: Seq2Seq, vocabulary: Vocabulary, pairs: Pairs, rows: Ints, config: Evaluation, context: Context
) -> dict[int, str]:
    source_BS = to_batch(pairs, rows, context.device).source_BS
    with context.autocast():
        found = search(model, source_BS, config.search, seed=context.seed, keys=[int(row) for row in rows])
    texts = vocabulary.target.decode(hypotheses[0].tokens for hypotheses in found)
    return dict(zip(map(int, rows), texts, strict=True))


def _samples(held: Held, outputs: list[str], count: int, context: Context, update: int) -> Table:
    chosen = context.stream("samples", update).permutation(len(outputs))[:count]
    return Table(
        ("source", "reference", "output"),
        [(held.texts[row][0], held.texts[row][1], outputs[row]) for row in sorted(chosen)],
    )
