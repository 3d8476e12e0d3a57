"""The training loss of a translator: label-smoothed cross-entropy over real target tokens.

Axes: B sentences, S source positions, T target positions, N real (not padded) target positions, V target vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from footplate.step import Mean
from footplate.update import LossTerms
from footplate_nlp.batches import Batch
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import PAD

ROWS_IN_CACHE = 64


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
        logits_NV = self.model.forced(self.model.encode(batch.source_BS), batch.input_BT, real_BT)
        total, nll = smoothed_cross_entropy(logits_NV, batch.target_BT[real_BT], self.label_smoothing)
        count = real_BT.sum()
        return LossTerms(total, count, {"train/nll": Mean(nll, count)})


def smoothed_cross_entropy(logits_NV: Tensor, gold_N: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """(total, nll), both summed over N, in fp32 or better; only the total carries a gradient.

    With z the log of the sum of exp(logits), -log p(v) = z - logit(v): the smoothed sum needs z, the gold logit and the
    mean logit. The backward pass is written out: autograd's would hold four arrays of N x V where this holds one.
    """
    total, nll = _SmoothedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits_NV, gold_N, label_smoothing
    )
    return total, nll


class _SmoothedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, gold_N: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        # On a CPU, some rows at a time, which stay in its cache: twice as fast.
        rows = ROWS_IN_CACHE if logits_NV.device.type == "cpu" else max(1, len(logits_NV))
        z_N = torch.cat([part_NV.logsumexp(-1) for part_NV in torch.split(logits_NV, rows)])
        nll = (z_N - logits_NV.gather(-1, gold_N[:, None])[:, 0]).sum()
        total = nll
        if label_smoothing:
            total = (1 - label_smoothing) * nll + label_smoothing * (z_N - logits_NV.mean(-1)).sum()
        ctx.save_for_backward(logits_NV, z_N, gold_N)
        ctx.label_smoothing = label_smoothing
        ctx.mark_non_differentiable(nll)
        return total.clone(), nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """d total / d logit(v) = p(v) - (1 - eps) [v is gold] - eps / V."""
        logits_NV, z_N, gold_N = ctx.saved_tensors
        p_NV = (logits_NV - z_N[:, None]).exp_()
        if ctx.label_smoothing:
            p_NV -= ctx.label_smoothing / logits_NV.shape[-1]
        p_NV.scatter_add_(-1, gold_N[:, None], p_NV.new_full((len(gold_N), 1), ctx.label_smoothing - 1))
        return p_NV.mul_(gradients[0]), None, None
