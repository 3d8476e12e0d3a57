"""Dropout: its expectation, its mask, its seed."""

import pytest
import torch

from footplate_nlp.dropout import Dropout


@pytest.mark.parametrize("shape", [(1,), (7, 3), (64, 50, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_keeps_the_expectation(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    dropped = Dropout(0.25).train()(torch.ones(shape, dtype=dtype))
    assert dropped.dtype == dtype
    assert set(dropped.unique().tolist()) <= {0.0, torch.tensor(4 / 3, dtype=dtype).item()}
    if dropped.numel() > 10_000:
        share = (dropped == 0).double().mean().item()
        assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / dropped.numel()) ** 0.5)


def test_the_gradient_of_dropout_is_its_mask() -> None:
    torch.manual_seed(4)
    x = torch.full((100,), 2.0, requires_grad=True)
    dropped = Dropout(0.5).train()(x)
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    torch.testing.assert_close(gradient * 2, dropped)
    assert 20 < torch.count_nonzero(gradient) < 80


def test_the_mask_follows_from_the_seed_alone() -> None:
    dropout, x = Dropout(0.5).train(), torch.ones(1000)
    torch.manual_seed(1)
    first = dropout(x)
    assert not torch.equal(dropout(x), first)
    torch.manual_seed(1)
    assert torch.equal(dropout(x.double()), first.double())


def test_nothing_is_dropped_in_evaluation_or_with_probability_zero() -> None:
    x = torch.ones(1000)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
