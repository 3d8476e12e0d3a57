"""Attention of a recurrent decoder to the source.

Axes: B sentences, T queries (target positions, or the rows of a sentence in search), S source positions, D width of
decoder and attention, E width of the encoder's states.
Sources: Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate", appendix A.1.2
(additive); Luong et al. 2015, "Effective approaches to attention-based neural machine translation", eq. 5 and `general`
(multiplicative) and section 3.3 (input feeding); See et al. 2017, "Get to the point", eq. 11 (coverage).
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from footplate.section import Section


class NoAttention(Section):
    """The decoder knows of the source what its initial state holds (Sutskever et al. 2014)."""

    kind: Literal["none"] = "none"


class Additive(Section):
    """score = v . tanh(W query + U state + b)."""

    kind: Literal["additive"] = "additive"
    coverage: bool = False
    """Whether the scores see how much each source position has been looked at so far. Costs a loop over positions."""
    input_feeding: bool = True
    """Whether a position is fed with what the one before has made of its attention. Costs the fused kernels."""


class Multiplicative(Section):
    """score = query . U state."""

    kind: Literal["multiplicative"] = "multiplicative"
    coverage: bool = False
    """Whether the scores see how much each source position has been looked at so far. Costs a loop over positions."""
    input_feeding: bool = True
    """Whether a position is fed with what the one before has made of its attention. Costs the fused kernels."""


MIXED_AT_ONCE = 1 << 22
"""How many numbers additive attention mixes at a time: 16 MB."""

AttentionConfig = Annotated[NoAttention | Additive | Multiplicative, Field(discriminator="kind")]


class Source(NamedTuple):
    """What attention needs of the source, whatever the position."""

    states_BSE: Tensor
    keys_BSD: Tensor
    """From `Attention.remember`."""
    attend_BS: Tensor


class Attention(nn.Module):
    """hidden = tanh(C [context; query]): the source as seen from a query, where it was looked at, and both together."""

    def __init__(self, config: Additive | Multiplicative, width: int, states_width: int) -> None:
        super().__init__()
        self.keys = nn.Linear(states_width, width, bias=False)
        additive = isinstance(config, Additive)
        self.query = nn.Linear(width, width) if additive else None
        self.score_D = nn.Parameter(torch.empty(width)) if additive else None
        self.output = nn.Linear(states_width + width, width, bias=False)
        for linear in (self.keys, self.query, self.output):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)
        if self.query is not None:
            nn.init.zeros_(self.query.bias)
        if self.score_D is not None:
            nn.init.xavier_uniform_(self.score_D.data[None])
        self.coverage_D = nn.Parameter(torch.zeros(width)) if config.coverage else None

    def remember(self, states_BSE: Tensor, attend_BS: Tensor) -> Source:
        """The keys, once for each sentence."""
        return Source(states_BSE, self.keys(states_BSE), attend_BS)

    def forward(self, query_BTD: Tensor, source: Source, coverage_BTS: Tensor | None) -> tuple[Tensor, Tensor]:
        """(hidden_BTD, weights_BTS); weights are in fp32 or better, nothing where there is padding."""
        scores_BTS = self._scores(query_BTD, source.keys_BSD, coverage_BTS)
        real = torch.promote_types(scores_BTS.dtype, torch.float32)
        weights_BTS = scores_BTS.masked_fill(~source.attend_BS[:, None], float("-inf")).softmax(-1, real)
        context_BTE = weights_BTS.to(source.states_BSE.dtype) @ source.states_BSE
        hidden_BTD: Tensor = self.output(torch.cat([context_BTE, query_BTD], -1)).tanh()
        return hidden_BTD, weights_BTS

    def _scores(self, query_BTD: Tensor, keys_BSD: Tensor, coverage_BTS: Tensor | None) -> Tensor:
        """scores_BTS; coverage moves each key by w c, with c how much it has been looked at: eq. 11 of See et al.

        Theirs is additive; of a product it is query . (key + w c).
        """
        if self.query is None or self.score_D is None:
            scores_BTS = query_BTD @ keys_BSD.transpose(1, 2)
            if self.coverage_D is not None and coverage_BTS is not None:
                scores_BTS = scores_BTS + (query_BTD @ self.coverage_D)[..., None] * coverage_BTS
            return scores_BTS
        asked = torch.split(self.query(query_BTD), max(1, MIXED_AT_ONCE // keys_BSD.numel()), 1)
        found, first = [], 0
        for asked_BTD in asked:
            covered_BTS = None if coverage_BTS is None else coverage_BTS[:, first : first + asked_BTD.shape[1]]
            inputs = asked_BTD, keys_BSD, covered_BTS
            found.append(checkpoint(self._additive, *inputs, use_reentrant=False, preserve_rng_state=False))
            first += asked_BTD.shape[1]
        return torch.cat(found, 1)

    def _additive(self, asked_BTD: Tensor, keys_BSD: Tensor, coverage_BTS: Tensor | None) -> Tensor:
        """scores_BTS of some queries. What is mixed is B T S D numbers: made again for the gradient, never kept."""
        assert self.score_D is not None
        mixed_BTSD = asked_BTD[:, :, None] + keys_BSD[:, None]
        if self.coverage_D is not None and coverage_BTS is not None:
            mixed_BTSD = mixed_BTSD + coverage_BTS[..., None] * self.coverage_D
        return torch.matmul(mixed_BTSD.tanh(), self.score_D)
