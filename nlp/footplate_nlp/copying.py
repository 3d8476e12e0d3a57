"""Copying source tokens into the target, and the penalty for looking at the same ones again and again.

Source: See et al. 2017, "Get to the point: summarization with pointer-generator networks"; the numbers are those of its
equations. Their generation probability p_gen is our `gate` after a sigmoid.

Axes: B sentences, S source positions, T target positions, N rows (or any leading axes), D width of the decoder, E width
of what is attended to, I width of the embedded input, V vocabulary of both sides.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Copying(nn.Module):
    """The gate between writing a token of the vocabulary and copying one of the source."""

    def __init__(self, hidden_width: int, states_width: int, input_width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_width + states_width + input_width, 1)
        nn.init.xavier_uniform_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, hidden_BTD: Tensor, attention_BTS: Tensor, states_BSE: Tensor, input_BTI: Tensor) -> Tensor:
        """gate_BT, eq. 8 before its sigmoid: of the attended source, the decoder's state and its input."""
        context_BTE = attention_BTS.to(states_BSE) @ states_BSE
        gate_BT: Tensor = self.gate(torch.cat([context_BTE, hidden_BTD, input_BTI], -1))[..., 0]
        return gate_BT


def mixture(logits_NV: Tensor, gate_N: Tensor, attention_NS: Tensor, source_NS: Tensor) -> Tensor:
    """log_probabilities_NV in fp32 or better, eq. 9: p_gen softmax(logits) + (1 - p_gen) * attention to that token.

    A token that stands several times in the source collects all its attention. Ids must mean the same on both sides.
    """
    real = torch.promote_types(logits_NV.dtype, torch.float32)
    logits_NV, gate_N1, attention_NS = logits_NV.to(real), gate_N.to(real)[..., None], attention_NS.to(real)
    copied_NV = torch.zeros_like(logits_NV).scatter_add(-1, source_NS, attention_NS)
    # Most tokens are not in the source. Clamped, the logarithm of nothing has the gradient 0 and not 0 / 0.
    copied_NV = copied_NV.clamp_min(torch.finfo(real).tiny).log()
    return torch.logaddexp(F.logsigmoid(gate_N1) + logits_NV.log_softmax(-1), F.logsigmoid(-gate_N1) + copied_NV)


def coverage_loss(attention_BTS: Tensor) -> Tensor:
    """loss_BT, eq. 13: sum over s of min(attention, coverage); eq. 10: coverage is the sum of attention so far.

    Between 0 (always looking elsewhere) and 1 (always looking at what was looked at before).
    """
    attention_BTS = attention_BTS.float() if attention_BTS.dtype != torch.float64 else attention_BTS
    coverage_BTS = attention_BTS.cumsum(1) - attention_BTS
    return torch.minimum(attention_BTS, coverage_BTS).sum(-1)
