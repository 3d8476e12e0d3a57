"""Evaluating a translator: loss under teacher forcing, and scores of what the search writes.

Axes: B sentences, S source positions, T target positions, N real (not padded) target positions,
M models.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Self, cast, get_args

import numpy as np
import torch
from torch import Tensor

from footplate.context import Context
from footplate.section import Count, Every, WholeNumber
from footplate.step import Activity, Step, Table
from footplate_nlp.batches import Batch, batches_by_width, to_batch
from footplate_nlp.corpora import Corpus, single_corpora
from footplate_nlp.cross_entropy import cross_entropy
from footplate_nlp.ensemble import Ensemble
from footplate_nlp.forced_prefix import check_prefix, encode_prefix
from footplate_nlp.metrics import ALL, Score, Scoring, score, share
from footplate_nlp.moses import MosesLanguage
from footplate_nlp.search import GreedyConfig, SearchConfig, evaluating, rows_of_a_sentence, search, without_gradients
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import PAD
from footplate_nlp.tokenised import Ints, Pairs, Sentences, tokenise
from footplate_nlp.vocabulary import Vocabulary


class Evaluation(Every):
    """When and how the model is tried on text that it was not trained on; also after the last update."""

    split: Literal["valid", "test"] = "valid"
    """Which part of the corpus. A test score that chose its own checkpoint is worthless: keep `test` for the end."""
    search: SearchConfig = GreedyConfig()
    """How translations are found."""
    prefix: str = ""
    """What each translation is forced to begin with, such as a language's tag; see docs/search.md."""
    sentences: Count | None = None
    """Only the first so many pairs, of each corpus where there are several; null takes all."""
    samples: WholeNumber = 3
    """How many translations to show beside their references; others each time."""
    batch_tokens: Count = 4096
    """The padded tokens of a batch, counted once for each hypothesis of a beam or sample of a sentence. It bounds the
    memory; what is found does not depend on it."""
    scoring: Scoring = Scoring()
    """How the text is scored."""

    def with_all_scores(self) -> Self:
        """With every score that can be had, unless `scoring.also` says which."""
        if self.scoring.also is not None:
            return self
        return self.model_copy(update={"scoring": self.scoring.model_copy(update={"also": ALL})})


@dataclass(frozen=True)
class Held:
    """The pairs held out for evaluation, as text and as tokens."""

    texts: list[tuple[str, str]]
    pairs: Pairs
    corpora: dict[str, range]
    """Which rows are whose, where the corpus is made of several."""
    language: MosesLanguage | None
    """The target's, where it is known."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    metrics: dict[str, float]
    scores: dict[str, Score]
    """`loss` in nats a token, all that `score` finds, and `truncated`, in percent."""
    outputs: list[str]
    """What the search wrote, in the order of the corpus."""
    samples: Table


def hold_out(corpus: Corpus, config: Evaluation, vocabulary: Vocabulary) -> Held:
    """Read the evaluation's part of the corpus: small enough for memory, or cut short by `sentences`.

    Raises FootplateError where `prefix` cannot begin one of its translations.
    """
    texts: list[tuple[str, str]] = []
    pairs: list[Pairs] = []
    corpora: dict[str, range] = {}
    for single in single_corpora(corpus):
        these = list(islice(single.corpus.pairs(config.split), config.sentences))
        if single.name is not None:
            corpora[single.name] = range(len(texts), len(texts) + len(these))
        texts += these
        pairs.append(tokenise(these, vocabulary, single.tag))
    sources, targets = [part.source for part in pairs], [part.target for part in pairs]
    joined = Pairs(Sentences.joined(sources), Sentences.joined(targets))
    _check_prefix(config, vocabulary, joined.source)
    return Held(texts, joined, corpora, target_language(corpus, config.scoring))


def _check_prefix(config: Evaluation, vocabulary: Vocabulary, source: Sentences) -> None:
    if not config.prefix:
        return
    prefix = encode_prefix(config.prefix, vocabulary, "evaluate.prefix")
    for row, tokens in enumerate(source.lengths(np.arange(len(source)))):
        where = f"evaluate.prefix: sentence {row + 1} of {config.split}"
        check_prefix(prefix, config.search.length.maximum_for(int(tokens) + 1), where)


def read_texts(corpus: Corpus, config: Evaluation) -> list[tuple[str, str]]:
    """The pairs that an evaluation asks for."""
    return [
        pair
        for single in single_corpora(corpus)
        for pair in islice(single.corpus.pairs(config.split), config.sentences)
    ]


def target_language(corpus: Corpus, scoring: Scoring) -> MosesLanguage | None:
    """What `scoring.language` says, or else the end of every corpus's `target` where Moses knows such a language."""
    if scoring.language is not None:
        return scoring.language
    ends = {getattr(single.corpus, "target", "").rpartition(".")[2] for single in single_corpora(corpus)}
    end = ends.pop() if len(ends) == 1 else ""
    return cast(MosesLanguage, end) if end in get_args(MosesLanguage) else None


