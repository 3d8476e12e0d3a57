"""The training loss of a translator: label-smoothed cross-entropy over real target tokens.

Axes: B sentences, S source positions, T target positions.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from footplate.section import Probability, Section
from footplate.step import Mean
from footplate.update import LossTerms
from footplate_nlp.batches import Batch
from footplate_nlp.copying import coverage_loss
from footplate_nlp.cross_entropy import cross_entropy
from footplate_nlp.scheduled_sampling import ScheduledSampling, decode_mixed
from footplate_nlp.seq2seq import Decoded, Memory, Seq2Seq
from footplate_nlp.symbols import BOS, EOS, PAD, UNKNOWN


class WordDropout(Section):
    """Input tokens that are replaced by the unknown token in training, so that the model leans on the others too.

    Source: Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods", section 3 (source); Bowman et al.
    2016, "Generating sentences from a continuous space", section 3.1 (target).
    """

    source: Probability = 0.0
    """Of a source token."""
    target: Probability = 0.0
    """Of a token that the decoder is fed with; what it is to say stays."""


class TranslationLoss(nn.Module):
    """Teacher forcing: the model is fed the true target and scored on each next token.

    The total is the sum over tokens of (1 - eps) * -log p(gold) + eps * mean over V of -log p(v): each of all V tokens
    gets eps / V, the gold one besides its 1 - eps. Padding contributes to neither term.
    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7, with u(k) = 1 / V.
    """

    def __init__(
        self,
        model: Seq2Seq,
        label_smoothing: float = 0.0,
        *,
        coverage_weight: float = 0.0,
        word_dropout: WordDropout | None = None,
        scheduled_sampling: ScheduledSampling | None = None,
    ) -> None:
        """`coverage_weight` is lambda in eq. 13 of See et al. 2017: 0 leaves out the penalty for looking again."""
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.coverage_weight = coverage_weight
        self.word_dropout = word_dropout or WordDropout()
        self.scheduled_sampling = scheduled_sampling
        self.true_share = 1.0
        """With scheduled sampling: the probability with which the decoder is fed the true token; set at each update."""

    def forward(self, batch: Batch) -> LossTerms:
        """Sum, count of target tokens, and `train/nll`: nats a token without smoothing (and `train/coverage_loss`)."""
        real_BT = batch.target_BT != PAD
        memory = self.model.encode(_drop_words(batch.source_BS, self.word_dropout.source))
        memory = replace(memory, source_BS=batch.source_BS)  # what is copied is the word itself
        decoded = self._decode(memory, _drop_words(batch.input_BT, self.word_dropout.target))
        total, nll_N = cross_entropy(self.model, memory, decoded, batch.target_BT, self.label_smoothing)
        count = real_BT.sum()
        metrics = {"train/nll": Mean(nll_N.sum(), count)}
        if self.coverage_weight:
            assert decoded.attention_BTS is not None
            again = coverage_loss(decoded.attention_BTS)[real_BT].sum()
            total = total + self.coverage_weight * again
            metrics["train/coverage_loss"] = Mean(again.detach(), count)
        return LossTerms(total, count, metrics)

    def _decode(self, memory: Memory, input_BT: Tensor) -> Decoded:
        look = self.coverage_weight > 0
        sampling = self.scheduled_sampling
        if sampling is None or self.true_share == 1:
            return self.model.decode(memory, input_BT, attention=look)
        true_BT = torch.rand(input_BT.shape, device=input_BT.device) < self.true_share
        return decode_mixed(self.model, memory, input_BT, true_BT, sampling, look)


def _drop_words(ids_BT: Tensor, probability: float) -> Tensor:
    """The ids, each with this probability `UNKNOWN` instead; padding, begin and end of sentence stay."""
    if probability == 0:
        return ids_BT
    dropped_BT = torch.rand(ids_BT.shape, device=ids_BT.device) < probability
    return ids_BT.masked_fill(dropped_BT & (ids_BT != PAD) & (ids_BT != BOS) & (ids_BT != EOS), UNKNOWN)
