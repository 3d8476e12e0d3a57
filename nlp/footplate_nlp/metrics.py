"""How good translations are: BLEU, chrF and TER through sacrebleu, exact match, token accuracy. Percentages throughout.

Axes: N sentences, C what is counted in each.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.tokenizers.tokenizer_base import BaseTokenizer

from footplate.section import Section
from footplate.step import Table
from footplate_nlp.moses import MosesLanguage, moses_lines, moses_version
from footplate_nlp.tokenised import Ints

Also = Literal["bleu_tokenised", "chrf_plus_plus", "ter"]
ALL: tuple[Also, ...] = ("bleu_tokenised", "chrf_plus_plus", "ter")
Counts = np.ndarray[Any, np.dtype[np.float64]]


class Scoring(Section):
    """How the text is scored. The defaults are sacrebleu's, cased, on plain text: numbers that may be compared."""

    tokenize: Literal["13a", "none", "intl", "zh", "ja-mecab", "char"] = "13a"
    """sacrebleu's tokeniser; `none` for text that is tokenised already, such as Multi30k's `.lc.norm.tok` files."""
    lowercase: bool = False
    """BLEU and chrF without regard to case, as the older Multi30k literature does. (TER never regards it.)"""
    also: tuple[Also, ...] | None = None
    """More scores than BLEU and chrF: null is none in training (TER takes seconds), all in `footplate evaluate`."""
    language: MosesLanguage | None = None
    """The target's, for `bleu_tokenised`; null reads it off the end of `corpus.target`, as in `train.de`."""

    @model_validator(mode="after")
    def _has_its_tokeniser(self) -> Self:
        if self.tokenize == "ja-mecab" and not (find_spec("MeCab") and find_spec("ipadic")):
            raise ValueError(
                "tokenize: ja-mecab needs packages that are not installed; pip install 'sacrebleu[ja]', or use char"
            )
        return self

    @model_validator(mode="after")
    def _language_is_of_use(self) -> Self:
        if self.language is not None and self.tokenize == "none":
            raise ValueError(
                f"language: {self.language} is for text that is still to be tokenised, and tokenize: none says that it "
                "is already; leave one out"
            )
        if self.language is not None and self.also is not None and "bleu_tokenised" not in self.also:
            raise ValueError(
                f"language: {self.language} is for bleu_tokenised, which is not in `also`; add it, or leave this out"
            )
        return self


@dataclass(frozen=True)
class Score:
    """A number with the signature that says how it was measured (empty where there is nothing to say).

    It is a function of sums over sentences, so that the counts of each sentence yield the score of them all, of a few,
    of one, and of any that are drawn with replacement.
    """

    counts_NC: Counts
    of_sums: Callable[[list[float]], float]
    signature: str = ""

    @property
    def value(self) -> float:
        """The score of all sentences."""
        return self.of_sums(self.counts_NC.sum(0).tolist())

    def over(self, rows: Ints | list[int]) -> float:
        """The score of these sentences; one that is named twice counts twice."""
        return self.of_sums(self.counts_NC[rows].sum(0).tolist())


def score(
    outputs: Sequence[str], references: Sequence[str], scoring: Scoring, language: MosesLanguage | None = None
) -> dict[str, Score]:
    """Corpus `bleu` and `chrf` on detokenised text, `exact_match` of whole sentences, `token_accuracy`; all 0-100.

    Token accuracy: words (between blanks) that stand at the same place in output and reference, as a share of the
    places that either has. Besides, what `scoring.also` names: `bleu_tokenised` is that of `moses_lines` in `language`
    (of the lower-cased text as it is, where that is tokenised already; absent without a language), `chrf_plus_plus`
    counts pairs of words too (Popović 2017), `ter` is in percent of the reference's words, and the lower the better.
    """
    also = scoring.also or ()
    scores = {}
    bleu = BLEU(tokenize=scoring.tokenize, lowercase=scoring.lowercase, force=True)
    scores["bleu"] = _counted(bleu, outputs, references)
    if "bleu_tokenised" in also and (scoring.tokenize == "none" or language is not None):
        scores["bleu_tokenised"] = _tokenised(outputs, references, None if scoring.tokenize == "none" else language)
    scores["chrf"] = _counted(CHRF(lowercase=scoring.lowercase), outputs, references)
    if "chrf_plus_plus" in also:
        scores["chrf_plus_plus"] = _counted(CHRF(lowercase=scoring.lowercase, word_order=2), outputs, references)
    if "ter" in also:
        scores["ter"] = _counted(TER(), outputs, references)
    _forget_the_text()
    pairs = list(zip(outputs, references, strict=True))
    scores["exact_match"] = share((output == reference, 1) for output, reference in pairs)
    words = [(output.split(), reference.split()) for output, reference in pairs]
    scores["token_accuracy"] = share(
        (sum(a == b for a, b in zip(output, reference, strict=False)), max(len(output), len(reference)))
        for output, reference in words
    )
    return scores


def share(counts: Iterable[tuple[float, float]]) -> Score:
    """(part, whole) of each sentence: the sum of the parts in percent of the sum of the wholes."""
    return Score(np.array(list(counts), np.float64), lambda sums: 100 * sums[0] / max(1, sums[1]))


def _counted(metric: Metric, outputs: Sequence[str], references: Sequence[str]) -> Score:
    # Private names, but the only ones that count without scoring; sacrebleu's own tests of significance go this way.
    counts = metric._extract_corpus_statistics(outputs, [references])
    return Score(
        np.array(counts, np.float64),
        lambda sums: float(metric._compute_score_from_stats(sums).score),
        str(metric.get_signature()),
    )


def _tokenised(outputs: Sequence[str], references: Sequence[str], language: MosesLanguage | None) -> Score:
    if language is None:
        return _counted(BLEU(tokenize="none", lowercase=True, force=True), outputs, references)
    bleu = BLEU(tokenize="none", force=True)
    found = _counted(bleu, moses_lines(outputs, language), moses_lines(references, language))
    signature = bleu.get_signature()
    signature.update("case", "lc")
    signature.update("tok", f"norm-moses-{language}-{moses_version()}")
    return Score(found.counts_NC, found.of_sums, str(signature))


def _forget_the_text() -> None:
    """Empty sacrebleu's caches of tokenised lines.

    They are keyed by tokeniser object too, so that each evaluation would add all its lines, references and all, and hit
    nothing: up to 65,536 lines in each cache, some hundred bytes each, over a long run.
    """
    for kind in BaseTokenizer.__subclasses__():
        for method in vars(kind).values():
            if hasattr(method, "cache_clear"):
                method.cache_clear()


def shown(name: str, value: float) -> str:
    """A score's digits: a loss is small, the others are percentages."""
    return f"{value:.3f}" if name == "loss" else f"{value:.2f}"


def as_table(scores: dict[str, Score]) -> Table:
    """The numbers with their signatures, to be cited."""
    rows = [(name, shown(name, score.value), score.signature or "-") for name, score in scores.items()]
    return Table(("metric", "value", "signature"), rows, aligned=True)