def evaluate(
    model: Seq2Seq | Ensemble, vocabulary: Vocabulary, held: Held, config: Evaluation, context: Context, update: int
) -> Generator[Step, None, Evaluated]:
    """Yield progress, return the findings: the same on every rank, each of which does its share of every batch.

    `eval/loss` is in nats a token, without smoothing; `eval/perplexity` its exponential; the others are percentages,
    `eval/truncated` of outputs that were ended at their maximum length.
    The model is left in training or evaluation mode as it was found.
    """
    rows = np.arange(len(held.texts))
    found: dict[int, tuple[str, bool, float, int]] = {}
    done = 0
    budget = config.batch_tokens // rows_of_a_sentence(config.search)
    with evaluating(model):
        # The longest first: if anything is too large, it shows at once.
        for batch_rows in reversed(batches_by_width(held.pairs, rows, budget)):
            mine = batch_rows[context.rank :: context.ranks]
            if len(mine):
                nll, tokens = teacher_forced(model, held.pairs, mine, context)
                outputs, cut = _translated(model, vocabulary, held.pairs, mine, config, context)
                found |= zip(map(int, mine), zip(outputs, cut, nll, tokens, strict=True), strict=True)
            done += len(batch_rows)
            yield Step(update, activity=Activity("evaluate", done, len(rows)))
    found = {row: what for part in context.gather(found) for row, what in part.items()}
    texts, truncated, nlls, counts = zip(*(found[row] for row in range(len(rows))), strict=True)
    losses = Score(np.array([nlls, counts], np.float64).T, lambda sums: sums[0] / sums[1])
    scores = {"loss": losses} | score(texts, [target for _, target in held.texts], config.scoring, held.language)
    scores |= {"truncated": share((cut, 1) for cut in truncated)}
    metrics = {"eval/loss": losses.value, "eval/perplexity": math.exp(min(losses.value, 700.0))}
    metrics |= {f"eval/{name}": each.value for name, each in scores.items()}
    for corpus, rows_of_it in held.corpora.items():
        of_it = {name: each.over(list(rows_of_it)) for name, each in scores.items() if name != "loss"}
        metrics |= {f"eval/{corpus}/{name}": value for name, value in of_it.items()}
    return Evaluated(metrics, scores, list(texts), _samples(held, texts, config.samples, context, update))


def teacher_forced(
    model: Seq2Seq | Ensemble, pairs: Pairs, rows: Ints, context: Context
) -> tuple[list[float], list[int]]:
    """Of each sentence the sum of -log p(token) and the number of tokens, the end of sentence included.

    Of an ensemble p is its own, the mean of its members': what its search would sum.
    """
    batch = to_batch(pairs, rows, context.device)
    real_BT = batch.target_BT != PAD
    models = model.members() if isinstance(model, Ensemble) else [model]
    with context.autocast(), without_gradients(context.device):
        nll_MN = torch.stack([_nll(each, batch) for each in models])
    nll_N = math.log(len(models)) - (-nll_MN).logsumexp(0)
    nll_B = nll_N.new_zeros(real_BT.shape).masked_scatter(real_BT, nll_N).sum(1)
    return nll_B.tolist(), real_BT.sum(1).tolist()


def _nll(model: Seq2Seq, batch: Batch) -> Tensor:
    """nll_N of the real target tokens, sentence by sentence."""
    memory = model.encode(batch.source_BS)
    return cross_entropy(model, memory, model.decode(memory, batch.input_BT), batch.target_BT, 0.0)[1]


def _translated(
    model: Seq2Seq | Ensemble, vocabulary: Vocabulary, pairs: Pairs, rows: Ints, config: Evaluation, context: Context
) -> tuple[list[str], list[bool]]:
    """Of each sentence the output, and whether it was ended at its maximum length."""
    source_BS = to_batch(pairs, rows, context.device).source_BS
    keys = [int(row) for row in rows]
    prefixes = [encode_prefix(config.prefix, vocabulary, "evaluate.prefix")] * len(keys)
    with context.autocast():
        found = search(model, source_BS, config.search, seed=context.seed, keys=keys, prefixes=prefixes)
    best = [hypotheses[0] for hypotheses in found]
    return vocabulary.target.decode(each.tokens for each in best), [each.truncated for each in best]


def _samples(held: Held, outputs: Sequence[str], count: int, context: Context, update: int) -> Table:
    chosen = context.stream("samples", update).permutation(len(outputs))[:count]
    return Table(
        ("source", "reference", "output"),
        [(held.texts[row][0], held.texts[row][1], outputs[row]) for row in sorted(chosen)],
    )
