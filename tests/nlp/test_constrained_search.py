"""Forced prefixes, n-gram blocking, repetition penalty and uniform information density, beside exhaustive enumeration.

Axes: B sentences, N rows, V vocabulary, T target positions.
"""

import math
import statistics
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from footplate.errors import ConfigError, FootplateError
from footplate.job import load_job
from footplate.streams import numpy_stream
from footplate_nlp.beam import Average, BeamConfig, Gnmt, LengthPenalty, NoPenalty, Stop
from footplate_nlp.constraints import Constraints
from footplate_nlp.hypothesis import Hypothesis, Length
from footplate_nlp.model import build_model
from footplate_nlp.sampling import SampleConfig
from footplate_nlp.search import GreedyConfig, SearchConfig, search
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import BOS, EOS, PAD, UNKNOWN
from footplate_nlp.transformer import TransformerConfig
from footplate_nlp.uid import Regularizer, Uid

A, B = 4, 5
WORDS = (UNKNOWN, A, B)
Tokens = tuple[int, ...]


class Toy:
    """Six tokens, whose probabilities are a random function of the source's first token and of the whole prefix."""

    def __init__(self, seed: int, sharpness: float = 1.5) -> None:
        self.seed, self.sharpness = seed, sharpness
        self.steps = 0
        self.known: dict[Tokens, Tensor] = {}

    def log_p(self, prefix: Tokens) -> Tensor:
        """Of the next token; the prefix begins with the source's token."""
        if prefix not in self.known:
            logits_V = torch.from_numpy(numpy_stream(self.seed, "toy", *prefix).normal(size=6)) * self.sharpness
            self.known[prefix] = logits_V.log_softmax(-1)
        return self.known[prefix]

    def begin(self, source_BS: Tensor, beam: int) -> "ToyDecoding":
        return ToyDecoding(self, [(first,) for first in source_BS[:, 0].tolist() for _ in range(beam)])

    def surprisals(self, tokens: Tokens, first: int = 10) -> list[float]:
        """Of each token and the end."""
        return [-self.log_p((first, *tokens[:t]))[token].item() for t, token in enumerate((*tokens, EOS))]


class ToyDecoding:
    def __init__(self, toy: Toy, rows: list[Tokens]) -> None:
        self.toy, self.rows, self.fed = toy, rows, 0

    def step(self, tokens_N: Tensor) -> Tensor:
        self.toy.steps += len(self.rows)
        if self.fed:
            self.rows = [(*row, token) for row, token in zip(self.rows, tokens_N.tolist(), strict=True)]
        self.fed += 1
        return torch.stack([self.toy.log_p(row) for row in self.rows])

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        self.rows = [self.rows[row] for row in rows_N.tolist()]


def sources(count: int) -> Tensor:
    return torch.tensor([[first, EOS] for first in range(10, 10 + count)])


def exactly(maximum: int, minimum: int = 0) -> Length:
    return Length(factor=0, extra=maximum, maximum=maximum, minimum=minimum)


def repeats(tokens: Tokens, n: int) -> bool:
    runs = [tokens[start : start + n] for start in range(len(tokens) - n + 1)]
    return len(set(runs)) < len(runs)


def exhaustive(
    longest: int, wanted: Callable[[Tokens], bool], score: Callable[[Tokens], float]
) -> list[tuple[Tokens, float]]:
    """All outputs that are wanted with their scores, the best first."""
    every = [tokens for length in range(longest) for tokens in product(WORDS, repeat=length)]
    return sorted(((tokens, score(tokens)) for tokens in every if wanted(tokens)), key=lambda found: -found[1])


def assert_same(found: list[Hypothesis], expected: list[tuple[Tokens, float]], toy: Toy) -> None:
    assert [hypothesis.tokens for hypothesis in found] == [tokens for tokens, _ in expected]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in expected], rel=1e-12)
    for hypothesis in found:  # the log-probability stays the model's, whatever was ranked
        assert hypothesis.log_probability == pytest.approx(-sum(toy.surprisals(hypothesis.tokens)), rel=1e-12)


