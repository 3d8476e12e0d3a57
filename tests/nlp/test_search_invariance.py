"""What must not change what a search finds: neighbours in the batch, the cache, training mode, lower precision.

Axes: B sentences, S source positions, N rows of hypotheses, T target positions, V vocabulary.
"""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from footplate_nlp.beam import BeamConfig, Gnmt
from footplate_nlp.convolutional import ConvolutionalConfig
from footplate_nlp.hypothesis import Hypothesis
from footplate_nlp.model import ModelConfig, Seq2Seq, build_model
from footplate_nlp.recurrent import RecurrentConfig
from footplate_nlp.sampling import SampleConfig
from footplate_nlp.search import GreedyConfig, SearchConfig, search
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.transformer import TransformerConfig


def tokens_of(found: list[list[Hypothesis]]) -> list[list[tuple[int, ...]]]:
    return [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]


SMALL_TRANSFORMER = TransformerConfig(encoder_layers=2, decoder_layers=2, width=16, feed_forward_width=32, heads=2)
EVERY_MODEL = [
    pytest.param(SMALL_TRANSFORMER, id="transformer"),
    pytest.param(
        ConvolutionalConfig(encoder_layers=2, decoder_layers=2, width=16, embedding_width=16), id="convolutional"
    ),
    pytest.param(RecurrentConfig(width=16, embedding_width=16, tie="all"), id="recurrent"),
]


def small(config: ModelConfig = SMALL_TRANSFORMER, vocabulary: int = 24) -> Seq2Seq:
    torch.manual_seed(5)
    return build_model(config, vocabulary, vocabulary).eval()


def many_sources(count: int, vocabulary: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    source_BS = torch.zeros(count, 11, dtype=torch.long)
    for row_S in source_BS:
        length = int(torch.randint(0, 11, (), generator=generator))
        row_S[:length] = torch.randint(4, vocabulary, (length,), generator=generator)
        row_S[length] = EOS
    return source_BS


EVERY_KIND = [
    GreedyConfig(),
    BeamConfig(size=4, n_best=3),
    BeamConfig(size=3, stop="first", length_penalty=Gnmt()),
    SampleConfig(samples=2, top_p=0.9, top_k=10),
]


@pytest.mark.parametrize("sizes", EVERY_MODEL)
@pytest.mark.parametrize("config", EVERY_KIND)
def test_an_output_does_not_depend_on_its_neighbours(config: SearchConfig, sizes: ModelConfig) -> None:
    model, source_BS = small(sizes).double(), many_sources(32)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(2)).tolist()
    together = search(model, source_BS[order], config, seed=3, keys=order)
    for row, found in zip(order, together, strict=True):
        length = int((source_BS[row] != PAD).sum())
        (alone,) = search(model, source_BS[row : row + 1, :length], config, seed=3, keys=[row])
        assert tokens_of([alone]) == tokens_of([found])
        assert [each.score for each in alone] == pytest.approx([each.score for each in found], rel=1e-10)


def test_in_single_precision_neighbours_move_no_more_than_last_bits() -> None:
    model, source_BS = small(), many_sources(64)
    config = BeamConfig(size=4)
    together = search(model, source_BS, config)
    for row in range(64):
        (alone,) = search(model, source_BS[row : row + 1], config)
        if alone[0].tokens == together[row][0].tokens:
            assert alone[0].score == pytest.approx(together[row][0].score, rel=1e-5)
        else:
            assert alone[0].score == pytest.approx(together[row][0].score, abs=1e-4)


