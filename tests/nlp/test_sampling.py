"""Sampling: what is kept, by hand; how often it is drawn; and that the batch has no say in it.

Axes: N rows of hypotheses, V vocabulary.
"""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from footplate.streams import numpy_stream
from footplate_nlp.model import build_model
from footplate_nlp.sampling import SampleConfig, draw, kept_probabilities, nucleus
from footplate_nlp.search import search
from footplate_nlp.symbols import EOS, PAD
from footplate_nlp.transformer import TransformerConfig

PROBABILITIES_V = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3], dtype=torch.float64)


def kept(config: SampleConfig) -> list[float]:
    row: list[float] = kept_probabilities(PROBABILITIES_V.log()[None], config)[0].tolist()
    return row


@pytest.mark.parametrize(
    ("top_p", "tokens"),
    [
        (0.01, {1}),  # always at least one
        (0.39, {1}),
        (0.41, {1, 4}),
        (0.69, {1, 4}),
        (0.71, {1, 4, 3}),
        (0.94, {1, 4, 3}),
        (0.96, {1, 4, 3, 0}),
        (1.0, {1, 4, 3, 0}),
    ],
)
def test_the_nucleus_is_the_smallest_set_that_has_the_mass(top_p: float, tokens: set[int]) -> None:
    row = kept(SampleConfig(top_p=top_p))
    assert {token for token, probability in enumerate(row) if probability} == tokens
    assert [row[token] for token in sorted(tokens)] == pytest.approx(PROBABILITIES_V[sorted(tokens)].tolist())


def test_a_mass_that_is_met_exactly_is_enough() -> None:
    probabilities_NV = torch.tensor([[0.25, 0.5, 0.125, 0.125]], dtype=torch.float64)  # exact in binary
    assert nucleus(probabilities_NV, 0.5).tolist() == [[0.0, 0.5, 0.0, 0.0]]
    assert nucleus(probabilities_NV, 0.75).tolist() == [[0.25, 0.5, 0.0, 0.0]]


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 0.999])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_full_sort(mass: float) -> None:
    generator = torch.Generator().manual_seed(1)
    sharpness_N1 = torch.tensor([[0.1], [1.0], [3.0], [10.0]])
    logits_NV = torch.randn(4, 3000, generator=generator, dtype=torch.float64) * sharpness_N1
    probabilities_NV = logits_NV.softmax(-1)
    for row_V, kept_V in zip(probabilities_NV, nucleus(probabilities_NV, mass), strict=True):
        total, expected_V = 0.0, torch.zeros_like(row_V)
        for token in row_V.argsort(descending=True).tolist():
            if total >= mass:
                break
            expected_V[token] = row_V[token]
            total += row_V[token].item()
        assert torch.equal(kept_V, expected_V)


def test_top_k_keeps_the_k_most_probable() -> None:
    assert kept(SampleConfig(top_k=2)) == pytest.approx([0, 4 / 7, 0, 0, 3 / 7])
    assert kept(SampleConfig(top_k=1)) == pytest.approx([0, 1, 0, 0, 0])
    assert kept(SampleConfig(top_k=100)) == pytest.approx(PROBABILITIES_V.tolist())


def test_the_nucleus_is_one_of_what_top_k_left() -> None:
    # Of 4/7 = .571 and 3/7 the first has the mass; of the whole it had only .4.
    assert kept(SampleConfig(top_k=2, top_p=0.55)) == pytest.approx([0, 4 / 7, 0, 0, 0])


def test_temperature_is_a_power_of_the_probabilities() -> None:
    squared_V = PROBABILITIES_V**2 / (PROBABILITIES_V**2).sum()
    assert kept(SampleConfig(temperature=0.5)) == pytest.approx(squared_V.tolist())


def test_a_number_picks_the_token_in_whose_interval_it_lies() -> None:
    uniform_N = torch.tensor([0.0, 0.049, 0.051, 0.449, 0.451, 0.699, 0.701, 1 - 2**-53], dtype=torch.float64)
    log_probabilities_NV = PROBABILITIES_V.log().expand(8, 5)
    assert draw(log_probabilities_NV, uniform_N, SampleConfig()).tolist() == [0, 0, 1, 1, 3, 3, 4, 4]
    # Of tokens 1 and 4 alone: .4 / .7 = .571.
    uniform_N = torch.tensor([0.0, 0.57, 0.58, 1 - 2**-53], dtype=torch.float64)
    assert draw(log_probabilities_NV[:4], uniform_N, SampleConfig(top_p=0.5)).tolist() == [1, 1, 4, 4]