@pytest.mark.parametrize("prefix", [(), (A,), (B, B), (A, A, A)])
@pytest.mark.parametrize("ngram", [None, 1, 2])
@pytest.mark.parametrize("penalty", [1.0, 1.7])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_what_is_allowed(
    prefix: Tokens, ngram: int | None, penalty: float, seed: int
) -> None:
    toy, longest = Toy(seed), 4
    config = BeamConfig(
        size=81,
        n_best=40,
        stop="all",
        length_penalty=Average(alpha=0.7),
        length=exactly(longest),
        constraints=Constraints(no_repeat_ngram=ngram, repetition_penalty=penalty),
    )

    def wanted(tokens: Tokens) -> bool:
        # What the prefix repeats itself is forced all the same; nothing is repeated beyond it.
        free = [t for t in range(len(prefix) + 1, len(tokens) + 1) if ngram is not None and t >= ngram]
        again = any(tokens[t - ngram : t] in [tokens[s : s + ngram] for s in range(t - ngram)] for t in free if ngram)
        return tokens[: len(prefix)] == prefix and not again

    def score(tokens: Tokens) -> float:
        costs = [
            cost * (penalty if t >= len(prefix) and (*tokens, EOS)[t] in tokens[:t] else 1)
            for t, cost in enumerate(toy.surprisals(tokens))
        ]
        return -sum(costs) / len(costs) ** 0.7

    (found,) = search(toy, sources(1), config, prefixes=[prefix])
    assert_same(found, exhaustive(longest, wanted, score), toy)


REGULARIZERS: list[Regularizer] = ["greedy", "variance", "local_variance", "max", "squares"]


def unevenness(toy: Toy, tokens: Tokens, regularizer: Regularizer) -> float:
    """R by the paper's formulas, on plain lists."""
    u = toy.surprisals(tokens)
    if regularizer == "greedy":
        least = [-toy.log_p((10, *tokens[:t])).max().item() for t in range(len(u))]
        return sum((a - b) ** 2 for a, b in zip(u, least, strict=True))
    if regularizer == "variance":
        return statistics.pvariance(u)
    if regularizer == "local_variance":
        return sum((a - b) ** 2 for a, b in zip(u, [0.0, *u[:-1]], strict=True)) / len(u)
    return max(u) if regularizer == "max" else sum(a**2 for a in u)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("penalty", [NoPenalty(), Gnmt(alpha=0.9)])
@pytest.mark.parametrize("strength", [0.3, 4.0])
def test_a_beam_as_wide_as_the_tree_maximises_the_regularised_objective(
    regularizer: Regularizer, penalty: LengthPenalty, strength: float
) -> None:
    toy, longest = Toy(5), 4
    uid = Uid(regularizer=regularizer, strength=strength)
    config = BeamConfig(size=81, n_best=40, stop="all", length_penalty=penalty, length=exactly(longest), uid=uid)

    def score(tokens: Tokens) -> float:
        objective = -sum(toy.surprisals(tokens)) - strength * unevenness(toy, tokens, regularizer)
        return objective / penalty.divisor(len(tokens) + 1)

    (found,) = search(toy, sources(1), config)
    assert_same(found, exhaustive(longest, lambda tokens: True, score), toy)


