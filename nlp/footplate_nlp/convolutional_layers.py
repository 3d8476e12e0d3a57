"""The layers of ConvS2S: weight-normalised maps, gated convolutions, and attention in each decoder layer.

Axes: B sentences, S source positions, T target positions (or, in search, the hypotheses of a sentence), D width,
E width of embeddings, W numbers in a window of k positions (k D, the earliest position first).
Source: Gehring et al. 2017, "Convolutional sequence to sequence learning"; the section numbers are theirs. Weight
normalisation: Salimans & Kingma 2016, "Weight normalization", eq. 2.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from footplate_nlp.dropout import Dropout
from footplate_nlp.seq2seq import Memory

ROOT_HALF = 0.5**0.5
"""What keeps the variance of a sum of two where theirs was (section 3.4)."""


class Affine(NamedTuple):
    """x weight^T + bias, ready to be applied."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class NormalisedLinear(nn.Module):
    """An affine map in which a row's length and its direction are learned apart: w = length v / |v|.

    At first w = v is normal with standard deviation sqrt(`variance` / inputs): that keeps the variance of what passes
    through at `variance` times its input's (section 3.5).
    """

    def __init__(self, inputs: int, outputs: int, variance: float = 1.0) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(outputs, inputs))
        self.length = nn.Parameter(torch.empty(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.draw_weights(lambda weight: nn.init.normal_(weight, std=(variance / inputs) ** 0.5))

    def draw_weights(self, draw: Callable[[Tensor], object]) -> None:
        """Begin with what `draw` puts into the weight."""
        draw(self.direction.data)
        self.length.data.copy_(self.direction.data.norm(dim=1))

    def decaying(self) -> Sequence[nn.Parameter]:
        """The lengths: how long the directions are changes nothing."""
        return [self.length]

    def affine(self) -> Affine:
        """The map, its rows normalised once: for all that is computed until the weights change."""
        return Affine(self.direction * (self.length / self.direction.norm(dim=1))[:, None], self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.affine()(x)


class Convolution(NormalisedLinear):
    """From windows to what gates and what is gated: two blocks of rows, for a gated linear unit after dropout.

    The unit is taken to quarter the variance, which dropout has divided by 1 - p: hence 4 (1 - p).
    """

    def __init__(self, kernel: int, width: int, dropout: float) -> None:
        super().__init__(kernel * width, 2 * width, 4 * (1 - dropout))

    def draw_weights(self, draw: Callable[[Tensor], object]) -> None:
        for block in self.direction.data.chunk(2):
            draw(block)
        self.length.data.copy_(self.direction.data.norm(dim=1))


def windows(x_BTD: Tensor, before: int, after: int) -> Tensor:
    """windows_BTW: each position with so many `before` and `after` it, zeros beyond the ends."""
    length = x_BTD.shape[1]
    padded = F.pad(x_BTD, (0, 0, before, after))
    return torch.cat([padded[:, first : first + length] for first in range(before + 1 + after)], -1)


class EncoderLayer(nn.Module):
    """sqrt(1/2) (x + GLU(convolution(x))), section 3.2."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.side = kernel // 2
        self.dropout = Dropout(dropout)
        self.convolution = Convolution(kernel, width, dropout)

    def forward(self, x_BSD: Tensor, hidden_BS1: Tensor) -> Tensor:
        """`hidden` is True at padding, which a convolution must find as empty as what lies beyond the end."""
        seen_BSD = self.dropout(x_BSD).masked_fill(hidden_BS1, 0.0)
        gated_BSD = F.glu(self.convolution(windows(seen_BSD, self.side, self.side)))
        return (x_BSD + gated_BSD) * ROOT_HALF


class Source(NamedTuple):
    """What each attention is given: the same in every layer."""

    key_BSE: Tensor
    """The encoder's output."""
    value_BSE: Tensor
    """The encoder's output and the source's embeddings."""
    hidden_B1S: Tensor
    """0, or -inf where there is nothing to look at."""
    scale_B11: Tensor
    """sqrt(m), m the source's length: m sqrt(1/m) in section 3.4, as if attention were even."""


def source_of(memory: Memory) -> Source:
    """What a convolutional decoder attends to, of what its encoder found."""
    (value_BSE,) = memory.extra
    hidden_B1S = value_BSE.new_zeros(memory.attend_BS.shape).masked_fill_(~memory.attend_BS, float("-inf"))[:, None]
    scale_B11 = memory.attend_BS.sum(1).to(value_BSE).sqrt()[:, None, None]
    return Source(memory.states_BSD, value_BSE, hidden_B1S, scale_B11)


class Affines(NamedTuple):
    """The maps of a decoder layer, ready to be applied."""

    convolution: Affine
    query: Affine
    context: Affine


class DecoderLayer(nn.Module):
    """A causal gated convolution, then attention to the source (section 3.3), each added with sqrt(1/2)."""

    def __init__(self, width: int, embedding_width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.before = kernel - 1
        self.dropout = Dropout(dropout)
        self.convolution = Convolution(kernel, width, dropout)
        self.query = NormalisedLinear(width, embedding_width)
        self.context = NormalisedLinear(embedding_width, width)

    def affines(self) -> Affines:
        """The maps as they are now."""
        return Affines(self.convolution.affine(), self.query.affine(), self.context.affine())

    def forward(self, x_BTD: Tensor, input_BTE: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """What the layer makes, BTD, and where it looked, BTS."""
        windows_BTW = windows(self.dropout(x_BTD), self.before, 0)
        return self.look(x_BTD, windows_BTW, input_BTE, source, self.affines())

    def look(
        self, x_BTD: Tensor, windows_BTW: Tensor, input_BTE: Tensor, source: Source, affines: Affines
    ) -> tuple[Tensor, Tensor]:
        """`forward`, of windows: each position for itself, so that in search T may count hypotheses."""
        gated_BTD = F.glu(affines.convolution(windows_BTW))
        query_BTE = (affines.query(gated_BTD) + input_BTE) * ROOT_HALF
        hidden_BTS = source.hidden_B1S.expand(-1, query_BTE.shape[1], -1)
        scores_BTS = torch.baddbmm(hidden_BTS, query_BTE, source.key_BSE.transpose(1, 2))
        weights_BTS = scores_BTS.softmax(-1, torch.promote_types(scores_BTS.dtype, torch.float32))
        seen_BTE = (weights_BTS.to(source.value_BSE) @ source.value_BSE) * source.scale_B11
        attended_BTD = (affines.context(seen_BTE) + gated_BTD) * ROOT_HALF
        return (x_BTD + attended_BTD) * ROOT_HALF, weights_BTS
