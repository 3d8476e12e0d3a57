"""The exponential moving average of a model's weights, which often scores better than the weights themselves."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class ExponentialAverage(Generic[Module]):
    """w' <- d w' + (1 - d) w after each update, with d = min(decay, (1 + n) / (10 + n)) after update n.

    The smaller d of the first updates forgets the random start. `model` is a copy of the module in evaluation mode that
    holds w'; save it as a part of the checkpoint. Equal on all ranks, as the weights are.
    Source: Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging", with exponential weights;
    the ramp is TensorFlow's (`ExponentialMovingAverage`, `num_updates`).
    """

    model: Module

    def __init__(self, model: Module, decay: float) -> None:
        """A copy of the weights as they are; `model` itself is followed from then on."""
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        self._followed: tuple[list[Tensor], list[Tensor]] = list(model.parameters()), list(model.buffers())

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take in the weights after update `number` (the first is 1); buffers are copied."""
        decay = min(self._decay, (1 + number) / (10 + number))
        parameters, buffers = self._followed
        torch._foreach_lerp_(list(self.model.parameters()), parameters, 1 - decay)
        for mine, theirs in zip(self.model.buffers(), buffers, strict=True):
            mine.copy_(theirs)
