"""Initialisers: how the weights of a model begin where the recipe chooses, one configuration for each kind.

In the formulas a weight has n inputs and m outputs (a convolution: each times the size of its kernel). Drawn anew are
the weights of linear maps, convolutions and recurrent cells, and their biases set, but for those of recurrent cells.
Embeddings (the pad row among them), norms, and whatever else is a bare parameter of a module (ReZero's alphas) stay as
the model has made them: their scale belongs to its formulas. A weight that holds several side by side, such as queries,
keys and values or the gates of a cell, is drawn block by block: each block is a map of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from footplate.section import Number, Positive, Section


@runtime_checkable
class DrawsItsWeights(Protocol):
    """A module whose weight is drawn in blocks, or is not drawn itself but follows from what is."""

    def draw_weights(self, draw: Callable[[Tensor], object]) -> None:
        """Call `draw` with each matrix (outputs first), which it fills."""
        ...


class _Distribution(Section, ABC):
    """What every initialiser can be told."""

    kind: str
    bias: Number = 0.0
    """What biases start at. 0.1 keeps rectified units alive at first (Goodfellow et al. 2016, section 6.3)."""

    @abstractmethod
    def draw(self, weight: Tensor) -> None:
        """Fill the weight, outputs first, from torch's global generator."""


class FanIn(_Distribution):
    """Uniform within 1 / sqrt(n). Source: Bottou 2012, "Stochastic gradient descent tricks" (LeCun et al. 1998)."""

    kind: Literal["fan_in"] = "fan_in"

    def draw(self, weight: Tensor) -> None:
        bound = weight[0].numel() ** -0.5
        nn.init.uniform_(weight, -bound, bound)


class Glorot(_Distribution):
    """Variance 2 / (n + m). Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks", eq. 12 and 16."""

    kind: Literal["glorot"] = "glorot"
    distribution: Literal["uniform", "normal"] = "uniform"
    """The paper's is uniform."""

    def draw(self, weight: Tensor) -> None:
        (nn.init.xavier_uniform_ if self.distribution == "uniform" else nn.init.xavier_normal_)(weight)


class He(_Distribution):
    """Variance 2 / n, for rectified units. Source: He et al. 2015, "Delving deep into rectifiers", eq. 10."""

    kind: Literal["he"] = "he"
    distribution: Literal["uniform", "normal"] = "normal"
    """The paper's is normal."""

    def draw(self, weight: Tensor) -> None:
        draw = nn.init.kaiming_uniform_ if self.distribution == "uniform" else nn.init.kaiming_normal_
        draw(weight, nonlinearity="relu")


class Orthogonal(_Distribution):
    """gain Q, with rows or columns (whichever are fewer) orthogonal and of length 1.

    Source: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".
    """

    kind: Literal["orthogonal"] = "orthogonal"
    gain: Positive = 1.0
    """What the orthogonal matrix is multiplied by."""

    def draw(self, weight: Tensor) -> None:
        nn.init.orthogonal_(weight, self.gain)


class Gaussian(_Distribution):
    """Normal with mean 0."""

    kind: Literal["gaussian"] = "gaussian"
    standard_deviation: Positive = 0.01
    """Of each weight, whatever the size of its matrix."""

    def draw(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=self.standard_deviation)


Initialiser = Annotated[FanIn | Glorot | He | Orthogonal | Gaussian, Field(discriminator="kind")]

_GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.RNN: 1, nn.RNNCell: 1}
_MAPS = (nn.Linear, nn.modules.conv._ConvNd)


@torch.no_grad()
def initialise(module: nn.Module, initialiser: Initialiser | None) -> None:
    """Draw the weights of all parts of the module anew; None leaves them as the model made them.

    The numbers follow from torch's global generator and from the order of the parts: seed it first.
    """
    if initialiser is None:
        return
    for part in module.modules():
        if type(part) in _GATES:
            _draw_gates(part, _GATES[type(part)], initialiser)
            continue
        if isinstance(part, DrawsItsWeights):
            part.draw_weights(initialiser.draw)
        elif isinstance(part, _MAPS):
            initialiser.draw(part.weight)
        else:
            continue
        if isinstance(part.bias, Tensor):
            nn.init.constant_(part.bias, initialiser.bias)


def _draw_gates(cell: nn.Module, gates: int, initialiser: Initialiser) -> None:
    for name, weight in cell.named_parameters(recurse=False):
        if name.startswith("weight"):
            # A projected LSTM's last matrix is one map, not one for each gate.
            for gate in weight.chunk(1 if "_hr" in name else gates):
                initialiser.draw(gate)
