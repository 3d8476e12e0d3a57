"""Cross-entropy with label smoothing over a large vocabulary, in bounded memory; with copying and without.

Axes: B sentences, S source positions, T target positions, N real (not padded) target positions, R some of these N,
D width, V target vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from footplate_nlp.seq2seq import Decoded, Memory, Seq2Seq
from footplate_nlp.symbols import PAD

LOGITS_AT_ONCE = {"cpu": 1 << 21}
"""On a CPU 8 MB, which stay in its cache and in memory that the process has already: for all logits of a batch the
kernel would have to hand out, and clear, the pages anew in each update."""
LOGITS_AT_ONCE_ELSEWHERE = 1 << 26


class Copied(NamedTuple):
    """What a model that copies says besides its logits; see `copying`."""

    gate_N: Tensor
    attention_NS: Tensor
    source_NS: Tensor
    """The ids that it looks at."""


def logits_at_once(device_type: str) -> int:
    """How many logits exist at a time on such a device, in training."""
    return LOGITS_AT_ONCE.get(device_type, LOGITS_AT_ONCE_ELSEWHERE)


def cross_entropy(
    model: Seq2Seq, memory: Memory, decoded: Decoded, target_BT: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """(total, nll_N) of the real target tokens, of any model; see `TranslationLoss`.

    nll is -log p(gold) of each, sentence by sentence, without smoothing. Only the total, a sum, has a gradient.
    """
    real_BT = target_BT != PAD
    copied = None
    if decoded.gate_BT is not None and decoded.attention_BTS is not None:
        source_NS = memory.source_BS[real_BT.nonzero()[:, 0]]
        copied = Copied(decoded.gate_BT[real_BT], decoded.attention_BTS[real_BT], source_NS)
    return smoothed_cross_entropy(
        decoded.hidden_BTD[real_BT], model.output_matrix, target_BT[real_BT], label_smoothing, copied
    )


def smoothed_cross_entropy(
    hidden_ND: Tensor, output_VD: Tensor, gold_N: Tensor, label_smoothing: float, copied: Copied | None = None
) -> tuple[Tensor, Tensor]:
    """(total, nll_N) of logits_NV = hidden output^T in fp32 or better; only the total, a sum, has a gradient.

    With z the log of the sum of exp(logits), -log p(v) = z - logit(v): the smoothed sum needs z, the gold logit and the
    mean logit; where tokens are copied, also the logits of the source's tokens. The logits are the largest array of a
    small model, by far, so they are never there all at once: some rows of them at a time are made, scored, and turned
    into their gradient at once, which becomes the gradient of the hidden states and of the matrix.
    """
    total, nll_N = _SmoothedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, output_VD, gold_N, label_smoothing, torch.is_grad_enabled(), *(copied or (None, None, None))
    )
    return total, nll_N


class _SmoothedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        output_VD: Tensor,
        gold_N: Tensor,
        label_smoothing: float,
        differentiate: bool,
        *copied: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        device, vocabulary = hidden_ND.device.type, len(output_VD)
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        real = torch.promote_types(low, torch.float32)
        weights_VD, inputs_ND = output_VD.to(low), hidden_ND.to(low)
        differentiated = (hidden_ND, output_VD, *(tensor for tensor in copied[:2] if tensor is not None))
        gradients = [torch.zeros_like(tensor) if differentiate else tensor.new_empty(0) for tensor in differentiated]
        widest = max(vocabulary, *(each.shape[-1] for each in copied if each is not None and each.ndim > 1), 1)
        rows = max(1, logits_at_once(device) // widest)
        nll_N, evenly = hidden_ND.new_empty(len(hidden_ND), dtype=real), hidden_ND.new_zeros((), dtype=real)
        with torch.autocast(device, enabled=False):
            for first in range(0, len(hidden_ND), rows):
                here = slice(first, first + rows)
                logits_RV = F.linear(inputs_ND[here], weights_VD).to(real)
                some = [None if each is None else each[here] for each in copied]
                scorer = _Scorer(logits_RV, gold_N[here, None], label_smoothing, some, differentiate)
                nll_N[here] = scorer.nll_R
                evenly += scorer.evenly
                if differentiate:
                    gradient_RV = scorer.logits_gradient().to(low)
                    gradients[0][here] = gradient_RV @ weights_VD
                    gradients[1] += gradient_RV.T @ inputs_ND[here]
                    for whole, gradient in zip(gradients[2:], scorer.copied_gradients(), strict=True):
                        whole[here] = gradient
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(nll_N)
        return (1 - label_smoothing) * nll_N.sum() + label_smoothing * evenly, nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, output_VD, *copied = (gradient * upstream[0] for gradient in ctx.saved_tensors)
        return hidden_ND, output_VD, None, None, None, *(copied or (None, None)), None


class _Scorer:
    """The loss of a few rows of logits, and the gradient that it has with respect to them.

    The loss is a function of few numbers of each row: z, the gold logit, the mean logit, the logits of the source. Its
    gradient g with respect to those is known or found by autograd, and
    d loss / d logit(v) = g_z p(v) + g_mean / V + g_gold [v is gold] + g_source [v is in the source].
    """

    def __init__(
        self,
        logits_RV: Tensor,
        gold_R1: Tensor,
        label_smoothing: float,
        copied: list[Tensor | None],
        differentiate: bool,
    ) -> None:
        """It overwrites the logits with their probabilities."""
        self.gold_R1, self.vocabulary = gold_R1, logits_RV.shape[-1]
        gate_R, attention_RS, self.source_RS = copied
        gold_logit_R1, mean_R1 = logits_RV.gather(-1, gold_R1), logits_RV.mean(-1, keepdim=True)
        source_logits_RS = logits_RV.new_empty(0) if self.source_RS is None else logits_RV.gather(-1, self.source_RS)
        largest_R1 = logits_RV.amax(-1, keepdim=True)
        self.p_RV = logits_RV.sub_(largest_R1).exp_()
        sum_R1 = self.p_RV.sum(-1, keepdim=True)
        self.p_RV.div_(sum_R1)
        z_R1 = sum_R1.log() + largest_R1
        if gate_R is None or attention_RS is None or self.source_RS is None:
            self.nll_R, self.evenly = (z_R1 - gold_logit_R1)[:, 0], (z_R1 - mean_R1).sum()
            self.gradients = [torch.full_like(z_R1, each) for each in (1, label_smoothing - 1, -label_smoothing)]
            return
        numbers = [z_R1, gold_logit_R1, mean_R1, source_logits_RS, gate_R.to(z_R1), attention_RS.to(z_R1)]
        with torch.set_grad_enabled(differentiate):
            numbers = [number.detach().requires_grad_(differentiate) for number in numbers]
            nll_R, evenly = _copying(numbers, gold_R1, self.source_RS, self.vocabulary)
            self.nll_R, self.evenly = nll_R.detach(), evenly.detach()
            if differentiate:
                total = (1 - label_smoothing) * nll_R.sum() + label_smoothing * evenly
                self.gradients = list(torch.autograd.grad(total, numbers))

    def logits_gradient(self) -> Tensor:
        """gradient_RV; it overwrites the probabilities."""
        z_R1, gold_R1, mean_R1, *source = self.gradients[:4]
        gradient_RV = self.p_RV if self.source_RS is None else self.p_RV.mul_(z_R1)
        gradient_RV.add_(mean_R1 / self.vocabulary).scatter_add_(-1, self.gold_R1, gold_R1)
        if self.source_RS is not None:
            gradient_RV.scatter_add_(-1, self.source_RS, source[0])
        return gradient_RV

    def copied_gradients(self) -> list[Tensor]:
        """Those of the gate and of the attention, if tokens are copied."""
        return self.gradients[4:]


def _copying(numbers: list[Tensor], gold_R1: Tensor, source_RS: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """(nll_R, evenly) of `copying.mixture`, from the few numbers that matter.

    Only the sums over equal ids pass through an array of R x V, a row of attention in each; log p never does.

    A token that is not in the source is written or not said at all: -log p(v) = z - logit(v) - log p_gen. Those that
    are differ from that, each once however often it stands there.
    """
    z_R1, gold_logit_R1, mean_R1, logits_RS, gate_R, attention_RS = numbers
    write_R1, copy_R1 = F.logsigmoid(gate_R)[:, None], F.logsigmoid(-gate_R)[:, None]
    tiny = torch.finfo(z_R1.dtype).tiny

    def log_p(logits: Tensor, copied: Tensor) -> Tensor:
        return torch.logaddexp(write_R1 + logits - z_R1, copy_R1 + copied.clamp_min(tiny).log())

    copied_RS = _over_equal_ids(attention_RS, source_RS, vocabulary)
    with torch.no_grad():
        times_RS = _over_equal_ids(torch.ones_like(attention_RS), source_RS, vocabulary)
    gold_copied_R1 = (attention_RS * (source_RS == gold_R1)).sum(-1, keepdim=True)
    more_RS = log_p(logits_RS, copied_RS) - (write_R1 + logits_RS - z_R1)
    evenly = -(write_R1 + mean_R1 - z_R1).sum() - (more_RS / times_RS).sum() / vocabulary
    return -log_p(gold_logit_R1, gold_copied_R1)[:, 0], evenly


def _over_equal_ids(values_RS: Tensor, source_RS: Tensor, vocabulary: int) -> Tensor:
    """sums_RS: at each position, the sum of the values wherever the row has the same id."""
    sums_RV = values_RS.new_zeros(len(values_RS), vocabulary).scatter_add(-1, source_RS, values_RS)
    return sums_RV.gather(-1, source_RS)
