"""What a beam search maximises before lengths are compared, and beside it the model's own log-probability.

Axes: B sentences still open, K hypotheses of each, N = B K rows, T target positions so far, V vocabulary, C candidates.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from footplate_nlp.candidates import Candidates, best_candidates
from footplate_nlp.symbols import EOS
from footplate_nlp.uid import Uid, regularised


class Ends(NamedTuple):
    """The hypotheses as if each ended now."""

    objective_BK: Tensor
    log_probability_BK: Tensor


class Objective:
    """The live hypotheses' objectives: objective_BK.

    Plainly the sum of log p. A repetition penalty makes it the sum of penalised log p; `uid` takes lambda R off, R
    being a function of the model's own log p. These two need the sums and the surprisals of each row besides.
    """

    def __init__(self, sentences: int, beam: int, penalty: bool, uid: Uid | None) -> None:
        self.sentences, self.beam = sentences, beam
        self.uid = uid if uid is not None and uid.strength else None
        self.plain = not penalty and self.uid is None
        self.objective_BK = self.sums_N = self.true_N = self.least_N = torch.zeros(0)
        self.past_NT = torch.zeros(0, 0)

    def ends(self, log_probabilities_NV: Tensor) -> Ends:
        """Read the model's own log-probabilities, before any is crossed out."""
        if not len(self.objective_BK):  # one hypothesis so far, the empty one
            self.objective_BK = log_probabilities_NV.new_full((self.sentences, self.beam), -torch.inf)
            self.objective_BK[:, 0] = 0
            self.sums_N = self.true_N = self.objective_BK.flatten()
            self.past_NT = log_probabilities_NV.new_zeros(self.sentences * self.beam, 0)
        end_N1 = log_probabilities_NV[:, EOS, None].clone()
        if self.plain:
            ends_BK = self.objective_BK + end_N1.view_as(self.objective_BK)
            return Ends(ends_BK, ends_BK)
        if self.uid is not None:
            greedy = self.uid.regularizer == "greedy"
            self.least_N = -log_probabilities_NV.amax(1) if greedy else torch.zeros_like(self.sums_N)
        true_BK = (self.true_N + end_N1[:, 0]).view_as(self.objective_BK)
        return Ends(self._objective(end_N1, end_N1).view_as(self.objective_BK), true_BK)

    def candidates(self, log_probabilities_NV: Tensor, choice_NV: Tensor, count: int) -> Candidates:
        """The continuations with the highest objectives: fewer than `count` where there are no more."""
        if self.plain:
            return best_candidates(choice_NV, self.objective_BK, count)
        objective_NV = self._objective(log_probabilities_NV, choice_NV)
        return best_candidates(objective_NV, torch.zeros_like(self.objective_BK), count)

    def follow(
        self, objective_BK: Tensor, rows_N: Tensor, tokens_N: Tensor, log_probabilities_NV: Tensor, choice_NV: Tensor
    ) -> None:
        """Row n goes on from what row rows_N[n] has been, with the token tokens_N[n]."""
        self.objective_BK = objective_BK
        if self.plain:
            return
        step_N = log_probabilities_NV[rows_N, tokens_N]
        # A row is as good as empty where its token is the end of sentence, for lack of others.
        empty_N = objective_BK.flatten() == -torch.inf
        self.sums_N = (self.sums_N[rows_N] + choice_NV[rows_N, tokens_N]).masked_fill(empty_N, -torch.inf)
        self.true_N = self.true_N[rows_N] + step_N
        if self.uid is not None:
            above_N1 = (-step_N - self.least_N[rows_N])[:, None]
            self.past_NT = torch.cat([self.past_NT[rows_N], above_N1], 1)

    def _objective(self, log_probabilities_NV: Tensor, choice_NV: Tensor) -> Tensor:
        """objective_NV of each row with each next token; the two arguments may have some columns only."""
        if self.uid is None:
            return self.sums_N[:, None] + choice_NV
        above_NV = -log_probabilities_NV - self.least_N[:, None]
        return regularised(self.uid, self.sums_N, self.past_NT, choice_NV, above_NV)
