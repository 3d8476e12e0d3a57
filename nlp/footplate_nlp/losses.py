"""The training loss of a translator: label-smoothed cross-entropy over real target tokens.

Axes: B sentences, S source positions, T target positions, N real (not padded) target positions, R some of these N,
D width, V target vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from footplate.step import Mean
from footplate.update import LossTerms
from footplate_nlp.batches import Batch
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import PAD

LOGITS_AT_ONCE = {"cpu": 1 << 21}
"""How many logits exist at a time. On a CPU 8 MB, which stay in its cache and in memory that the process has already:
for all logits of a batch the kernel would have to hand out, and clear, the pages anew in each update."""
LOGITS_AT_ONCE_ELSEWHERE = 1 << 26


class TranslationLoss(nn.Module):
    """Teacher forcing: the model is fed the true target and scored on each next token.

    The total is the sum over tokens of (1 - eps) * -log p(gold) + eps * mean over V of -log p(v): each of all V tokens
    gets eps / V, the gold one besides its 1 - eps. Padding contributes to neither term.
    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7, with u(k) = 1 / V.
    """

    def __init__(self, model: Seq2Seq, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> LossTerms:
        """Sum, count of target tokens, and `train/nll`: nats a token without smoothing."""
        real_BT = batch.target_BT != PAD
        hidden_BTD = self.model.hidden(self.model.encode(batch.source_BS), batch.input_BT)
        total, nll = smoothed_cross_entropy(
            hidden_BTD[real_BT], self.model.output_matrix, batch.target_BT[real_BT], self.label_smoothing
        )
        count = real_BT.sum()
        return LossTerms(total, count, {"train/nll": Mean(nll, count)})


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


def token_nll(hidden_ND: Tensor, output_VD: Tensor, gold_N: Tensor) -> Tensor:
    """-log p(gold) of each of the N positions, in fp32 or better, with few logits at a time; for evaluation."""
    rows = max(1, LOGITS_AT_ONCE.get(hidden_ND.device.type, LOGITS_AT_ONCE_ELSEWHERE) // len(output_VD))
    nll_N = []
    for first in range(0, len(hidden_ND), rows):
        here = slice(first, first + rows)
        logits_RV = F.linear(hidden_ND[here], output_VD)
        real = torch.promote_types(logits_RV.dtype, torch.float32)
        nll_N.append(F.cross_entropy(logits_RV.to(real), gold_N[here], reduction="none"))
    return torch.cat(nll_N)


class _SmoothedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, output_VD: Tensor, gold_N: Tensor, label_smoothing: float, differentiate: bool
    ) -> tuple[Tensor, Tensor]:
        device, vocabulary = hidden_ND.device.type, len(output_VD)
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        real = torch.promote_types(low, torch.float32)
        weights_VD, inputs_ND = output_VD.to(low), hidden_ND.to(low)
        hidden_gradient_ND = torch.empty_like(hidden_ND) if differentiate else hidden_ND.new_empty(0)
        output_gradient_VD = torch.zeros_like(output_VD) if differentiate else hidden_ND.new_empty(0)
        rows = max(1, LOGITS_AT_ONCE.get(device, LOGITS_AT_ONCE_ELSEWHERE) // vocabulary)
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
