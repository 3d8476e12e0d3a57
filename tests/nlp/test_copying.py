"""Copying: the mixture by hand, the same with the cache and without, and a loss that is the mixture's.

Axes: B sentences, S source positions, T target positions, N rows, V vocabulary, R real target positions.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from footplate.errors import ConfigError
from footplate.job import load_job
from footplate_nlp import cross_entropy
from footplate_nlp.batches import Batch
from footplate_nlp.convolutional import ConvolutionalConfig
from footplate_nlp.copying import coverage_loss, mixture
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.model import ModelConfig, build_model
from footplate_nlp.recurrent import RecurrentConfig
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.transformer import TransformerConfig

SOURCE_BS = torch.tensor([[5, 6, 5, 7, EOS], [9, 4, EOS, PAD, PAD]])
INPUT_BT = torch.tensor([[BOS, 5, 9, 4], [BOS, 7, PAD, PAD]])
TARGET_BT = torch.tensor([[5, 9, 4, EOS], [7, EOS, PAD, PAD]])
BATCH = Batch(SOURCE_BS, INPUT_BT, TARGET_BT)


def copier(**changes: object) -> Seq2Seq:
    torch.manual_seed(3)
    small = {
        "encoder_layers": 1,
        "decoder_layers": 2,
        "width": 12,
        "feed_forward_width": 20,
        "heads": 3,
        "dropout": 0.0,
    }
    return build_model(TransformerConfig.model_validate({**small, "copying": True, **changes}), 11, 11).double()


def test_the_mixture_by_hand() -> None:
    logits_NV = torch.tensor([[0.2, 0.3, 0.5]]).log()
    found_NV = mixture(
        logits_NV, torch.tensor([math.log(3)]), torch.tensor([[0.5, 0.1, 0.4]]), torch.tensor([[2, 0, 2]])
    )
    # The gate says three quarters; token 2 stands in the source twice, token 1 not at all.
    wanted_NV = torch.tensor([[0.75 * 0.2 + 0.25 * 0.1, 0.75 * 0.3, 0.75 * 0.5 + 0.25 * 0.9]])
    torch.testing.assert_close(found_NV.exp(), wanted_NV)


def test_what_is_not_in_the_source_gives_finite_gradients_however_sure_the_gate_is() -> None:
    logits_NV = torch.zeros(2, 6, requires_grad=True)
    gate_N = torch.tensor([-200.0, 200.0], requires_grad=True)
    attention_NS = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    log_p_NV = mixture(logits_NV, gate_N, attention_NS, torch.tensor([[4, 5], [4, 5]]))
    gradients = torch.autograd.grad(log_p_NV[:, :4].sum(), (logits_NV, gate_N, attention_NS))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_coverage_is_what_was_attended_to_before() -> None:
    attention_BTS = torch.tensor([[[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]]])
    # Before: nothing; (1, 0); (1.25, 0.75).
    torch.testing.assert_close(coverage_loss(attention_BTS), torch.tensor([[0.0, 0.25, 1.0]]))


def test_a_model_that_only_copies_says_what_it_looks_at() -> None:
    model = copier()
    assert model.copying is not None
    torch.nn.init.zeros_(model.copying.gate.weight)
    torch.nn.init.constant_(model.copying.gate.bias, -50.0)
    memory = model.encode(SOURCE_BS)
    attention_BTS = model.decode(memory, INPUT_BT).attention_BTS
    assert attention_BTS is not None
    torch.testing.assert_close(attention_BTS.sum(-1), torch.ones(2, 4).double())
    p_BTV = model.forced(memory, INPUT_BT).exp()
    torch.testing.assert_close(p_BTV[0, :, 5], attention_BTS[0, :, 0] + attention_BTS[0, :, 2])
    assert float(p_BTV[1, :, PAD].detach().max()) < 1e-12  # nobody looks at padding


def test_step_by_step_with_beams_and_leaving_sentences_equals_all_at_once(
    follow_beam: Callable[[Seq2Seq, Tensor, int], None],
) -> None:
    follow_beam(copier(), SOURCE_BS, 6)


@pytest.mark.parametrize(
    "config",
    [
        TransformerConfig(width=12, heads=3, copying=True),
        RecurrentConfig(width=12, embedding_width=12, copying=True),
        ConvolutionalConfig(width=12, embedding_width=12, copying=True),
    ],
)
def test_a_step_repeats_the_source_for_no_row_of_a_beam(config: ModelConfig) -> None:
    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor):
                shapes.add(tuple(found.shape))
            return found

    shapes: set[tuple[int, ...]] = set()
    model = build_model(config, 11, 11).eval()
    with torch.no_grad():
        decoding = model.begin(torch.full((1, 40), 5), beam=7)
        with Shapes():
            assert decoding.step(torch.full((7,), BOS)).shape == (7, 11)
    assert (7, 40, 12) not in shapes
    assert (7, 12) in shapes


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_mixture_however_few_rows_are_made_at_a_time(
    label_smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cross_entropy.LOGITS_AT_ONCE, "cpu", 11 * 4)
    model = copier()
    terms = TranslationLoss(model, label_smoothing)(BATCH)
    log_p_RV = model.forced(model.encode(SOURCE_BS), INPUT_BT)[TARGET_BT != PAD]
    gold_R = TARGET_BT[TARGET_BT != PAD]
    nll = F.nll_loss(log_p_RV, gold_R, reduction="sum")
    naive = (1 - label_smoothing) * nll - label_smoothing * log_p_RV.mean(-1).sum()
    torch.testing.assert_close(terms.total, naive)
    assert float(terms.metrics["train/nll"].total) == pytest.approx(float(nll.detach()))
    parameters = list(model.parameters())
    torch.testing.assert_close(torch.autograd.grad(terms.total, parameters), torch.autograd.grad(naive, parameters))


def test_memory_does_not_grow_with_the_square_of_the_source() -> None:
    generator = torch.Generator().manual_seed(1)
    rows, length, vocabulary = 64, 3000, 40
    hidden_ND = torch.randn(rows, 8, generator=generator).requires_grad_()
    gate_N = torch.zeros(rows, requires_grad=True)
    attention_NS = torch.rand(rows, length, generator=generator).softmax(-1).requires_grad_()
    source_NS = torch.randint(4, vocabulary, (rows, length), generator=generator)
    gold_N = torch.randint(4, vocabulary, (rows,), generator=generator)
    output_VD = torch.randn(vocabulary, 8, generator=generator)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        total, _ = cross_entropy.smoothed_cross_entropy(
            hidden_ND, output_VD, gold_N, 0.1, cross_entropy.Copied(gate_N, attention_NS, source_NS)
        )
    largest = max(event.cpu_memory_usage for event in profiler.events())
    assert largest < 100 * rows * length  # a square would be 3,000 times rows * length
    naive = mixture(hidden_ND @ output_VD.T, gate_N, attention_NS, source_NS)
    wanted = -0.9 * naive.gather(1, gold_N[:, None]).sum() - 0.1 * naive.mean(-1).sum()
    torch.testing.assert_close(total, wanted)


def test_padding_changes_neither_loss_nor_gradients() -> None:
    model = copier()
    wider = Batch(F.pad(SOURCE_BS, (0, 3)), F.pad(INPUT_BT, (0, 2)), F.pad(TARGET_BT, (0, 2)))
    found = [TranslationLoss(model, 0.1, coverage_weight=1.0)(batch) for batch in (BATCH, wider)]
    torch.testing.assert_close(found[0].total, found[1].total)
    gradients = [torch.autograd.grad(terms.total, list(model.parameters())) for terms in found]
    torch.testing.assert_close(*gradients)


def test_a_batch_of_nothing_gives_every_parameter_a_gradient_of_zero() -> None:
    model = copier()
    nothing = torch.tensor([[PAD]])
    terms = TranslationLoss(model, 0.1, coverage_weight=1.0)(Batch(torch.tensor([[EOS]]), nothing, nothing))
    for gradient in torch.autograd.grad(terms.total, list(model.parameters())):
        assert float(gradient.abs().sum()) == 0.0


def total(model: Seq2Seq, coverage_weight: float) -> Tensor:
    found: Tensor = TranslationLoss(model, 0.1, coverage_weight=coverage_weight)(BATCH).total
    return found


@pytest.mark.parametrize("copying", [True, False])
def test_the_coverage_loss_counts_with_its_weight_whether_or_not_the_model_copies(copying: bool) -> None:
    model = copier(copying=copying)
    terms = TranslationLoss(model, 0.1, coverage_weight=0.5)(BATCH)
    again = terms.metrics["train/coverage_loss"]
    assert float(again.total) > 0
    torch.testing.assert_close(terms.total, total(model, 0.0) + 0.5 * again.total)


def test_copying_needs_one_vocabulary() -> None:
    with pytest.raises(ConfigError) as caught:
        load_job("copy-transformer", ["model.copying=true", "vocabulary.joint=false", "model.tie=target"])
    assert str(caught.value) == (
        "command line: model.copying: a source token is copied by its id, but vocabulary.joint is false; "
        "set vocabulary.joint to true, or leave copying out"
    )
