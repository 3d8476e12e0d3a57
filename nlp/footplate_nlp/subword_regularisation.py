"""Subword regularisation: a segmentation drawn from the unigram model instead of the most probable one.

Ours and not sentencepiece's, for the reason that `bpe_dropout` has. The higher `alpha`, the surer the pieces are those
of sentencepiece (tested).
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from footplate_nlp.symbols import UNKNOWN
from footplate_nlp.tokenised import Sentences
from footplate_nlp.vocabulary import SPACE, Tokenizer

_UNKNOWN_PENALTY = 10.0
"""By how much a character that is no piece is less probable than the least probable piece, as in sentencepiece."""
_WORDS_KEPT = 100_000
"""Words whose lattices are kept, since few words make up most of a text."""


class _Ending(NamedTuple):
    """The pieces that may end behind a character of a word."""

    starts: list[int]
    ids: list[list[int]]
    upto: list[float]
    """Their probabilities, each with those before it."""


class SubwordRegularisation:
    """Draws segmentations of text under a unigram model.

    Each segmentation x of a sentence comes with probability P(x)^alpha / sum_x' P(x')^alpha, by forward filtering and
    backward sampling. No piece goes beyond a word, so the words are drawn one by one.
    Source: Kudo 2018, sections 3.2 and 3.3, with l = infinity.
    """

    def __init__(self, tokenizer: Tokenizer, alpha: float) -> None:
        self._tokenizer = tokenizer
        self._alpha = alpha
        scores = tokenizer.scores()
        self._pieces = {piece: (index, scores[index]) for piece, index in tokenizer.normal_pieces().items()}
        self._longest = max(map(len, self._pieces))
        self._strange = min(score for _, score in self._pieces.values()) - _UNKNOWN_PENALTY
        self._lattices: dict[str, list[_Ending]] = {}

    def __call__(self, lines: Sequence[str], stream: np.random.Generator) -> Sentences:
        """One segmentation of each line: a pure function of the model, the lines and the stream."""
        texts = self._tokenizer.normalise(lines)
        draws = iter(stream.random(sum(map(len, texts))).tolist())  # no word has more pieces than characters
        return Sentences.of([self._drawn(text, draws) for text in texts])

    def _drawn(self, text: str, draws: Iterator[float]) -> list[int]:
        ids: list[int] = []
        for word in words_of(text):
            lattice = self._lattice(word)
            pieces: list[list[int]] = []
            end = len(word)
            while end:
                ending = lattice[end - 1]
                chosen = bisect_right(ending.upto, next(draws), hi=len(ending.upto) - 1)
                pieces.append(ending.ids[chosen])
                end = ending.starts[chosen]
            for piece in reversed(pieces):
                if not (piece == [UNKNOWN] and ids[-1:] == [UNKNOWN]):  # a run of them is one unknown
                    ids += piece
        return ids

    def _lattice(self, word: str) -> list[_Ending]:
        lattice = self._lattices.get(word)
        if lattice is None:
            if len(self._lattices) >= _WORDS_KEPT:
                self._lattices.clear()
            lattice = self._lattices[word] = self._filtered(word)
        return lattice

    def _filtered(self, word: str) -> list[_Ending]:
        """Forward filtering: log Z_t = log sum over pieces that end at t of p^alpha Z_start."""
        log_z = [0.0]
        endings = []
        for end in range(1, len(word) + 1):
            starts, ids, logs = [], [], []
            for start in range(max(0, end - self._longest), end):
                known = self._pieces.get(word[start:end])
                if known is not None or start == end - 1:
                    score = known[1] if known is not None else self._strange
                    starts.append(start)
                    ids.append([known[0]] if known is not None else self._tokenizer.spell(word[start]))
                    logs.append(self._alpha * score + log_z[start])
            most = max(logs)
            shares = [math.exp(each - most) for each in logs]
            whole = sum(shares)
            log_z.append(most + math.log(whole))
            endings.append(_Ending(starts, ids, [*accumulate(share / whole for share in shares)]))
        return endings


def words_of(text: str) -> list[str]:
    """The words of a normalised text, each with the space before it."""
    begins = [0, *(place for place, character in enumerate(text) if character == SPACE and place), len(text)]
    return [text[begin:end] for begin, end in pairwise(begins) if begin < end]
