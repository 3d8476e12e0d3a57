"""Several models that translate as one: at each step the mean of their probabilities.

Axes: B sentences, S source positions, N rows of hypotheses, V target vocabulary, M models.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from footplate_nlp.seq2seq import Decoding, Seq2Seq


class Ensemble(nn.Module):
    """p(v) = 1/M sum_m p_m(v), of models over the same vocabularies, whatever their kinds and sizes.

    Probabilities are averaged, not their logarithms (a product of experts) nor the weights (`average`).
    Source: Sutskever et al. 2014, "Sequence to sequence learning with neural networks", section 3.6, which names no
    formula; the mean of probabilities is what fairseq and OpenNMT-py compute.
    """

    def __init__(self, models: Sequence[Seq2Seq]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.train(models[0].training)

    def members(self) -> list[Seq2Seq]:
        """The models."""
        return [model for model in self.models if isinstance(model, Seq2Seq)]

    def begin(self, source_BS: Tensor, beam: int) -> "EnsembleDecoding":
        """A decoder of each, side by side."""
        return EnsembleDecoding([model.begin(source_BS, beam) for model in self.members()])


class EnsembleDecoding:
    """The decoders of several models in step."""

    def __init__(self, decodings: Sequence[Decoding]) -> None:
        self.decodings = decodings

    def step(self, tokens_N: Tensor) -> Tensor:
        """logits_NV: the logarithm of the sum of probabilities, M times the mean; the caller may overwrite them."""
        sum_NV = _log_softmax(self.decodings[0].step(tokens_N))
        for decoding in self.decodings[1:]:
            sum_NV = torch.logaddexp(sum_NV, _log_softmax(decoding.step(tokens_N)))
        return sum_NV

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        for decoding in self.decodings:
            decoding.select(rows_N, sentences_B)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
