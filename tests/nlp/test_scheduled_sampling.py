"""Scheduled sampling: the decays by hand, predictions one place to the right, and K = T passes one after the other.

Axes: B sentences, S source positions, T target positions, D width, V vocabulary.
"""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from footplate.errors import ConfigError
from footplate.job import load_job
from footplate_nlp import cross_entropy
from footplate_nlp.batches import Batch
from footplate_nlp.convolutional import ConvolutionalConfig
from footplate_nlp.losses import TranslationLoss, WordDropout
from footplate_nlp.model import ModelConfig, build_model
from footplate_nlp.recurrent import RecurrentConfig
from footplate_nlp.scheduled_sampling import (
    ExponentialDecay,
    InverseSigmoidDecay,
    LinearDecay,
    ScheduledSampling,
    decode_mixed,
    mix,
    mixed_input,
    predict,
    predictions,
)
from footplate_nlp.seq2seq import Decoded, Decoding, Memory, Seq2Seq
from footplate_nlp.symbols import BOS, EOS, PAD, UNKNOWN
from footplate_nlp.transformer import TransformerConfig
from footplate_nlp.translation import Config

SOURCE_BS = torch.tensor([[5, 6, 7, 8, EOS], [9, 4, EOS, PAD, PAD]])
INPUT_BT = torch.tensor([[BOS, 5, 9, 4, 10], [BOS, 7, 6, PAD, PAD]])
TARGET_BT = torch.tensor([[5, 9, 4, 10, EOS], [7, 6, EOS, PAD, PAD]])
BATCH = Batch(SOURCE_BS, INPUT_BT, TARGET_BT)
LINEAR = LinearDecay(updates=100)


def small(**changes: object) -> Seq2Seq:
    torch.manual_seed(3)
    sizes = {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "width": 12,
        "feed_forward_width": 20,
        "heads": 3,
        "dropout": 0.0,
    }
    return build_model(TransformerConfig.model_validate({**sizes, **changes}), 11, 11).double()


class Oracle(Seq2Seq):
    """Foresees the target: the source is the target, and position t says token t of it."""

    def __init__(self) -> None:
        super().__init__()
        self.copying = None
        self.matrix_VD = torch.nn.Parameter(torch.eye(11))

    def encode(self, source_BS: Tensor) -> Memory:
        return Memory(source_BS, F.one_hot(source_BS, 11).float(), source_BS != PAD)

    def decode(self, memory: Memory, input_BT: Tensor, *, attention: bool = False) -> Decoded:
        return Decoded(memory.states_BSD[:, : input_BT.shape[1]])

    @property
    def output_matrix(self) -> Tensor:
        return self.matrix_VD

    def start(self, memory: Memory, beam: int) -> Decoding:
        raise NotImplementedError("it only trains")


def test_the_decays_by_hand() -> None:
    assert [LinearDecay(updates=10, floor=0.25).share(done) for done in (0, 5, 9, 99)] == [1, 0.5, 0.25, 0.25]
    assert ExponentialDecay(k=0.5).share(3) == 0.125
    for done in (0, 7, 300):
        by_hand = 10 / (10 + math.exp(done / 10))
        assert InverseSigmoidDecay(k=10).share(done) == pytest.approx(by_hand, rel=1e-12)
    assert InverseSigmoidDecay(k=1).share(10_000) == 0.0  # and no overflow


def test_the_first_update_after_the_beginning_decays_by_nothing() -> None:
    config = ScheduledSampling(decay=LinearDecay(updates=10), begin_update=3)
    assert [config.share(update) for update in (1, 3, 4, 5)] == [1.0, 1.0, 1.0, 0.9]


def test_a_prediction_stands_in_one_place_to_the_right_and_never_for_begin_or_padding() -> None:
    predicted_BT = torch.tensor([[41, 42, 43, 44, 45], [51, 52, 53, 54, 55]])
    never = torch.zeros(INPUT_BT.shape, dtype=torch.bool)
    assert mix(INPUT_BT, predicted_BT, never).tolist() == [[BOS, 41, 42, 43, 44], [BOS, 51, 52, PAD, PAD]]
    assert torch.equal(mix(INPUT_BT, predicted_BT, ~never), INPUT_BT)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("how", ["argmax", "sample"])
def test_what_an_oracle_foresees_is_what_it_is_fed_with_anyway(share: float, how: Literal["argmax", "sample"]) -> None:
    model = Oracle()
    model.matrix_VD.data *= 100  # sure enough for a sample
    torch.manual_seed(1)
    true_BT = torch.rand(INPUT_BT.shape) < share
    config = ScheduledSampling(decay=LINEAR, prediction=how)
    assert torch.equal(mixed_input(model, model.encode(TARGET_BT), INPUT_BT, true_BT, config), INPUT_BT)