def test_the_greatest_number_never_picks_what_was_left_out() -> None:
    log_probabilities_NV = torch.randn(200, 50, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    log_probabilities_NV[:, 40:] = -torch.inf
    uniform_N = torch.full((200,), 1 - 2**-53, dtype=torch.float64)
    assert set(draw(log_probabilities_NV, uniform_N, SampleConfig()).tolist()) == {39}


class Coin:
    """A model that writes one of five tokens and then ends, whatever the source."""

    def begin(self, source_BS: Tensor, beam: int) -> "CoinDecoding":
        return CoinDecoding(len(source_BS) * beam)


class CoinDecoding:
    def __init__(self, rows: int) -> None:
        self.rows, self.first = rows, True

    def step(self, tokens_N: Tensor) -> Tensor:
        logits_V = torch.full((9,), -torch.inf, dtype=torch.float64)
        if self.first:
            logits_V[4:] = PROBABILITIES_V.log()
        else:
            logits_V[EOS] = 0.0
        self.first = False
        return logits_V.repeat(self.rows, 1)

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        self.rows = len(rows_N)


@pytest.mark.parametrize("samples", [1, 5])
def test_tokens_are_drawn_as_often_as_they_are_probable(samples: int) -> None:
    sentences = 10_000 // samples
    source_BS = torch.full((sentences, 1), EOS)
    found = search(Coin(), source_BS, SampleConfig(samples=samples), seed=1)
    counts = Counter(hypothesis.tokens for hypotheses in found for hypothesis in hypotheses)
    expected: dict[tuple[int, ...], float] = {
        (4 + token,): 10_000 * p for token, p in enumerate(PROBABILITIES_V.tolist()) if p
    }
    assert set(counts) == set(expected)
    chi_square = sum((counts[tokens] - number) ** 2 / number for tokens, number in expected.items())
    assert chi_square < 16.27  # 3 degrees of freedom: exceeded once in a thousand seeds
    for hypotheses in found:
        for hypothesis in hypotheses:
            assert hypothesis.log_probability == pytest.approx(math.log(expected[hypothesis.tokens] / 10_000))


def test_the_reported_probability_knows_nothing_of_temperature_and_truncation() -> None:
    config = SampleConfig(temperature=0.3, top_k=2, top_p=0.5)
    (found,) = search(Coin(), torch.full((1, 1), EOS), config)
    assert found[0].tokens == (5,)
    assert found[0].log_probability == pytest.approx(math.log(0.4))


def sources() -> Tensor:
    source_BS = torch.randint(4, 20, (30, 6), generator=torch.Generator().manual_seed(1))
    source_BS[::3, 4:] = PAD
    return source_BS


def samples_of(config: SampleConfig, batch: int, seed: int = 1) -> list[list[tuple[int, ...]]]:
    torch.manual_seed(1)
    sizes = {"width": 16, "heads": 2, "feed_forward_width": 16, "encoder_layers": 1, "decoder_layers": 1}
    model = build_model(TransformerConfig.model_validate(sizes), 20, 20).double().eval()
    found = []
    for first in range(0, 30, batch):
        keys = range(first, min(first + batch, 30))
        found += search(model, sources()[first : first + batch], config, seed=seed, keys=keys)
    return [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]


@pytest.mark.parametrize("config", [SampleConfig(top_p=0.9), SampleConfig(samples=3, temperature=1.3)])
def test_samples_are_the_same_for_any_batch_size(config: SampleConfig) -> None:
    assert samples_of(config, 30) == samples_of(config, 7) == samples_of(config, 1)


def test_another_seed_draws_others_and_sentences_differ_from_each_other() -> None:
    first, second = samples_of(SampleConfig(), 30, seed=1), samples_of(SampleConfig(), 30, seed=2)
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 25
    assert len({tuple(found) for found in first}) > 25


def test_more_samples_begin_with_the_same_ones() -> None:
    one, three = samples_of(SampleConfig(), 30), samples_of(SampleConfig(samples=3), 30)
    for single, several in zip(one, three, strict=True):
        assert len(several) == 3
        assert single[0] in several


def test_several_samples_come_with_the_most_probable_first() -> None:
    (found,) = search(Coin(), torch.full((1, 1), EOS), SampleConfig(samples=20))
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1


def test_a_stream_of_numbers_belongs_to_a_sentence_and_a_sample() -> None:
    """The first number of stream (seed, "sample", key, number) decides about the first token."""
    source_BS = torch.full((3, 1), EOS)
    found = search(Coin(), source_BS, SampleConfig(), seed=9, keys=[41, 7, 13])
    for key, hypotheses in zip([41, 7, 13], found, strict=True):
        point = numpy_stream(9, "sample", key, 0).random()
        cumulative = PROBABILITIES_V.cumsum(0).tolist()
        assert hypotheses[0].tokens == (4 + next(token for token, reached in enumerate(cumulative) if point < reached),)
