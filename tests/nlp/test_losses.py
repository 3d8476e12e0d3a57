"""The loss: by hand, beside torch's, and blind to padding.

Axes: B sentences, S source positions, T target positions, N real target positions, V target vocabulary.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from footplate_nlp import cross_entropy
from footplate_nlp.batches import Batch, to_batch
from footplate_nlp.cross_entropy import smoothed_cross_entropy
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.model import build_model
from footplate_nlp.symbols import PAD
from footplate_nlp.tokenised import Pairs, Sentences
from footplate_nlp.transformer import TransformerConfig

CONFIG = TransformerConfig(encoder_layers=1, decoder_layers=1, width=8, feed_forward_width=16, heads=2, dropout=0.0)


def loss_of(label_smoothing: float = 0.1) -> TranslationLoss:
    torch.manual_seed(1)
    return TranslationLoss(build_model(CONFIG, 12, 12).double(), label_smoothing)


def batch_of(rows: list[int] | None = None) -> Batch:
    pairs = Pairs(Sentences.of([[5, 6, 7], [8], [9, 4]]), Sentences.of([[9], [10, 11, 4, 5], [6, 6]]))
    return to_batch(pairs, np.array([0, 1, 2] if rows is None else rows), torch.device("cpu"))


def wider(batch: Batch) -> Batch:
    return Batch(*(F.pad(tensor, (0, 3), value=PAD) for tensor in batch))


def gradients(loss: TranslationLoss, batches: list[Batch]) -> tuple[float, float, list[torch.Tensor]]:
    loss.zero_grad()
    terms = [loss(batch) for batch in batches]
    total = torch.stack([term.total for term in terms]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad for parameter in loss.parameters()]
    assert all(grad is not None for grad in grads)
    return total.item(), sum(float(term.count) for term in terms), [grad for grad in grads if grad is not None]


def of_logits(logits_NV: torch.Tensor, gold_N: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of logits that are given: the hidden states, with a matrix that leaves them as they are."""
    return smoothed_cross_entropy(logits_NV, torch.eye(logits_NV.shape[-1], dtype=logits_NV.dtype), gold_N, eps)


def test_the_smoothed_sum_by_hand() -> None:
    logits_NV = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]).log()
    total, nll_N = of_logits(logits_NV, torch.tensor([0, 2]), 0.3)
    first = 0.7 * -math.log(0.7) + 0.1 * -(math.log(0.7) + math.log(0.2) + math.log(0.1))
    second = 0.7 * -math.log(0.5) + 0.1 * -(math.log(0.25) + math.log(0.25) + math.log(0.5))
    assert float(total) == pytest.approx(first + second, abs=1e-6)
    assert nll_N.tolist() == pytest.approx([-math.log(0.7), -math.log(0.5)], abs=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [0, 1, 64, 150])
