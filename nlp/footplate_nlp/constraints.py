"""What an output must begin with, and what it must not say twice. The same for every search.

Axes: N rows of hypotheses, T target positions so far, P positions of a forced prefix, V vocabulary, W windows of n
neighbouring tokens.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from footplate.section import Count, Section
from footplate_nlp.hypothesis import forbid
from footplate_nlp.symbols import EOS, PAD


class Constraints(Section):
    """Both act before a token is chosen; the log-probability that is reported stays the model's own."""

    no_repeat_ngram: Count | None = None
    """No n tokens in a row are written twice; null lets them. Where nothing else is left the sentence ends. Source:
    Paulus et al. 2018, "A deep reinforced model for abstractive summarization", section 2.5."""
    repetition_penalty: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    """Multiplies the log-probabilities of tokens that were written before: their probabilities to this power. 1 is
    none, 1000000 the most: in fp32 the products must be finite. Source: Keskar et al. 2019, "CTRL", section 4.1, which
    divides logits; these depend on a constant that the softmax ignores, so they are taken as log-probabilities, which
    are never above 0."""


class Allowed:
    """What each row may be continued with."""

    def __init__(self, constraints: Constraints, minimum: int, prefix_NP: Tensor | None = None) -> None:
        """`minimum` tokens come before the end of sentence; `prefix_NP` are forced, where they are not `PAD`."""
        self._ngram = constraints.no_repeat_ngram
        self._penalty = constraints.repetition_penalty
        self._minimum = minimum
        self._prefix_NP = prefix_NP

    def __call__(self, log_probabilities_NV: Tensor, history_NT: Tensor) -> Tensor:
        """choice_NV: log-probabilities with the penalty, -inf where a token may not follow.

        Whatever may follow keeps its own in log_probabilities_NV; that tensor is written to, and returned, where there
        is no penalty. In a forced prefix the forced token stands alone, unpenalised.
        """
        position = history_NT.shape[1]
        forced_N1 = value_N1 = None
        if self._prefix_NP is not None and position < self._prefix_NP.shape[1]:
            forced_N1 = self._prefix_NP[:, position, None]
            value_N1 = log_probabilities_NV.gather(1, forced_N1)
        end_N = log_probabilities_NV[:, EOS].clone() if self._ngram is not None else None
        choice_NV = log_probabilities_NV
        if self._penalty != 1:
            choice_NV = penalised(log_probabilities_NV, history_NT, self._penalty)
        forbid(choice_NV, end=position < self._minimum)
        if self._ngram is not None and end_N is not None:
            block_repeats(choice_NV, history_NT, self._ngram)
            stuck_N = choice_NV.amax(1) == -torch.inf
            choice_NV[:, EOS] = torch.where(stuck_N, end_N, choice_NV[:, EOS])
        if forced_N1 is not None and value_N1 is not None:
            choice_NV.masked_fill_(forced_N1 != PAD, -torch.inf)
            choice_NV.scatter_(1, forced_N1, torch.where(forced_N1 != PAD, value_N1, -torch.inf))
        return choice_NV

    def select(self, rows_N: Tensor) -> None:
        """Row n goes on from what row rows_N[n] has been."""
        if self._prefix_NP is not None:
            self._prefix_NP = self._prefix_NP[rows_N]


def penalised(log_probabilities_NV: Tensor, history_NT: Tensor, penalty: float) -> Tensor:
    """A copy in which the tokens of each row's history have `penalty` times their log-probability.

    >>> penalised(torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[2, 0, 2]]), 1.5)
    tensor([[-1.5000, -2.0000, -4.5000]])
    """
    return log_probabilities_NV.scatter(1, history_NT, log_probabilities_NV.gather(1, history_NT) * penalty)


def block_repeats(log_probabilities_NV: Tensor, history_NT: Tensor, n: int) -> None:
    """Make impossible, in place, each token that would end a run of n tokens which a row's history has already.

    >>> log_p_NV = torch.zeros(1, 6)
    >>> block_repeats(log_p_NV, torch.tensor([[4, 5, 4]]), 2)
    >>> log_p_NV.tolist()
    [[-inf, 0.0, 0.0, 0.0, 0.0, -inf]]
    """
    positions = history_NT.shape[1]
    if positions < n:
        return
    windows_NWn = history_NT.unfold(1, n, 1)
    last_N1n = history_NT[:, None, positions - n + 1 :]
    repeats_NW = (windows_NWn[..., : n - 1] == last_N1n).all(-1)
    blocked_NW = torch.where(repeats_NW, windows_NWn[..., n - 1], PAD)  # which is impossible in any case
    log_probabilities_NV.scatter_(1, blocked_NW, -torch.inf)
