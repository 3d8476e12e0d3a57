"""BPE-dropout and subword regularisation against naive versions, and against sentencepiece where nothing is drawn."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from footplate_nlp.bpe_dropout import BpeDropout
from footplate_nlp.subword_regularisation import SubwordRegularisation, words_of
from footplate_nlp.symbols import UNKNOWN
from footplate_nlp.vocabulary import Bpe, Subwords, Tokenizer, Unigram, Vocabulary

WORDS = ["llll", "house", "houses", "old", "older", "hill", "hills", "über", "wonder", "the", "a", "漢字"]
TEXT = [" ".join(np.random.default_rng(line).choice(WORDS, 6)) for line in range(60)]
STRANGE = [
    "the old house",
    "",
    "  ",
    "\u2603\u2603 a\u2603 b",
    "<s> </s> <2de> <0x41> <unk>",
    "\u2581\u2581 a",
    "a  b ",
    "\ufb01t",
    "hi\x00ll",
    "\U0001f600 old",
    "houseshillsolderwonder",
    "zzz",
    "lllllll hillllll ololo ususus",
]


def learned(config: Bpe | Unigram) -> Tokenizer:
    vocabulary = Vocabulary()
    vocabulary.learn(config, lambda: [(line, line) for line in TEXT], ["de"])
    return vocabulary.source


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("normaliser", ["nmt_nfkc", "identity"])
def test_bpe_without_dropout_is_sentencepiece(byte_fallback: bool, normaliser: str) -> None:
    settings = {"size": 320 if byte_fallback else 64, "byte_fallback": byte_fallback, "normaliser": normaliser}
    tokenizer = learned(Bpe.model_validate(settings))
    lines = TEXT + STRANGE
    drawn = BpeDropout(tokenizer, 0.0)(lines, stream())
    assert [drawn[row].tolist() for row in range(len(lines))] == tokenizer.encode(lines)


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_regularisation_at_a_high_alpha_is_sentencepiece(byte_fallback: bool) -> None:
    tokenizer = learned(Unigram(size=288 if byte_fallback else 33, byte_fallback=byte_fallback))
    lines = TEXT + STRANGE
    drawn = SubwordRegularisation(tokenizer, 1000.0)(lines, stream())
    assert [drawn[row].tolist() for row in range(len(lines))] == tokenizer.encode(lines)


def naive_dropout(scores: dict[str, float], word: str, dropout: float, random: np.random.Generator) -> tuple[str, ...]:
    """Algorithm 1 of the paper."""
    split = list(word)
    while True:
        merges = [
            (-scores[left + right], place)
            for place, (left, right) in enumerate(itertools.pairwise(split))
            if left + right in scores and random.random() >= dropout
        ]
        if not merges:
            return tuple(split)
        place = min(merges)[1]
        split[place : place + 2] = ["".join(split[place : place + 2])]


def close(found: Counter[tuple[str, ...]], expected: dict[tuple[str, ...], float], draws: int) -> bool:
    """Whether counts are within five standard deviations of what is expected."""
    return {*found} <= {*expected} and all(
        abs(found[split] - draws * share) <= 5 * math.sqrt(draws * share * (1 - share)) + 1
        for split, share in expected.items()
    )


def splits(tokenizer: Tokenizer, drawn: Sequence[Sequence[int]]) -> Counter[tuple[str, ...]]:
    pieces = tokenizer.pieces()
    return Counter(tuple(pieces[index] for index in ids) for ids in drawn)


def test_dropout_draws_as_the_algorithm_of_the_paper_does() -> None:
    tokenizer = learned(Bpe(size=320))
    random, draws = stream(1), 2000
    scores = {piece: tokenizer.scores()[index] for piece, index in tokenizer.normal_pieces().items()}
    naive = Counter(naive_dropout(scores, "\u2581older", 0.4, random) for _ in range(10 * draws))
    drawn = BpeDropout(tokenizer, 0.4)(["older"] * draws, stream(2))
    found = splits(tokenizer, [drawn[row].tolist() for row in range(draws)])
    assert len(found) > 5
    frequent = {split: count / (10 * draws) for split, count in naive.items() if count > 100}
    assert close(Counter({split: found[split] for split in frequent}), frequent, draws)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_regularisation_draws_each_segmentation_as_often_as_its_probability_says(alpha: float) -> None:
    tokenizer = learned(Unigram(size=288))
    pieces, scores = tokenizer.normal_pieces(), tokenizer.scores()
    word = "\u2581hills"
    weights = {}
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        edges = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(word)]
        split = tuple(word[begin:end] for begin, end in itertools.pairwise(edges))
        if all(piece in pieces for piece in split):
            weights[split] = math.exp(alpha * sum(scores[pieces[piece]] for piece in split))
    expected = {split: weight / sum(weights.values()) for split, weight in weights.items()}
    drawn = SubwordRegularisation(tokenizer, alpha)(["hills"] * 4000, stream())
    found = splits(tokenizer, [drawn[row].tolist() for row in range(4000)])
    assert len(expected) == 3
    assert close(found, expected, 4000)


@pytest.mark.parametrize("config", [Bpe(size=320), Unigram(size=288), Bpe(size=64, byte_fallback=False)])
def test_whatever_is_drawn_spells_the_same_text(config: Subwords) -> None:
    assert isinstance(config, Bpe | Unigram)
    tokenizer = learned(config)
    draw = BpeDropout(tokenizer, 0.5) if isinstance(config, Bpe) else SubwordRegularisation(tokenizer, 0.1)
    lines = TEXT + STRANGE
    drawn = draw(lines, stream())
    ids = [drawn[row].tolist() for row in range(len(lines))]
    assert tokenizer.decode(ids) == tokenizer.decode(tokenizer.encode(lines))
    assert [row.count(UNKNOWN) for row in ids] == [row.count(UNKNOWN) for row in tokenizer.encode(lines)]


def test_words_begin_at_spaces() -> None:
    assert words_of("\u2581a\u2581bc\u2581\u2581d") == ["\u2581a", "\u2581bc", "\u2581", "\u2581d"]
    assert words_of("ab\u2581c") == ["ab", "\u2581c"]
    assert words_of("") == []
