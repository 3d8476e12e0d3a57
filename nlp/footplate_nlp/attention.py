"""Scaled dot-product attention: whole sequences in training, one position at a time with a cache in search.

Axes: B sentences, T or Q queries, S keys, D width, H heads, E width of a head, N rows of hypotheses (K for each
sentence), G groups of queries that share keys.
Source: Vaswani et al. 2017, "Attention is all you need", section 3.2: softmax(Q K^T / sqrt(E)) V for each head.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from footplate_nlp.dropout import Dropout


class SourceCache(NamedTuple):
    """What attention to the source needs at each step: for each sentence, whatever the beam."""

    key_value_2BHSE: Tensor
    """Keys and values, from `CrossAttention.remember`."""
    hidden_BS: Tensor
    """0, or -inf where there is nothing to look at."""
    hidden_G1S: Tensor
    """The same for each head of each sentence."""


class Attention(nn.Module):
    """What self-attention and attention to the source share: the heads, and the projection that joins them."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def split(self, x_BTD: Tensor) -> Tensor:
        """x_BHTE, a view."""
        batch, length, width = x_BTD.shape
        return x_BTD.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def attend(
        self, query_BTD: Tensor, key_BSD: Tensor, value_BSD: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Each query's mixture of the values, BTD. `mask` is True where a query may look and broadcasts to BHTS.

        A fused kernel does it, unless attention itself is dropped out: on a CPU that kernel knows no dropout.
        """
        query_BHTE, key_BHSE, value_BHSE = self.split(query_BTD), self.split(key_BSD), self.split(value_BSD)
        if self.training and self.dropout.probability:
            scores_BHTS = (query_BHTE * self.scale) @ key_BHSE.transpose(-1, -2)
            if causal:
                mask = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool, device=scores_BHTS.device).tril()
            if mask is not None:
                scores_BHTS = scores_BHTS.masked_fill(~mask, float("-inf"))
            mixed_BHTE = self.dropout(scores_BHTS.softmax(-1)).to(value_BHSE.dtype) @ value_BHSE
        else:
            mixed_BHTE = F.scaled_dot_product_attention(query_BHTE, key_BHSE, value_BHSE, mask, is_causal=causal)
        out_BTD: Tensor = self.output(mixed_BHTE.transpose(1, 2).flatten(2))
        return out_BTD

    def weights(self, query_BTD: Tensor, key_BSD: Tensor, mask: Tensor) -> Tensor:
        """weights_BTS: where each query looks, the mean over the heads, in fp32 or better; nothing is dropped out."""
        query_BHTE, key_BHSE = self.split(query_BTD), self.split(key_BSD)
        scores_BHTS = (query_BHTE * self.scale) @ key_BHSE.transpose(-1, -2)
        real = torch.promote_types(scores_BHTS.dtype, torch.float32)
        weights_BTS: Tensor = scores_BHTS.masked_fill(~mask, float("-inf")).softmax(-1, real).mean(1)
        return weights_BTS

    def attend_once(self, query_GQE: Tensor, key_GSE: Tensor, value_GSE: Tensor, hidden_G1S: Tensor) -> Tensor:
        """mixed_GQE for a handful of queries in each group; `hidden` is 0, or -inf where not to look.

        For so few queries plain batched products beat the fused kernel on a CPU, and the mask rides along for nothing.
        """
        groups, queries = query_GQE.shape[:2]
        scores_GQS = torch.baddbmm(
            hidden_G1S.expand(groups, queries, -1), query_GQE, key_GSE.transpose(1, 2), alpha=self.scale
        )
        return torch.bmm(scores_GQS.softmax(-1).to(value_GSE.dtype), value_GSE)


class SelfAttention(Attention):
    """A sequence attends to itself; queries, keys and values come from one product."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.query_key_value = Projections(width, 3)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        query_BTD, key_BTD, value_BTD = self.query_key_value(x_BTD).chunk(3, -1)
        return self.attend(query_BTD, key_BTD, value_BTD, mask, causal)

    def step(self, x_ND: Tensor, past_T2ND: Tensor, position: int, hidden_T: Tensor) -> Tensor:
        """One position after `position` others whose keys and values are in the past; writes this one's there.

        The past may be longer than what was written: `hidden_T` is -inf beyond.
        """
        rows, width = x_ND.shape
        projected_N3D = self.query_key_value(x_ND).view(rows, 3, width)
        past_T2ND[position] = projected_N3D[:, 1:].transpose(0, 1)
        key_GTE, value_GTE = past_T2ND.view(len(past_T2ND), 2, rows * self.heads, -1).permute(1, 2, 0, 3)
        query_G1E = projected_N3D[:, 0].reshape(rows * self.heads, 1, -1)
        out_ND: Tensor = self.output(self.attend_once(query_G1E, key_GTE, value_GTE, hidden_T).view(rows, width))
        return out_ND


class CrossAttention(Attention):
    """The target attends to the encoded source."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.query = Projections(width, 1)
        self.key_value = Projections(width, 2)

    def forward(self, x_BTD: Tensor, states_BSD: Tensor, mask: Tensor) -> Tensor:
        key_BSD, value_BSD = self.key_value(states_BSD).chunk(2, -1)
        return self.attend(self.query(x_BTD), key_BSD, value_BSD, mask)

    def look(self, x_BTD: Tensor, states_BSD: Tensor, mask: Tensor) -> Tensor:
        """weights_BTS: where `forward` looks. The products are made anew: not to look costs nothing."""
        key_BSD, _ = self.key_value(states_BSD).chunk(2, -1)
        return self.weights(self.query(x_BTD), key_BSD, mask)

    def remember(self, states_BSD: Tensor) -> Tensor:
        """The source's keys and values, once for each sentence however wide the beam: 2BHSE, contiguous."""
        sentences, length, _ = states_BSD.shape
        key_value = self.key_value(states_BSD).view(sentences, length, 2, self.heads, -1)
        key_value_2BHSE: Tensor = key_value.permute(2, 0, 3, 1, 4).contiguous()
        return key_value_2BHSE

    def step(self, x_ND: Tensor, source: SourceCache) -> Tensor:
        """One position of each row; the rows of a sentence share its keys. G runs over sentences and heads."""
        key_GSE, value_GSE = source.key_value_2BHSE.flatten(1, 2)
        query_BHKE = self._queries(x_ND, source)
        mixed_GKE = self.attend_once(query_BHKE.flatten(0, 1), key_GSE, value_GSE, source.hidden_G1S)
        out_ND: Tensor = self.output(mixed_GKE.view_as(query_BHKE).transpose(1, 2).reshape(x_ND.shape))
        return out_ND

    def look_once(self, x_ND: Tensor, source: SourceCache) -> Tensor:
        """weights_NS: where `step` looks."""
        key_BHSE = source.key_value_2BHSE[0]
        scores_BHKS = (self._queries(x_ND, source) * self.scale) @ key_BHSE.transpose(-1, -2)
        scores_BHKS = scores_BHKS + source.hidden_BS[:, None, None]
        real = torch.promote_types(scores_BHKS.dtype, torch.float32)
        weights_NS: Tensor = scores_BHKS.softmax(-1, real).mean(1).flatten(0, 1)
        return weights_NS

    def _queries(self, x_ND: Tensor, source: SourceCache) -> Tensor:
        """query_BHKE of the rows of each sentence."""
        sentences, width = source.key_value_2BHSE.shape[1], source.key_value_2BHSE.shape[-1]
        query_BHKE: Tensor = self.query(x_ND).view(sentences, -1, self.heads, width).transpose(1, 2)
        return query_BHKE


class Projections(nn.Linear):
    """`count` square projections side by side in one product, each with Xavier's bound divided by sqrt(2).

    It is the bound of queries, keys and values as one 3D x D matrix; fairseq's choice for all attentions.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__(width, count * width)
        self.draw_weights(lambda square: nn.init.xavier_uniform_(square, gain=2**-0.5))
        nn.init.zeros_(self.bias)

    def draw_weights(self, draw: Callable[[Tensor], object]) -> None:
        """Begin with what `draw` puts into each of them."""
        for square in torch.split(self.weight.data, self.in_features):
            draw(square)
