"""Cross-entropy with label smoothing over a large vocabulary, in bounded memory; with copying and without.

Axes: B sentences, S source positions, T target positions, N real (not padded) target positions, R some of these N,
D width, V target vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from footplate_nlp.copying import mixture
from footplate_nlp.seq2seq import Decoded, Memory, Seq2Seq
from footplate_nlp.symbols import PAD

LOGITS_AT_ONCE = {"cpu": 1 << 21}
"""How many logits exist at a time. On a CPU 8 MB, which stay in its cache and in memory that the process has already:
for all logits of a batch the kernel would have to hand out, and clear, the pages anew in each update."""
LOGITS_AT_ONCE_ELSEWHERE = 1 << 26


def cross_entropy(
    model: Seq2Seq, memory: Memory, decoded: Decoded, target_BT: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """(total, nll) over the real target tokens, of any model; see `TranslationLoss`. Only the total has a gradient."""
    real_BT = target_BT != PAD
    hidden_ND, gold_N = decoded.hidden_BTD[real_BT], target_BT[real_BT]
    if decoded.gate_BT is None or decoded.attention_BTS is None:
        return smoothed_cross_entropy(hidden_ND, model.output_matrix, gold_N, label_smoothing)
    source_NS = memory.source_BS[real_BT.nonzero()[:, 0]]
    copied = decoded.gate_BT[real_BT], decoded.attention_BTS[real_BT], source_NS
    return copying_cross_entropy(hidden_ND, model.output_matrix, copied, gold_N, label_smoothing)


def copying_cross_entropy(
    hidden_ND: Tensor,
    output_VD: Tensor,
    copied: tuple[Tensor, Tensor, Tensor],
    gold_N: Tensor,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """(total, nll) where `copied`, (gate_N, attention_NS, source_NS), has its share: the smoothing is of the mixture.

    Some rows of the vocabulary's probabilities at a time, made again for the gradient: memory for all would not do.
    """
    rows = _rows_at_once(hidden_ND, len(output_VD))
    total, nll = (hidden_ND.new_zeros((), dtype=_real(hidden_ND.dtype)) for _ in range(2))

    def score(hidden_RD: Tensor, gate_R: Tensor, attention_RS: Tensor, output_VD: Tensor, here: slice) -> Tensor:
        log_p_RV = mixture(F.linear(hidden_RD, output_VD), gate_R, attention_RS, copied[2][here])
        gold = -log_p_RV.gather(-1, gold_N[here, None]).sum()
        return torch.stack([gold, -log_p_RV.mean(-1).sum()])

    for first in range(0, max(1, len(hidden_ND)), rows):  # of no rows at all, the loss still has a gradient: zero
        here = slice(first, first + rows)
        inputs = hidden_ND[here], copied[0][here], copied[1][here], output_VD, here
        gold, evenly = checkpoint(score, *inputs, use_reentrant=False, preserve_rng_state=False)
        total = total + (1 - label_smoothing) * gold + label_smoothing * evenly
        nll = nll + gold.detach()
    return total, nll


def smoothed_cross_entropy(
    hidden_ND: Tensor, output_VD: Tensor, gold_N: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """(total, nll) of logits_NV = hidden output^T, summed over N in fp32 or better; only the total has a gradient.

    With z the log of the sum of exp(logits), -log p(v) = z - logit(v): the smoothed sum needs z, the gold logit and the
    mean logit. The logits are the largest array of a small model, by far, so they are never there all at once: some
    rows of them at a time are made, scored, and turned into their gradient at once, d total / d logit(v) = p(v) -
    (1 - eps) [v is gold] - eps / V, which becomes the gradient of the hidden states and of the matrix.
    """
    total, nll = _SmoothedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, output_VD, gold_N, label_smoothing, torch.is_grad_enabled()
    )
    return total, nll


def _rows_at_once(hidden_ND: Tensor, vocabulary: int) -> int:
    return max(1, LOGITS_AT_ONCE.get(hidden_ND.device.type, LOGITS_AT_ONCE_ELSEWHERE) // vocabulary)


def _real(kind: torch.dtype) -> torch.dtype:
    """fp32 or better."""
    return torch.promote_types(kind, torch.float32)


class _SmoothedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, output_VD: Tensor, gold_N: Tensor, label_smoothing: float, differentiate: bool
    ) -> tuple[Tensor, Tensor]:
        device, vocabulary = hidden_ND.device.type, len(output_VD)
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        real = _real(low)
        weights_VD, inputs_ND = output_VD.to(low), hidden_ND.to(low)
        hidden_gradient_ND = torch.empty_like(hidden_ND) if differentiate else hidden_ND.new_empty(0)
        output_gradient_VD = torch.zeros_like(output_VD) if differentiate else hidden_ND.new_empty(0)
        rows = _rows_at_once(hidden_ND, vocabulary)
        nll, evenly = hidden_ND.new_zeros(2, dtype=real)
        with torch.autocast(device, enabled=False):
            for first in range(0, len(hidden_ND), rows):
                here = slice(first, first + rows)
                input_RD, gold_R1 = inputs_ND[here], gold_N[here, None]
                logits_RV = F.linear(input_RD, weights_VD).to(real)
                gold_logit_R1, mean_R1 = logits_RV.gather(-1, gold_R1), logits_RV.mean(-1, keepdim=True)
                largest_R1 = logits_RV.amax(-1, keepdim=True)
                p_RV = logits_RV.sub_(largest_R1).exp_()
                sum_R1 = p_RV.sum(-1, keepdim=True)
                z_R1 = sum_R1.log() + largest_R1
                nll += (z_R1 - gold_logit_R1).sum()
                evenly += (z_R1 - mean_R1).sum()
                if differentiate:
                    p_RV.div_(sum_R1).sub_(label_smoothing / vocabulary)
                    p_RV.scatter_add_(-1, gold_R1, torch.full_like(z_R1, label_smoothing - 1))
                    gradient_RV = p_RV.to(low)
                    hidden_gradient_ND[here] = gradient_RV @ weights_VD
                    output_gradient_VD += gradient_RV.T @ input_RD
        ctx.save_for_backward(hidden_gradient_ND, output_gradient_VD)
        ctx.mark_non_differentiable(nll)
        return (1 - label_smoothing) * nll + label_smoothing * evenly, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient_ND, output_gradient_VD = ctx.saved_tensors
        factor = gradients[0]
        return hidden_gradient_ND * factor, output_gradient_VD * factor, None, None, None