def test_value_and_gradients_are_those_of_torch_however_few_rows_are_made_at_a_time(
    label_smoothing: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cross_entropy.LOGITS_AT_ONCE, "cpu", 33 * 16)
    generator = torch.Generator().manual_seed(1)
    hidden_ND = (5 * torch.randn(count, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    output_VD = torch.randn(33, 7, generator=generator, dtype=torch.float64).requires_grad_()
    gold_N = torch.randint(33, (count,), generator=generator)
    total, nll_N = smoothed_cross_entropy(hidden_ND, output_VD, gold_N, label_smoothing)
    ours = torch.autograd.grad(0.25 * total, (hidden_ND, output_VD))
    logits_NV = F.linear(hidden_ND, output_VD)
    reference = F.cross_entropy(logits_NV, gold_N, reduction="sum", label_smoothing=label_smoothing)
    theirs = torch.autograd.grad(0.25 * reference, (hidden_ND, output_VD))
    assert torch.allclose(total, reference, rtol=1e-12)
    assert torch.allclose(nll_N, F.cross_entropy(logits_NV, gold_N, reduction="none"), rtol=1e-12)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-10, atol=1e-13)


def test_huge_logits_do_not_overflow() -> None:
    logits_NV = torch.tensor([[1e4, 0.0]], requires_grad=True)
    total, _ = of_logits(logits_NV, torch.tensor([1]), 0.0)
    assert total.item() == 1e4
    assert torch.autograd.grad(total, logits_NV)[0].tolist() == [[1.0, -1.0]]


def test_half_precision_logits_are_summed_in_fp32() -> None:
    logits_NV = torch.randn(2000, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    gold_N = torch.zeros(2000, dtype=torch.long)
    total, _ = of_logits(logits_NV, gold_N, 0.1)
    assert total.dtype == torch.float32
    exact, _ = of_logits(logits_NV.double(), gold_N, 0.1)
    assert float(total) == pytest.approx(float(exact), rel=1e-6)
    half_NV = logits_NV.clone().requires_grad_()
    of_logits(half_NV, gold_N, 0.1)[0].backward()  # type: ignore[no-untyped-call]
    assert half_NV.grad is not None
    assert half_NV.grad.dtype == torch.bfloat16


def test_under_autocast_the_products_are_in_half_precision_and_the_gradients_are_not() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden_ND, output_VD = torch.randn(40, 16, generator=generator), torch.randn(30, 16, generator=generator)
    gold_N = torch.randint(30, (40,), generator=generator)
    exact, *exact_gradients = value_and_gradients(hidden_ND, output_VD, gold_N)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, *rounded_gradients = value_and_gradients(hidden_ND, output_VD, gold_N)
    low, *_ = value_and_gradients(hidden_ND.bfloat16(), output_VD.bfloat16(), gold_N)
    assert rounded.dtype == torch.float32
    assert rounded.item() == low.item() != exact.item()
    for mine, other in zip(rounded_gradients, exact_gradients, strict=True):
        assert mine.dtype == torch.float32
        assert torch.allclose(mine, other, atol=0.05)


def value_and_gradients(hidden_ND: torch.Tensor, output_VD: torch.Tensor, gold_N: torch.Tensor) -> list[torch.Tensor]:
    hidden_ND, output_VD = hidden_ND.clone().requires_grad_(), output_VD.clone().requires_grad_()
    total, _ = smoothed_cross_entropy(hidden_ND, output_VD, gold_N, 0.1)
    return [total.detach(), *torch.autograd.grad(total, (hidden_ND, output_VD))]


def test_more_columns_of_padding_change_neither_loss_nor_gradient() -> None:
    loss = loss_of()
    total, count, grads = gradients(loss, [batch_of()])
    wide_total, wide_count, wide_grads = gradients(loss, [wider(batch_of())])
    assert count == wide_count == 2 + 5 + 3
    assert total == pytest.approx(wide_total, rel=1e-12)
    for grad, wide_grad in zip(grads, wide_grads, strict=True):
        assert torch.allclose(grad, wide_grad, rtol=1e-9, atol=1e-12)


def test_a_batch_in_pieces_has_the_sum_of_their_losses_and_gradients() -> None:
    loss = loss_of()
    total, count, grads = gradients(loss, [batch_of()])
    pieces = [batch_of([1]), batch_of([0, 2]), batch_of([])]
    cut_total, cut_count, cut_grads = gradients(loss, pieces)
    assert count == cut_count
    assert total == pytest.approx(cut_total, rel=1e-12)
    for grad, cut_grad in zip(grads, cut_grads, strict=True):
        assert torch.allclose(grad, cut_grad, rtol=1e-9, atol=1e-12)


def test_an_empty_piece_counts_nothing_and_gives_every_parameter_a_zero_gradient() -> None:
    total, count, grads = gradients(loss_of(), [batch_of([])])
    assert (total, count) == (0.0, 0.0)
    assert all(bool((grad == 0).all()) for grad in grads)


def test_nll_is_reported_without_smoothing() -> None:
    smooth, plain = loss_of(0.1)(batch_of()), loss_of(0.0)(batch_of())
    assert float(smooth.metrics["train/nll"].total) == pytest.approx(plain.total.item())
    assert smooth.total.item() != pytest.approx(plain.total.item())
    assert not torch.as_tensor(smooth.metrics["train/nll"].total).requires_grad