@pytest.mark.parametrize("sizes", EVERY_MODEL)
@pytest.mark.parametrize("config", EVERY_KIND)
def test_teacher_forcing_gives_the_reported_log_probability(config: SearchConfig, sizes: ModelConfig) -> None:
    model, source_BS = small(sizes).double(), many_sources(20)
    for row, hypotheses in enumerate(search(model, source_BS, config)):
        for hypothesis in hypotheses:
            input_BT = torch.tensor([[BOS, *hypothesis.tokens]])
            target_T1 = torch.tensor([*hypothesis.tokens, EOS])[:, None]
            with torch.no_grad():
                logits_BTV = model.forced(model.encode(source_BS[row : row + 1]), input_BT)
            rescored = logits_BTV[0].log_softmax(-1).gather(1, target_T1).sum().item()
            assert hypothesis.log_probability == pytest.approx(rescored, rel=1e-10)
            if isinstance(config, BeamConfig):
                assert hypothesis.score == pytest.approx(rescored / config.length_penalty.divisor(len(target_T1)))


class Uncached:
    """The same model, asked anew about the whole prefix at each step."""

    def __init__(self, model: Seq2Seq) -> None:
        self.model = model

    def begin(self, source_BS: Tensor, beam: int) -> "UncachedDecoding":
        return UncachedDecoding(self.model, source_BS.repeat_interleave(beam, 0))


class UncachedDecoding:
    def __init__(self, model: Seq2Seq, source_NS: Tensor) -> None:
        self.model, self.source_NS = model, source_NS
        self.history_NT = source_NS[:, :0]

    def step(self, tokens_N: Tensor) -> Tensor:
        self.history_NT = torch.cat([self.history_NT, tokens_N[:, None]], 1)
        return self.model.forced(self.model.encode(self.source_NS), self.history_NT)[:, -1]

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        self.source_NS, self.history_NT = self.source_NS[rows_N], self.history_NT[rows_N]


@pytest.mark.parametrize("sizes", EVERY_MODEL)
@pytest.mark.parametrize("config", EVERY_KIND)
def test_with_the_cache_or_without_it_is_the_same(config: SearchConfig, sizes: ModelConfig) -> None:
    model, source_BS = small(sizes).double(), many_sources(12)
    assert tokens_of(search(model, source_BS, config)) == tokens_of(search(Uncached(model), source_BS, config))


def test_a_model_in_training_is_searched_without_dropout_and_left_in_training() -> None:
    model, source_BS = small(), many_sources(5)
    evaluated = search(model, source_BS, GreedyConfig())
    model.train()
    assert search(model, source_BS, GreedyConfig()) == evaluated
    assert all(part.training for part in model.modules())


def test_half_precision_is_summed_in_single() -> None:
    model, source_BS = small(), many_sources(6)
    exact = search(model, source_BS, BeamConfig(n_best=5, stop="all"))
    with torch.autocast("cpu", torch.bfloat16):
        half = search(model, source_BS, BeamConfig(n_best=5, stop="all"))
    for found, expected in zip(half, exact, strict=True):
        assert found[0].score == pytest.approx(expected[0].score, abs=0.1)
        # Sums in bfloat16 would have 8 bits.
        assert any(math.fmod(hypothesis.log_probability * 2**8, 1) for hypothesis in found)


class CastsOf(TorchDispatchMode):
    """Counts how often each of the model's weights is cast."""

    CASTS = torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype
    """With gradients off, and in inference mode."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.weights = {weight.data_ptr() for weight in model.parameters()}
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.CASTS and args[0].data_ptr() in self.weights:
            self.counts[args[0].data_ptr()] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", [GreedyConfig(), BeamConfig(), SampleConfig()])
def test_half_precision_casts_a_weight_once_a_search_and_not_at_every_step(config: SearchConfig) -> None:
    model = small()
    with torch.autocast("cpu", torch.bfloat16), CastsOf(model) as casts:
        ((found, *_), *_) = search(model, many_sources(3), config)
    assert len(found.tokens) > 5
    assert set(casts.counts.values()) == {1}


@pytest.mark.parametrize("config", EVERY_KIND)
def test_an_empty_batch_gives_an_empty_answer(config: SearchConfig) -> None:
    assert search(small(), torch.zeros(0, 3, dtype=torch.long), config) == []