def test_the_regulariser_knows_the_models_own_surprisals_and_the_penalty_is_paid_besides() -> None:
    toy = Toy(3)
    config = BeamConfig(
        size=81,
        n_best=40,
        stop="all",
        length_penalty=NoPenalty(),
        length=exactly(4),
        uid=Uid(regularizer="squares", strength=0.5),
        constraints=Constraints(repetition_penalty=1.5),
    )

    def score(tokens: Tokens) -> float:
        u = toy.surprisals(tokens)
        penalised = sum(cost * (1.5 if (*tokens, EOS)[t] in tokens[:t] else 1) for t, cost in enumerate(u))
        return -penalised - 0.5 * sum(a**2 for a in u)

    (found,) = search(toy, sources(1), config)
    assert_same(found, exhaustive(4, lambda tokens: True, score), toy)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 4),
    uid=st.builds(Uid, regularizer=st.sampled_from(["greedy", "max", "squares"]), strength=st.floats(0, 3)),
    constraints=st.builds(
        Constraints, no_repeat_ngram=st.sampled_from([None, 1, 2, 3]), repetition_penalty=st.floats(1, 3)
    ),
    penalty=st.sampled_from([NoPenalty(), Average(), Gnmt(alpha=2.0)]),
    maximum=st.integers(1, 7),
)
def test_optimal_stopping_still_finds_what_searching_to_the_end_finds(
    seed: int, size: int, uid: Uid, constraints: Constraints, penalty: LengthPenalty, maximum: int
) -> None:
    def found(stop: Stop) -> tuple[list[list[Hypothesis]], int]:
        toy = Toy(seed)
        config = BeamConfig(
            size=size,
            n_best=1 + size // 2,
            length_penalty=penalty,
            stop=stop,
            length=exactly(maximum),
            uid=uid,
            constraints=constraints,
        )
        return search(toy, sources(3), config), toy.steps

    optimal, cost = found("optimal")
    to_the_end, cost_to_the_end = found("all")
    assert optimal == to_the_end
    assert cost <= cost_to_the_end


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_strength_0_is_plain_beam_search(regularizer: Regularizer) -> None:
    plain = BeamConfig(size=3, n_best=3, length=exactly(6))
    with_0 = plain.model_copy(update={"uid": Uid(regularizer=regularizer, strength=0.0)})
    assert search(Toy(4), sources(10), with_0) == search(Toy(4), sources(10), plain)


EVERY_KIND: list[SearchConfig] = [GreedyConfig(), BeamConfig(size=3, n_best=2, stop="all"), SampleConfig(samples=2)]


@pytest.mark.parametrize("config", EVERY_KIND)
def test_a_constraint_that_asks_for_nothing_changes_nothing(config: SearchConfig) -> None:
    plain = config.model_copy(update={"length": exactly(6)})
    # No output is long enough to repeat six tokens.
    lax = plain.model_copy(update={"constraints": Constraints(no_repeat_ngram=6)})
    assert search(Toy(4), sources(10), lax) == search(Toy(4), sources(10), plain)
    assert search(Toy(4), sources(10), plain, prefixes=[()] * 10) == search(Toy(4), sources(10), plain)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 4),
    minimum=st.integers(0, 8),
    config=st.sampled_from(EVERY_KIND),
)
def test_no_blocked_run_is_ever_written_twice(seed: int, n: int, minimum: int, config: SearchConfig) -> None:
    update = {"length": exactly(12, minimum), "constraints": Constraints(no_repeat_ngram=n)}
    for hypotheses in search(Toy(seed, sharpness=4), sources(4), config.model_copy(update=update)):
        assert hypotheses
        for hypothesis in hypotheses:
            assert not repeats(hypothesis.tokens, n)
            assert not {PAD, BOS, EOS} & set(hypothesis.tokens)


@pytest.mark.parametrize("config", EVERY_KIND)
def test_where_everything_is_blocked_the_sentence_ends_before_its_minimum(config: SearchConfig) -> None:
    update = {"length": exactly(9, 7), "constraints": Constraints(no_repeat_ngram=1)}
    for hypotheses in search(Toy(1), sources(4), config.model_copy(update=update)):
        for hypothesis in hypotheses:
            assert sorted(hypothesis.tokens) == sorted(WORDS)  # each once, and there are no more


