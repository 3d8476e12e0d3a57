"""Beam search.

At each position the best 2K continuations of a sentence's K hypotheses are looked at. An end of sentence counts if it
is among the first K and goes to the pool of finished ones; the best K that do not end live on. (At most K of the 2K
end, so K always remain.)

Axes: B sentences still open, K hypotheses of each, N = B K rows, T target positions so far, V vocabulary,
C = 2K candidates, E hypotheses that end.
"""

from bisect import insort
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from footplate.section import Count, Section
from footplate_nlp.candidates import Candidates
from footplate_nlp.constraints import Allowed, Constraints
from footplate_nlp.hypothesis import Hypothesis, Length, log_probabilities
from footplate_nlp.objective import Ends, Objective
from footplate_nlp.seq2seq import Decoding
from footplate_nlp.symbols import BOS, EOS
from footplate_nlp.uid import Uid

Exponent = Annotated[float, Field(ge=0, le=10)]
"""Of a length: a float holds the power of any length that fits into memory."""


class NoPenalty(Section):
    """score = log p: short outputs win."""

    kind: Literal["none"] = "none"

    def divisor(self, length: int) -> float:
        """1 for every length."""
        return 1.0


class Average(Section):
    """score = log p / n^alpha; alpha 1 is the mean log-probability of a token."""

    kind: Literal["average"] = "average"
    alpha: Exponent = 1.0
    """0 is no penalty; larger favours longer outputs; at most 10."""

    def divisor(self, length: int) -> float:
        """n^alpha, for n tokens with the end of sentence."""
        return float(length**self.alpha)


class Gnmt(Section):
    """score = log p / ((5 + n) / 6)^alpha. Source: Wu et al. 2016, "Google's neural machine translation system", 14."""

    kind: Literal["gnmt"] = "gnmt"
    alpha: Exponent = 0.6
    """0 is no penalty; larger favours longer outputs; at most 10."""

    def divisor(self, length: int) -> float:
        """((5 + n) / 6)^alpha, for n tokens with the end of sentence."""
        return float(((5 + length) / 6) ** self.alpha)


LengthPenalty = Annotated[NoPenalty | Average | Gnmt, Field(discriminator="kind")]
Stop = Literal["first", "best_ends", "k_finished", "length_now", "all", "optimal"]


class BeamConfig(Section):
    """Beam search: the several best hypotheses grow side by side."""

    kind: Literal["beam"] = "beam"
    size: Count = 5
    """Hypotheses of each sentence."""
    n_best: Count = 1
    """How many are returned, the best first."""
    length_penalty: LengthPenalty = Average()
    """What a log-probability is divided by, so that lengths can be compared; n counts the end of sentence."""
    stop: Stop = "optimal"
    """When a sentence is done: at the `first` finished hypothesis; when the best continuation of all is an end and
    `n_best` are finished (`best_ends`); at `k_finished` (as many as the beam is wide); when the worst of these is no
    worse than the best live one if it ended at the `length_now`; at its maximum length (`all`); or as soon as provably
    nothing better can come (`optimal`: Huang et al. 2017, "When to finish?", with the bound at the maximum length)."""
    length: Length = Length()
    """How long the output may be."""
    constraints: Constraints = Constraints()
    """What it must not say twice."""
    uid: Uid | None = None
    """Take lambda R, how unevenly the surprisal is spread, off the log-probability, before the length penalty."""

    @model_validator(mode="after")
    def _as_many_as_there_are(self) -> Self:
        if self.n_best > self.size:
            raise ValueError(
                f"n_best {self.n_best} is more than the beam's size {self.size}; raise size or lower n_best"
            )
        if self.stop == "first" and self.n_best > 1:
            raise ValueError("stop: first ends with one finished hypothesis; set n_best to 1 or use another stop")
        return self

    @model_validator(mode="after")
    def _the_stop_is_right_for_the_objective(self) -> Self:
        if self.uid is not None and self.uid.strength and not self.uid.only_grows and self.stop != "all":
            raise ValueError(
                f"uid.regularizer {self.uid.regularizer} may fall as an output grows, so stop {self.stop} could miss a "
                "better one; set stop to all, or choose greedy, max or squares"
            )
        return self


@dataclass(slots=True)
class Sentence:
    """A sentence and its pool of finished hypotheses, the best first, no more than the beam is wide."""

    maximum: int
    pool: list[Hypothesis] = field(default_factory=list)

    def add(self, hypothesis: Hypothesis, size: int) -> None:
        """Put a finished hypothesis in its place; among equals the earlier comes first."""
        insort(self.pool, hypothesis, key=lambda other: -other.score)
        del self.pool[size:]

    def done(self, length: int, best_live: float, best_ends: bool, config: BeamConfig) -> bool:
        """Whether the search is over after `length` positions, `best_live` being the highest objective that lives on.

        `best_ends`: whether the best continuation at this position was the end.

        An objective is at most 0 and only falls: a position adds log p <= 0, which a repetition penalty >= 1 leaves at
        most 0, and lambda R >= 0, which is taken off, only grows (`Uid.only_grows`; the others are refused here). The
        divisor only grows too. So no live hypothesis can end with a score above best_live / divisor(maximum): when the
        worst one that would be returned reaches it, nothing can change.
        """
        if length == self.maximum or best_live == -torch.inf:
            return True
        if config.stop == "first":
            return bool(self.pool)
        if config.stop in {"k_finished", "length_now"} and len(self.pool) < config.size:
            return False
        if config.stop == "k_finished":
            return True
        if config.stop == "length_now":
            return self.pool[-1].score >= best_live / config.length_penalty.divisor(length)
        if config.stop == "all" or len(self.pool) < config.n_best:
            return False
        if config.stop == "best_ends":
            return best_ends
        return self.pool[config.n_best - 1].score >= best_live / config.length_penalty.divisor(self.maximum)


