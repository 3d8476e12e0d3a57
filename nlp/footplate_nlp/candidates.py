"""The best few of all continuations of a sentence's hypotheses, without sorting the vocabulary.

Axes: B sentences, K hypotheses of a sentence, N = B K rows, V vocabulary, C candidates, G groups of tokens, R tokens of
a group.
"""

from typing import NamedTuple

import torch
from torch import Tensor

GROUPS = 128
"""Tokens v with the same v mod 128 are a group: wide enough for vector instructions, few enough to sort."""


class Candidates(NamedTuple):
    """Continuations, the best first."""

    scores_BC: Tensor
    rows_BC: Tensor
    """Which of the sentence's K hypotheses is continued."""
    tokens_BC: Tensor


def best_candidates(log_probabilities_NV: Tensor, scores_BK: Tensor, count: int) -> Candidates:
    """The `count` highest scores_BK + log_probabilities of each sentence; fewer where there are no more.

    `topk` over K x V numbers costs as much as several layers of a small model. The maximum of each of 128 groups of
    tokens is one pass at the speed of memory, and the best tokens lie in the groups with the highest maxima.
    """
    sentences, beam = scores_BK.shape
    vocabulary = log_probabilities_NV.shape[1]
    if vocabulary < 8 * GROUPS or beam * GROUPS < count:
        totals_BV = (log_probabilities_NV.view(sentences, beam, -1) + scores_BK[..., None]).flatten(1)
        scores_BC, flat_BC = totals_BV.topk(min(count, totals_BV.shape[1]))
        return Candidates(scores_BC, flat_BC // vocabulary, flat_BC % vocabulary)

    rounds, rest = divmod(vocabulary, GROUPS)
    maxima_NG = log_probabilities_NV[:, : rounds * GROUPS].view(-1, rounds, GROUPS).amax(1)
    if rest:
        torch.maximum(maxima_NG[:, :rest], log_probabilities_NV[:, rounds * GROUPS :], out=maxima_NG[:, :rest])
    totals_BKG = maxima_NG.view(sentences, beam, GROUPS) + scores_BK[..., None]
    groups_BC = totals_BKG.flatten(1).topk(count, sorted=False).indices

    rows_BC1 = (groups_BC // GROUPS)[..., None]
    tokens_BCR = (groups_BC % GROUPS)[..., None] + GROUPS * torch.arange(rounds + 1, device=groups_BC.device)
    inside_BCR = tokens_BCR < vocabulary  # the last round is not a full one
    flat_BCR = rows_BC1 * vocabulary + tokens_BCR.clamp(max=vocabulary - 1)
    values_BCR = log_probabilities_NV.view(sentences, -1).gather(1, flat_BCR.flatten(1)).view_as(flat_BCR)
    values_BCR = values_BCR + scores_BK.gather(1, rows_BC1[..., 0])[..., None]
    scores_BC, best_BC = values_BCR.masked_fill(~inside_BCR, -torch.inf).flatten(1).topk(count)
    flat_BC = flat_BCR.flatten(1).gather(1, best_BC)
    return Candidates(scores_BC, flat_BC // vocabulary, flat_BC % vocabulary)