def test_a_repetition_penalty_moves_greedy_search_off_a_loop() -> None:
    class Loop(Toy):
        def log_p(self, prefix: Tokens) -> Tensor:
            return torch.tensor([0.0, 0.0, 0.0, 0.1, 0.6, 0.3], dtype=torch.float64).log()

    plain = GreedyConfig(length=exactly(4))
    ((looping,),) = search(Loop(0), sources(1), plain)
    assert looping.tokens == (A, A, A)
    # .6^3 = .216 is below .3; then .3^3 = .027 is below .1, where it ends.
    ((moved,),) = search(
        Loop(0), sources(1), plain.model_copy(update={"constraints": Constraints(repetition_penalty=3.0)})
    )
    assert moved.tokens == (A, B, A)
    assert moved.log_probability == moved.score == pytest.approx(math.log(0.6 * 0.3 * 0.6 * 0.1))


def transformer() -> Seq2Seq:
    torch.manual_seed(5)
    config = TransformerConfig(encoder_layers=1, decoder_layers=1, width=16, feed_forward_width=32, heads=2)
    return build_model(config, 24, 24).double().eval()


def many_sources(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    source_BS = torch.zeros(count, 9, dtype=torch.long)
    for row_S in source_BS:
        length = int(torch.randint(0, 9, (), generator=generator))
        row_S[:length] = torch.randint(4, 24, (length,), generator=generator)
        row_S[length] = EOS
    return source_BS


CONSTRAINED: list[SearchConfig] = [
    config.model_copy(update={"constraints": constraints, "length": Length(factor=1, extra=6), **more})
    for config, more in (
        (GreedyConfig(), {}),
        (SampleConfig(samples=2, top_p=0.9), {}),
        (BeamConfig(size=3, n_best=2), {}),
        (BeamConfig(size=3, n_best=2, stop="all"), {"uid": Uid(regularizer="variance", strength=0.5)}),
        (BeamConfig(size=3, n_best=2), {"uid": Uid(regularizer="greedy", strength=2.0)}),
    )
    for constraints in (Constraints(no_repeat_ngram=2), Constraints(repetition_penalty=1.3))
]


@pytest.mark.parametrize("config", CONSTRAINED)
def test_a_constrained_output_does_not_depend_on_its_neighbours(config: SearchConfig) -> None:
    model, source_BS = transformer(), many_sources(16)
    prefixes = [tuple(range(4, 4 + row % 4)) for row in range(16)]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2)).tolist()
    together = search(model, source_BS[order], config, keys=order, prefixes=[prefixes[row] for row in order])
    for row, found in zip(order, together, strict=True):
        length = int((source_BS[row] != PAD).sum())
        (alone,) = search(model, source_BS[row : row + 1, :length], config, keys=[row], prefixes=[prefixes[row]])
        assert [hypothesis.tokens for hypothesis in alone] == [hypothesis.tokens for hypothesis in found]
        assert [each.score for each in alone] == pytest.approx([each.score for each in found], rel=1e-9)
        for hypothesis in found:
            assert hypothesis.tokens[: len(prefixes[row])] == prefixes[row]
            assert hypothesis.log_probability == pytest.approx(teacher_forced(model, source_BS[row], hypothesis.tokens))


def teacher_forced(model: Seq2Seq, source_S: Tensor, tokens: Tokens) -> float:
    with torch.no_grad():
        logits_BTV = model.forced(model.encode(source_S[None]), torch.tensor([[BOS, *tokens]]))
    return logits_BTV[0].log_softmax(-1).gather(1, torch.tensor([*tokens, EOS])[:, None]).sum().item()