def beam_search(
    decoding: Decoding, maxima: list[int], config: BeamConfig, allowed: Allowed, device: torch.device
) -> list[list[Hypothesis]]:
    """The `n_best` hypotheses of each sentence, whose maximum lengths are `maxima`; the decoder has K rows for each."""
    beam = config.size
    sentences = [Sentence(maximum) for maximum in maxima]
    still_open = list(sentences)
    tokens_BK = torch.full((len(maxima), beam), BOS, device=device)
    history_NT = tokens_BK.new_empty(tokens_BK.numel(), 0)
    objective = Objective(len(maxima), beam, config.constraints.repetition_penalty != 1, config.uid)
    for length in count(1):
        log_probabilities_NV = log_probabilities(decoding.step(tokens_BK.flatten()), length)
        ends = objective.ends(log_probabilities_NV)
        choice_NV = allowed(log_probabilities_NV, history_NT)
        found = objective.candidates(log_probabilities_NV, choice_NV, 2 * beam)
        collect(still_open, ends, found, history_NT, choice_NV, config)

        is_end_BC = found.tokens_BC == EOS
        scores_BK, live_BK = found.scores_BC.masked_fill(is_end_BC, -torch.inf).topk(beam)
        live = zip(still_open, scores_BK[:, 0].tolist(), is_end_BC[:, 0].tolist(), strict=True)
        stay = [b for b, (each, best, best_ends) in enumerate(live) if not each.done(length, best, best_ends, config)]
        if not stay:
            return [sentence.pool[: config.n_best] for sentence in sentences]
        tokens_BK = found.tokens_BC.gather(1, live_BK)
        first_row_B1 = torch.arange(0, history_NT.shape[0], beam, device=device)[:, None]
        rows_BK = first_row_B1 + found.rows_BC.gather(1, live_BK)
        stay_B = None
        if len(stay) < len(still_open):
            still_open = [still_open[b] for b in stay]
            stay_B = torch.tensor(stay, device=device)
            tokens_BK, rows_BK, scores_BK = tokens_BK[stay_B], rows_BK[stay_B], scores_BK[stay_B]
        rows_N = rows_BK.flatten()
        decoding.select(rows_N, stay_B)
        allowed.select(rows_N)
        objective.follow(scores_BK, rows_N, tokens_BK.flatten(), log_probabilities_NV, choice_NV)
        history_NT = torch.cat([history_NT[rows_N], tokens_BK.view(-1, 1)], 1)
    raise AssertionError("unreachable: every sentence has a maximum length")


def collect(
    sentences: list[Sentence],
    ends: Ends,
    found: Candidates,
    history_NT: Tensor,
    choice_NV: Tensor,
    config: BeamConfig,
) -> None:
    """Put into each sentence's pool what ends here: the chosen ends, or at the maximum length all hypotheses.

    Of the latter those were truncated whose most probable continuation is another than the end.
    """
    beam = ends.objective_BK.shape[1]
    length = history_NT.shape[1] + 1
    chosen_BK = (found.tokens_BC[:, :beam] == EOS) & (found.scores_BC[:, :beam] > -torch.inf)
    chosen = zip(chosen_BK.nonzero()[:, 0].tolist(), found.rows_BC[:, :beam][chosen_BK].tolist(), strict=True)
    ending = [(b, k) for b, k in chosen if length < sentences[b].maximum]
    forced = [(b, k) for b, each in enumerate(sentences) if length == each.maximum for k in range(beam)]
    if not ending and not forced:
        return
    where = torch.tensor(ending + forced, device=history_NT.device)
    b_E, k_E = where.unbind(1)
    objectives, values = ends.objective_BK[b_E, k_E].tolist(), ends.log_probability_BK[b_E, k_E].tolist()
    prefixes = history_NT[b_E * beam + k_E].tolist()
    would_go_on = (choice_NV[b_E * beam + k_E].argmax(1) != EOS).tolist() if forced else [False] * len(ending)
    rows = zip(ending + forced, objectives, values, prefixes, would_go_on, strict=True)
    for (b, _), objective, value, prefix, goes_on in rows:
        if objective > -torch.inf:
            sentence = sentences[b]
            score = objective / config.length_penalty.divisor(length)
            sentence.add(Hypothesis(tuple(prefix), score, value, length == sentence.maximum and goes_on), beam)
