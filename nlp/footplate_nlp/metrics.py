"""How good translations are: BLEU and chrF through sacrebleu, exact match, token accuracy. Percentages throughout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.tokenizers.tokenizer_base import BaseTokenizer

from footplate.section import Section
from footplate.step import Table


class Scoring(Section):
    """How BLEU reads the text. The defaults are sacrebleu's, cased, on plain text: numbers that may be compared."""

    tokenize: Literal["13a", "none", "intl", "zh", "ja-mecab", "char"] = "13a"
    """sacrebleu's tokeniser; `none` for text that is tokenised already, such as Multi30k's `.lc.norm.tok` files."""
    lowercase: bool = False
    """Compare without regard to case, as the older Multi30k literature does."""


@dataclass(frozen=True)
class Score:
    """A number with the signature that says how it was measured (empty where there is nothing to say)."""

    value: float
    signature: str = ""


def score(outputs: Sequence[str], references: Sequence[str], scoring: Scoring) -> dict[str, Score]:
    """Corpus `bleu` and `chrf` on detokenised text, `exact_match` of whole sentences, `token_accuracy`; all 0-100.

    Token accuracy: words (between blanks) that stand at the same place in output and reference, as a share of the
    places that either has.
    """
    bleu = BLEU(tokenize=scoring.tokenize, lowercase=scoring.lowercase, force=True)
    chrf = CHRF(lowercase=scoring.lowercase)
    scores = {}
    for name, metric in (("bleu", bleu), ("chrf", chrf)):
        value = metric.corpus_score(list(outputs), [list(references)]).score
        scores[name] = Score(value, str(metric.get_signature()))
    _forget_the_text()
    pairs = list(zip(outputs, references, strict=True))
    scores["exact_match"] = Score(100 * sum(output == reference for output, reference in pairs) / len(pairs))
    words = [(output.split(), reference.split()) for output, reference in pairs]
    right = sum(sum(a == b for a, b in zip(output, reference, strict=False)) for output, reference in words)
    places = sum(max(len(output), len(reference)) for output, reference in words)
    scores["token_accuracy"] = Score(100 * right / max(1, places))
    return scores


def _forget_the_text() -> None:
    """Empty sacrebleu's caches of tokenised lines.

    They are keyed by tokeniser object too, so that each evaluation would add all its lines, references and all, and hit
    nothing: up to 65,536 lines in each cache, some hundred bytes each, over a long run.
    """
    for kind in BaseTokenizer.__subclasses__():
        for method in vars(kind).values():
            if hasattr(method, "cache_clear"):
                method.cache_clear()


def as_table(scores: dict[str, Score]) -> Table:
    """The numbers with their signatures, to be cited."""
    rows = [(name, f"{score.value:.2f}", score.signature or "-") for name, score in scores.items()]
    return Table(("metric", "value", "signature"), rows)