@pytest.mark.parametrize("how", ["argmax", "sample"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_as_many_passes_as_positions_are_one_position_after_the_other(
    share: float, how: Literal["argmax", "sample"]
) -> None:
    model = small().eval()
    memory = model.encode(SOURCE_BS)
    true_BT = torch.rand(INPUT_BT.shape, generator=torch.Generator().manual_seed(5)) < share
    config = ScheduledSampling(decay=LINEAR, passes=INPUT_BT.shape[1], prediction=how)
    torch.manual_seed(7)
    found_BT = mixed_input(model, memory, INPUT_BT, true_BT, config)
    torch.manual_seed(7)
    uniform_BT = torch.rand(INPUT_BT.shape)
    fed_BT = INPUT_BT[:, :1]
    for position in range(1, INPUT_BT.shape[1]):
        logits_BV = model.forced(memory, fed_BT)[:, -1].detach()
        predicted_B = predict(logits_BV, uniform_BT[:, position - 1] if how == "sample" else None)
        kept_B = true_BT[:, position] | (INPUT_BT[:, position] == PAD)
        next_B = torch.where(kept_B, INPUT_BT[:, position], predicted_B)
        fed_BT = torch.cat([fed_BT, next_B[:, None]], 1)
    assert torch.equal(found_BT, fed_BT)
    assert not torch.equal(found_BT, INPUT_BT)


@pytest.mark.parametrize("attention", ["none", "multiplicative"])
def test_a_recurrent_decoder_predicts_as_it_goes(attention: str) -> None:
    torch.manual_seed(3)
    config = {"kind": "recurrent", "width": 8, "embedding_width": 8, "dropout": 0.0, "attention": {"kind": attention}}
    model = build_model(RecurrentConfig.model_validate(config), 11, 11).double()
    memory = model.encode(SOURCE_BS)
    true_BT = torch.rand(INPUT_BT.shape, generator=torch.Generator().manual_seed(5)) < 0.5
    found = decode_mixed(model, memory, INPUT_BT, true_BT, ScheduledSampling(decay=LINEAR), attention=False)
    # A parallel decoder needs as many passes as there are positions to do the same.
    passes = ScheduledSampling(decay=LINEAR, passes=INPUT_BT.shape[1])
    fed_BT = mixed_input(model, memory, INPUT_BT, true_BT, passes)
    assert not torch.equal(fed_BT, INPUT_BT)
    torch.testing.assert_close(found.hidden_BTD, model.decode(memory, fed_BT).hidden_BTD)


def test_what_a_recurrent_model_cannot_do_is_refused_by_name() -> None:
    for overrides, text in (
        (
            [
                "scheduled_sampling.decay.kind=linear",
                "scheduled_sampling.decay.updates=5",
                "scheduled_sampling.passes=2",
            ],
            "scheduled_sampling.passes: a recurrent decoder predicts as it goes, in one pass; leave it out",
        ),
        (
            ["coverage_loss=1.0", "model.attention.kind=none"],
            "coverage_loss: it is about where attention looks, but model.attention.kind is none; "
            "choose another, or leave this out",
        ),
        (
            ["initialiser.kind=he", "model.recurrent_initialiser=xavier"],
            "model.recurrent_initialiser: the recipe's initialiser draws the recurrent matrices too; "
            "leave one of them out",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            load_job("copy-transformer", ["model.kind=recurrent", *overrides])
        assert str(caught.value) == f"command line: {text}"


def test_a_beginning_after_the_end_is_refused() -> None:
    decay = ["scheduled_sampling.decay.kind=linear", "scheduled_sampling.decay.updates=5"]
    with pytest.raises(ConfigError) as caught:
        load_job("copy-transformer", [*decay, "scheduled_sampling.begin_update=7", "updates=7"])
    assert str(caught.value) == (
        "command line: scheduled_sampling.begin_update: 7 is not below updates: 7, so it would never act; lower it"
    )


def test_debug_may_end_before_the_sampling_begins() -> None:
    decay = ["scheduled_sampling.decay.kind=linear", "scheduled_sampling.decay.updates=5"]
    job = load_job("copy-transformer", [*decay, "scheduled_sampling.begin_update=7"], debug=True)
    assert isinstance(job.config, Config)
    assert job.config.updates == 5


def test_predictions_are_those_of_all_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(copying=True)
    memory = model.encode(SOURCE_BS)
    decoded = model.decode(memory, INPUT_BT)
    monkeypatch.setitem(cross_entropy.LOGITS_AT_ONCE, "cpu", 1)  # a sentence at a time
    with torch.no_grad():
        found_BT = predictions(model, memory, decoded, None)
        logits_BTV = model.logits(memory, decoded)
    logits_BTV[..., [PAD, BOS]] = -torch.inf
    assert torch.equal(found_BT, logits_BTV.argmax(-1))


def test_samples_follow_the_probabilities() -> None:
    logits_BTV = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.4, 0.2]).log().expand(1, 20_000, 6).clone()
    torch.manual_seed(1)
    drawn_BT = predict(logits_BTV, torch.rand(logits_BTV.shape[:-1]))
    shares = torch.bincount(drawn_BT.flatten(), minlength=6) / drawn_BT.numel()
    torch.testing.assert_close(shares, torch.tensor([0, 0.125, 0, 0.125, 0.5, 0.25]), atol=0.015, rtol=0)


@pytest.mark.parametrize("how", ["argmax", "sample"])
@pytest.mark.parametrize("config", [TransformerConfig(), ConvolutionalConfig(), RecurrentConfig()])
def test_predictions_in_half_precision_take_no_gradient_from_any_weight(
    config: ModelConfig, how: Literal["argmax", "sample"]
) -> None:
    torch.manual_seed(3)
    model = build_model(config.model_copy(update={"dropout": 0.0, "copying": True}), 11, 11)
    loss = TranslationLoss(model, scheduled_sampling=ScheduledSampling(decay=LINEAR, prediction=how))
    loss.true_share = 0.5
    # The predictions are made first, without gradients: a cast that autocast kept of that would have none either.
    with torch.autocast("cpu", torch.bfloat16):
        total = loss(BATCH).total
    total.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


@pytest.mark.parametrize("how", ["argmax", "sample"])
@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_logits_that_are_no_numbers_make_a_loss_that_is_none_and_no_error(
    kind: str, how: Literal["argmax", "sample"]
) -> None:
    model = small() if kind == "transformer" else build_model(RecurrentConfig(embedding_width=8, width=8), 11, 11)
    with torch.no_grad():
        model.output_matrix.fill_(torch.nan)
    loss = TranslationLoss(model, scheduled_sampling=ScheduledSampling(decay=LINEAR, prediction=how))
    loss.true_share = 0.0
    assert loss(BATCH).total.isnan()


def test_a_share_of_one_is_teacher_forcing_bit_for_bit_dropout_and_all() -> None:
    losses = []
    for sampling in (None, ScheduledSampling(decay=LINEAR)):
        loss = TranslationLoss(small(dropout=0.3), 0.1, scheduled_sampling=sampling)
        torch.manual_seed(7)
        losses.append(loss(BATCH).total)
    assert torch.equal(*losses)


def test_with_less_than_one_the_loss_is_that_of_the_mixed_input() -> None:
    model = small()
    loss = TranslationLoss(model, 0.1, scheduled_sampling=ScheduledSampling(decay=LINEAR))
    loss.true_share = 0.4
    torch.manual_seed(7)
    found = loss(BATCH)
    torch.manual_seed(7)
    true_BT = torch.rand(INPUT_BT.shape) < 0.4
    mixed_BT = mixed_input(model, model.encode(SOURCE_BS), INPUT_BT, true_BT, ScheduledSampling(decay=LINEAR))
    assert not torch.equal(mixed_BT, INPUT_BT)
    wanted = TranslationLoss(model, 0.1)(Batch(SOURCE_BS, mixed_BT, TARGET_BT))
    assert torch.equal(found.total, wanted.total)
    gradients = [torch.autograd.grad(terms.total, list(model.parameters())) for terms in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_dropped_words_become_unknown_and_the_rest_stays() -> None:
    seen: list[Tensor] = []

    class Listener(Oracle):
        def encode(self, source_BS: Tensor) -> Memory:
            seen.append(source_BS)
            return super().encode(source_BS)

        def decode(self, memory: Memory, input_BT: Tensor, *, attention: bool = False) -> Decoded:
            seen.extend([memory.source_BS, input_BT])
            return super().decode(memory, input_BT)

    torch.manual_seed(1)
    TranslationLoss(Listener(), 0.1, word_dropout=WordDropout(source=0.999999, target=0.999999))(BATCH)
    encoded_BS, copied_BS, fed_BT = seen
    assert encoded_BS.tolist() == [[UNKNOWN] * 4 + [EOS], [UNKNOWN] * 2 + [EOS, PAD, PAD]]
    assert torch.equal(copied_BS, SOURCE_BS)
    assert fed_BT.tolist() == [[BOS] + [UNKNOWN] * 4, [BOS] + [UNKNOWN] * 2 + [PAD, PAD]]


def test_a_decay_needs_its_constant() -> None:
    with pytest.raises(ConfigError) as caught:
        load_job("copy-transformer", ["scheduled_sampling.decay.kind=inverse_sigmoid"])
    assert str(caught.value) == ("command line: scheduled_sampling.decay.k: missing; add it")