@pytest.mark.parametrize("config", EVERY_KIND)
def test_a_prefix_that_cannot_begin_an_output_is_refused(config: SearchConfig) -> None:
    config = config.model_copy(update={"length": exactly(4)})
    search(Toy(1), sources(2), config, prefixes=[(A,), (A, B, A)])
    with pytest.raises(FootplateError) as error:
        search(Toy(1), sources(2), config, prefixes=[(A,), (A, B, A, B)])
    assert str(error.value) == (
        "sentence 2: a forced prefix of 4 tokens and the end of sentence are more than its output may have (4); "
        "shorten the prefix, or raise evaluate.search.length"
    )
    with pytest.raises(FootplateError) as error:
        search(Toy(1), sources(1), config, prefixes=[(A, EOS)])
    assert str(error.value) == (
        "sentence 1: a forced prefix has tokens that are never written; leave out pad, begin and end"
    )


@pytest.mark.parametrize("stop", ["first", "k_finished", "optimal"])
@pytest.mark.parametrize("regularizer", ["variance", "local_variance"])
def test_a_regulariser_that_may_fall_needs_a_search_to_the_end(stop: str, regularizer: str) -> None:
    settings = {"kind": "beam", "stop": stop, "uid": {"regularizer": regularizer, "strength": 0.5}}
    with pytest.raises(ValidationError) as error:
        adapter.validate_python(settings)
    assert error.value.errors()[0]["msg"] == (
        f"Value error, uid.regularizer {regularizer} may fall as an output grows, so stop {stop} could miss a better "
        "one; set stop to all, or choose greedy, max or squares"
    )
    adapter.validate_python(settings | {"stop": "all"})


adapter: TypeAdapter[SearchConfig] = TypeAdapter(SearchConfig)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "greedy", "constraints": {"no_repeat_ngram": 0}}, "greater than or equal to 1"),
        ({"kind": "beam", "constraints": {"repetition_penalty": 0.9}}, "greater than or equal to 1"),
        ({"kind": "beam", "uid": {"regularizer": "max", "strength": -1.0}}, "greater than or equal to 0"),
        ({"kind": "beam", "uid": {"regularizer": "max"}}, "Field required"),
        ({"kind": "greedy", "uid": {"regularizer": "max", "strength": 1.0}}, "Extra inputs are not permitted"),
    ],
)
def test_constraints_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        adapter.validate_python(settings)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            "{kind: beam, length_penalty: {kind: gnmt, alpha: 500}}",
            "evaluate.search.length_penalty.alpha: must be at most 10, got 500",
        ),
        (
            "{kind: beam, uid: {regularizer: squares, strength: 1e38}}",
            "evaluate.search.uid.strength: must be at most 1000000, got 1e+38",
        ),
        ("{kind: sample, temperature: 1e-40}", "evaluate.search.temperature: must be at least 1e-06, got 1e-40"),
        ("{kind: sample, temperature: 1e40}", "evaluate.search.temperature: must be at most 1000000, got 1e+40"),
        (
            "{constraints: {repetition_penalty: 1e38}}",
            "evaluate.search.constraints.repetition_penalty: must be at most 1000000, got 1e+38",
        ),
    ],
)
def test_numbers_beyond_the_arithmetic_are_refused(changes: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_job("copy-transformer", [f"evaluate.search={changes}"])
    assert str(error.value) == f"command line: {problem}"


FARTHEST: list[SearchConfig] = [
    BeamConfig(length_penalty=Average(alpha=10)),
    BeamConfig(length_penalty=Gnmt(alpha=10)),
    *(BeamConfig(stop="all", uid=Uid(regularizer=regularizer, strength=1e6)) for regularizer in REGULARIZERS),
    SampleConfig(temperature=1e-6, constraints=Constraints(repetition_penalty=1e6)),
    SampleConfig(temperature=1e6),
    BeamConfig(constraints=Constraints(repetition_penalty=1e6)),
]


@pytest.mark.parametrize("config", FARTHEST)
def test_at_the_ends_of_the_ranges_there_is_an_output_for_every_sentence(config: SearchConfig) -> None:
    single = transformer().float()
    found = search(single, many_sources(3), config.model_copy(update={"length": exactly(100, 99)}))
    assert all(hypotheses and math.isfinite(hypotheses[0].score) for hypotheses in found)
