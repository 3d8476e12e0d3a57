"""The moving average of weights: by hand, with its ramp, ties and buffers."""

import torch
from torch import nn

from footplate.ema import ExponentialAverage


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.zeros(1))


def test_it_follows_the_weights_as_the_formula_says() -> None:
    model = Tied()
    average = ExponentialAverage(model, 0.25)
    with torch.no_grad():
        model.first.weight.fill_(1.0)
    average.model.first.weight.fill_(0.0)
    average.update(1)  # (1 + 1) / (10 + 1) = 2/11 is below 0.25
    torch.testing.assert_close(average.model.first.weight, torch.full((2, 2), 9 / 11))
    average.update(100)
    torch.testing.assert_close(average.model.first.weight, torch.full((2, 2), 0.25 * 9 / 11 + 0.75))


def test_it_is_a_copy_with_the_same_ties_and_buffers_that_takes_no_gradient() -> None:
    model = Tied()
    average = ExponentialAverage(model, 0.9)
    assert average.model.first.weight is average.model.second.weight
    assert average.model.first.weight is not model.first.weight
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.get_buffer("seen").fill_(3.0)
    average.update(1)
    assert float(average.model.get_buffer("seen")) == 3.0
