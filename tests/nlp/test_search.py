"""Greedy and beam search: by hand, beside exhaustive search, and the same whatever shares the batch.

The toy model's probabilities are a table: a function of the source's first token and of the whole prefix.

Axes: B sentences, S source positions, K hypotheses of a sentence, N rows, T target positions, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from footplate.errors import FootplateError
from footplate.streams import numpy_stream
from footplate_nlp.beam import Average, BeamConfig, Gnmt, LengthPenalty, NoPenalty, Stop
from footplate_nlp.hypothesis import Hypothesis, Length
from footplate_nlp.sampling import SampleConfig
from footplate_nlp.search import GreedyConfig, SearchConfig, search
from footplate_nlp.symbols import BOS, EOS, PAD, UNKNOWN

A, B, C = 4, 5, 6
WORDS = (UNKNOWN, A, B)
Table = Callable[[int, tuple[int, ...]], Sequence[float]]
"""(the source's first token, prefix) -> logits over the vocabulary."""


class Toy:
    """A model that is a table, and remembers how many rows it was fed at each step."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows_fed: list[int] = []

    def begin(self, source_BS: Tensor, beam: int) -> "ToyDecoding":
        return ToyDecoding(self, [(first, ()) for first in source_BS[:, 0].tolist() for _ in range(beam)], beam)


class ToyDecoding:
    def __init__(self, toy: Toy, rows: list[tuple[int, tuple[int, ...]]], beam: int) -> None:
        self.toy, self.rows, self.beam = toy, rows, beam

    def step(self, tokens_N: Tensor) -> Tensor:
        self.toy.rows_fed.append(len(self.rows))
        self.rows = [
            (first, (*prefix, token)) for (first, prefix), token in zip(self.rows, tokens_N.tolist(), strict=True)
        ]
        logits = [self.toy.table(first, prefix[1:]) for first, prefix in self.rows]
        return torch.tensor(logits, dtype=torch.float64)

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        chosen = rows_N.tolist()
        kept = range(len(self.rows) // self.beam) if sentences_B is None else sentences_B.tolist()
        assert [row // self.beam for row in chosen] == [sentence for sentence in kept for _ in range(self.beam)]
        self.rows = [self.rows[row] for row in chosen]


def random_table(seed: int, vocabulary: int = 6, sharpness: float = 1.5) -> Table:
    memory: dict[tuple[int, tuple[int, ...]], list[float]] = {}

    def table(first: int, prefix: tuple[int, ...]) -> list[float]:
        key = (first, prefix)
        if key not in memory:
            memory[key] = (numpy_stream(seed, "table", first, *prefix).normal(size=vocabulary) * sharpness).tolist()
        return memory[key]

    return table


def table_of(probabilities: Mapping[tuple[int, ...], Mapping[int, float]]) -> Table:
    """A table written by hand; a prefix that is not in it ends for certain."""

    def table(first: int, prefix: tuple[int, ...]) -> list[float]:
        row = probabilities.get(prefix, {EOS: 1.0})
        return [math.log(row[token]) if row.get(token) else -math.inf for token in range(7)]

    return table


def log_probability(table: Table, first: int, tokens: tuple[int, ...]) -> float:
    total = 0.0
    for t, token in enumerate((*tokens, EOS)):
        total += torch.tensor(table(first, tokens[:t]), dtype=torch.float64).log_softmax(-1)[token].item()
    return total


def sources(count: int) -> Tensor:
    return torch.tensor([[first, EOS] for first in range(10, 10 + count)])


def exactly(maximum: int, minimum: int = 0) -> Length:
    return Length(factor=0, extra=maximum, maximum=maximum, minimum=minimum)


def tokens_of(found: list[list[Hypothesis]]) -> list[list[tuple[int, ...]]]:
    return [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]


PENALTIES: list[LengthPenalty] = [NoPenalty(), Average(alpha=1.0), Average(alpha=0.4), Gnmt(alpha=0.6), Gnmt(alpha=2.0)]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_tree_is_exhaustive_search(penalty: LengthPenalty, seed: int) -> None:
    table, longest = random_table(seed), 4
    config = BeamConfig(size=81, n_best=40, length_penalty=penalty, stop="all", length=exactly(longest))
    (found,) = search(Toy(table), sources(1), config)
    everything = [tokens for length in range(longest) for tokens in product(WORDS, repeat=length)]
    scores = {tokens: log_probability(table, 10, tokens) / penalty.divisor(len(tokens) + 1) for tokens in everything}
    assert len(found) == len(everything) == 40
    assert [hypothesis.tokens for hypothesis in found] == sorted(everything, key=lambda tokens: -scores[tokens])
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(scores[hypothesis.tokens], rel=1e-12)
        assert hypothesis.log_probability == pytest.approx(log_probability(table, 10, hypothesis.tokens), rel=1e-12)
        is_longest = len(hypothesis.tokens) == longest - 1
        row = table(10, hypothesis.tokens)
        would_go_on = max((row[token], token) for token in (*WORDS, EOS))[1] != EOS
        assert hypothesis.truncated == (is_longest and would_go_on)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 4),
    n_best=st.integers(1, 4),
    penalty=st.sampled_from(PENALTIES),
    maximum=st.integers(1, 7),
    sharpness=st.floats(0.2, 4),
)
def test_optimal_stopping_finds_what_searching_to_the_end_finds(
    seed: int, size: int, n_best: int, penalty: LengthPenalty, maximum: int, sharpness: float
) -> None:
    def found(stop: Stop) -> tuple[list[list[Hypothesis]], int]:
        toy = Toy(random_table(seed, sharpness=sharpness))
        config = BeamConfig(
            size=size, n_best=min(size, n_best), length_penalty=penalty, stop=stop, length=exactly(maximum)
        )
        return search(toy, sources(3), config), sum(toy.rows_fed)

    optimal, cost = found("optimal")
    to_the_end, cost_to_the_end = found("all")
    assert optimal == to_the_end
    assert cost <= cost_to_the_end


def naive_beam(table: Table, first: int, config: BeamConfig, maximum: int) -> list[tuple[tuple[int, ...], float]]:
    """The rules of the search on plain lists, to the end: (tokens, score) of the best n."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    pool: list[tuple[tuple[int, ...], float]] = []
    for length in range(1, maximum + 1):
        divisor = config.length_penalty.divisor(length)
        candidates = []
        for prefix, value in live:
            row = torch.tensor(table(first, prefix), dtype=torch.float64).log_softmax(-1).tolist()
            if length == maximum:
                pool.append((prefix, (value + row[EOS]) / divisor))
            candidates += [((*prefix, token), value + row[token]) for token in (*WORDS, EOS)]
        candidates = sorted(candidates, key=lambda candidate: -candidate[1])[: 2 * config.size]
        if length < maximum:
            pool += [(tokens[:-1], value / divisor) for tokens, value in candidates[: config.size] if tokens[-1] == EOS]
        live = [candidate for candidate in candidates if candidate[0][-1] != EOS][: config.size]
    return sorted(pool, key=lambda finished: -finished[1])[: config.n_best]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_batched_search_does_what_plain_lists_do(size: int) -> None:
    table = random_table(7)
    config = BeamConfig(size=size, n_best=size, length_penalty=Gnmt(), stop="all", length=exactly(6))
    for number, hypotheses in enumerate(search(Toy(table), sources(8), config)):
        expected = naive_beam(table, 10 + number, config, 6)
        assert [hypothesis.tokens for hypothesis in hypotheses] == [tokens for tokens, _ in expected]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx([score for _, score in expected])


BY_HAND = table_of(
    {
        (): {EOS: 0.35, A: 0.4, B: 0.25},
        (A,): {EOS: 0.2, A: 0.7, B: 0.1},
        (B,): {EOS: 0.9, A: 0.06, B: 0.04},
        (A, A): {EOS: 0.9, A: 0.1},
    }
)
"""Beam 2, at most 3 tokens. Position 1: `a` .4, end .35 (second: it counts). Position 2: `aa` .28, `b` ends with .225
(second), `a` ends with .08 (third: it doesn't count), `ab` .04. Position 3, the end forced: `aa` .252, `ab` .04."""


@pytest.mark.parametrize(
    ("stop", "penalty", "positions", "expected"),
    [
        ("first", NoPenalty(), 1, [()]),
        ("k_finished", NoPenalty(), 2, [(), (B,)]),
        ("all", NoPenalty(), 3, [(), (A, A)]),
        ("optimal", NoPenalty(), 3, [(), (A, A)]),  # after position 2 the second best, .225, is below the live .28
        ("k_finished", Average(), 2, [(B,), ()]),  # ln .225 / 2 = -.75, ln .35 / 1 = -1.05
        ("all", Average(), 3, [(A, A), (B,)]),  # ln .252 / 3 = -.46
        ("optimal", Average(), 3, [(A, A), (B,)]),
        ("best_ends", NoPenalty(), 3, [(), (A, A)]),  # the best of position 2 is `aa`
        ("length_now", Average(), 3, [(A, A), (B,)]),  # ln .35 / 1 is below ln .28 / 2 = -.64
    ],
)
def test_each_rule_stops_where_it_says(
    stop: Stop, penalty: LengthPenalty, positions: int, expected: list[tuple[int, ...]]
) -> None:
    toy = Toy(BY_HAND)
    config = BeamConfig(size=2, n_best=len(expected), stop=stop, length_penalty=penalty, length=exactly(3))
    assert tokens_of(search(toy, sources(1), config)) == [expected]
    assert len(toy.rows_fed) == positions


def test_it_stops_when_the_best_continuation_is_an_end() -> None:
    toy = Toy(table_of({(): {A: 0.6, B: 0.3, EOS: 0.1}, (A,): {EOS: 0.9, A: 0.1}, (B,): {A: 1.0}}))
    config = BeamConfig(size=2, stop="best_ends", length=exactly(3))
    assert tokens_of(search(toy, sources(1), config)) == [[(A,)]]
    assert len(toy.rows_fed) == 2  # one is finished, so `k_finished` would go on; so would `optimal`


def test_it_stops_when_no_live_one_is_better_if_it_ended_now() -> None:
    toy = Toy(table_of({(): {EOS: 0.5, A: 0.3, B: 0.2}, (A,): {EOS: 0.9, A: 0.1}, (B,): {A: 1.0}}))
    config = BeamConfig(size=2, n_best=2, stop="length_now", length_penalty=Average(), length=exactly(3))
    assert tokens_of(search(toy, sources(1), config)) == [[(A,), ()]]  # ln .27 / 2 = -.65, ln .5 = -.69
    assert len(toy.rows_fed) == 2  # ln .2 / 2 = -.80 is worse than both, ln .2 / 3 would not be


def test_the_optimal_rule_stops_when_the_best_cannot_be_overtaken() -> None:
    toy = Toy(BY_HAND)
    config = BeamConfig(size=2, stop="optimal", length_penalty=NoPenalty(), length=exactly(50))
    (found,) = search(toy, sources(1), config)
    assert [hypothesis.tokens for hypothesis in found] == [()]
    assert found[0].score == pytest.approx(math.log(0.35))
    assert len(toy.rows_fed) == 2  # .35 is above .28, and probabilities only fall


def test_an_end_ranked_below_the_first_k_does_not_count() -> None:
    table = table_of({(): {A: 0.5, B: 0.3, EOS: 0.2}, (A,): {EOS: 0.1, A: 0.9}, (B,): {EOS: 0.2, A: 0.8}})
    config = BeamConfig(size=2, n_best=2, length_penalty=NoPenalty(), stop="all", length=exactly(2))
    (found,) = search(Toy(table), sources(1), config)
    assert [hypothesis.tokens for hypothesis in found] == [(B,), (A,)]  # .06 and .05; the empty one would have .2


def test_scores_divide_by_the_length_with_its_end() -> None:
    table = table_of({(): {A: 0.5, B: 0.5}, (A,): {EOS: 0.5, A: 0.5}})
    for penalty, divisor in ((Average(alpha=2.0), 4.0), (Gnmt(alpha=3.0), (7 / 6) ** 3), (NoPenalty(), 1.0)):
        config = BeamConfig(size=3, n_best=3, length_penalty=penalty, stop="all", length=exactly(2))
        (found,) = search(Toy(table), sources(1), config)
        scores = {hypothesis.tokens: hypothesis.score for hypothesis in found}
        assert scores[(A,)] == pytest.approx(math.log(0.25) / divisor)


def test_each_sentence_has_its_own_maximum_and_the_forced_end_is_paid_for() -> None:
    endless = table_of({(A,) * n: {A: 0.9, EOS: 0.1} for n in range(9)})
    source_BS = torch.tensor([[10, EOS, PAD], [11, 12, EOS]])
    for config in (
        GreedyConfig(length=Length(factor=2, extra=0)),
        BeamConfig(size=2, length_penalty=Average(), length=Length(factor=2, extra=0)),
        SampleConfig(top_k=1, length=Length(factor=2, extra=0)),
    ):
        found = [hypotheses[0] for hypotheses in search(Toy(endless), source_BS, config)]
        assert [hypothesis.tokens for hypothesis in found] == [(A,) * 3, (A,) * 5]
        assert [hypothesis.log_probability for hypothesis in found] == pytest.approx(
            [math.log(0.9**3 * 0.1), math.log(0.9**5 * 0.1)]
        )
        assert all(hypothesis.truncated for hypothesis in found)


@pytest.mark.parametrize("config", [GreedyConfig(), BeamConfig(size=2), SampleConfig(top_k=1)])
def test_what_ends_by_itself_at_its_maximum_was_not_ended_there(config: SearchConfig) -> None:
    three = table_of({(A,) * n: {A: 0.9, EOS: 0.1} for n in range(3)} | {(A,) * 3: {EOS: 0.9, A: 0.1}})
    for maximum, truncated in ((3, True), (4, False), (5, False)):
        (found,) = search(Toy(three), sources(1), config.model_copy(update={"length": exactly(maximum)}))
        assert (len(found[0].tokens), found[0].truncated) == (min(maximum - 1, 3), truncated)


@pytest.mark.parametrize("maximum", [1, 5])
def test_length_bounds_hold(maximum: int) -> None:
    table = random_table(3)
    for minimum in range(maximum):
        for config in (
            GreedyConfig(length=exactly(maximum, minimum)),
            BeamConfig(size=4, n_best=4, stop="all", length=exactly(maximum, minimum)),
            SampleConfig(length=exactly(maximum, minimum)),
        ):
            for hypotheses in search(Toy(table), sources(6), config):
                assert hypotheses
                assert all(minimum <= len(hypothesis.tokens) < maximum for hypothesis in hypotheses)


def test_finished_sentences_leave_the_batch() -> None:
    ends = {10: 1, 11: 4, 12: 2}  # source -> how many words

    def table(first: int, prefix: tuple[int, ...]) -> list[float]:
        likely = EOS if len(prefix) == ends[first] else A
        return [20.0 if token == likely else 0.0 for token in range(7)]

    for beam, config in ((1, GreedyConfig()), (3, BeamConfig(size=3)), (2, SampleConfig(samples=2, top_k=1))):
        toy = Toy(table)
        assert tokens_of(search(toy, sources(3), config))[1][0] == (A,) * 4
        assert toy.rows_fed == [3 * beam, 3 * beam, 2 * beam, beam, beam]


@pytest.mark.parametrize(
    "config", [BeamConfig(size=1, length_penalty=NoPenalty()), BeamConfig(size=1, stop="first", length_penalty=Gnmt())]
)
@pytest.mark.parametrize("minimum", [0, 2])
def test_a_beam_of_one_is_greedy(config: BeamConfig, minimum: int) -> None:
    config = config.model_copy(update={"length": exactly(6, minimum)})
    table = random_table(11)
    beam = search(Toy(table), sources(30), config)
    greedy = search(Toy(table), sources(30), GreedyConfig(length=exactly(6, minimum)))
    assert tokens_of(beam) == tokens_of(greedy)
    assert [found[0].log_probability for found in beam] == pytest.approx([found[0].log_probability for found in greedy])


def tempting(first: int, prefix: tuple[int, ...]) -> list[float]:
    """Padding and the begin of sentence have nearly all the mass."""
    return [30.0, 1.0, 40.0, 0.5 * len(prefix), 2.0, 1.5, 0.0]


@pytest.mark.parametrize(
    "config",
    [
        GreedyConfig(length=exactly(20, 1)),
        BeamConfig(n_best=5, length=exactly(20, 1)),
        SampleConfig(samples=5, length=exactly(20, 1)),
    ],
)
def test_padding_and_the_begin_of_sentence_are_never_written(config: SearchConfig) -> None:
    for hypotheses in search(Toy(tempting), sources(4), config):
        for hypothesis in hypotheses:
            assert hypothesis.tokens
            assert not {PAD, BOS, EOS} & set(hypothesis.tokens)
            # What they would have taken is not handed to the others: the log-probability stays the model's.
            assert hypothesis.log_probability == pytest.approx(log_probability(tempting, 0, hypothesis.tokens))


@pytest.mark.parametrize("config", [GreedyConfig(), BeamConfig(), SampleConfig()])
def test_a_model_that_gives_no_numbers_is_refused(config: SearchConfig) -> None:
    def table(first: int, prefix: tuple[int, ...]) -> list[float]:
        return [math.nan if len(prefix) == 1 else 0.0] * 7

    with pytest.raises(FootplateError) as refused:
        search(Toy(table), sources(1), config.model_copy(update={"length": exactly(5, 4)}))
    assert str(refused.value) == (
        "search: the model's probabilities at target position 2 are not numbers; "
        "its weights are damaged or diverged in training: use an earlier checkpoint"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "beam", "size": 2, "n_best": 3},
            "n_best 3 is more than the beam's size 2; raise size or lower n_best",
        ),
        (
            {"kind": "beam", "n_best": 2, "stop": "first"},
            "stop: first ends with one finished hypothesis; set n_best to 1 or use another stop",
        ),
        ({"kind": "beam", "size": 0}, "greater than or equal to 1"),
        ({"kind": "beam", "length_penalty": {"kind": "gnmt", "alpha": -0.1}}, "greater than or equal to 0"),
        ({"kind": "beam", "length_penalty": {"kind": "none", "alpha": 1.0}}, "Extra inputs are not permitted"),
        ({"kind": "greedy", "size": 2}, "Extra inputs are not permitted"),
        (
            {"kind": "greedy", "length": {"minimum": 5, "maximum": 5}},
            "minimum 5 leaves no room for the end of sentence within maximum 5; set maximum to 6 or more",
        ),
        ({"kind": "sample", "temperature": 0.0}, "greater than or equal to 0.000001"),
        ({"kind": "sample", "top_p": 0.0}, "greater than 0"),
        ({"kind": "sample", "top_p": 1.1}, "less than or equal to 1"),
        ({"kind": "sample", "top_k": 0}, "greater than or equal to 1"),
    ],
)
def test_searches_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    adapter: TypeAdapter[SearchConfig] = TypeAdapter(SearchConfig)
    with pytest.raises(ValidationError, match=message):
        adapter.validate_python(settings)
