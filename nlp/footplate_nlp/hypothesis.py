"""What every search has in common: a hypothesis, how long it may be, and which tokens are never written.

Axes: B sentences, S source positions, N rows of hypotheses, V target vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from footplate.errors import FootplateError
from footplate.section import Count, NonNegative, Section
from footplate_nlp.symbols import BOS, EOS, PAD


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One target sentence that a search proposes."""

    tokens: tuple[int, ...]
    """Without the end of sentence."""
    score: float
    """What the search maximises: the log-probability over the length penalty, or the log-probability itself."""
    log_probability: float
    """log p(tokens and the end of sentence | source), in nats, as the model has it: no temperature, no penalty."""
    truncated: bool = False
    """Whether it ends at the maximum length, where an end is forced."""


class Length(Section):
    """How long an output may be. Each sentence has its own maximum, a function of its own source alone."""

    factor: NonNegative = 2.0
    """Target tokens for each source token, both with the end of sentence: at most factor * source + extra."""
    extra: Annotated[int, Field(ge=0)] = 20
    """Target tokens besides."""
    maximum: Count = 250
    """Never more than this, the end of sentence included; it is forced there."""
    minimum: Annotated[int, Field(ge=0)] = 0
    """At least this many tokens before the end of sentence."""

    @model_validator(mode="after")
    def _there_is_room(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(
                f"minimum {self.minimum} leaves no room for the end of sentence within maximum {self.maximum}; "
                f"set maximum to {self.minimum + 1} or more"
            )
        return self

    def maxima(self, source_BS: Tensor) -> list[int]:
        """The maximum of each sentence, in target tokens with the end of sentence, from the source's ids.

        >>> Length(factor=1.5, extra=2, maximum=9).maxima(torch.tensor([[5, 3, 0], [5, 6, 3]]))
        [5, 7]
        """
        return [self.maximum_for(tokens) for tokens in (source_BS != PAD).sum(1).tolist()]

    def maximum_for(self, source_tokens: int) -> int:
        """The maximum for a source of so many tokens with its end of sentence."""
        return min(self.maximum, max(self.minimum + 1, math.ceil(self.factor * source_tokens + self.extra)))


def log_probabilities(logits_NV: Tensor, position: int) -> Tensor:
    """log_softmax in fp32 or better; it may overwrite the logits.

    Raises `FootplateError` where a row is not a number: every search would return nonsense from there on.
    """
    if logits_NV.dtype in (torch.float16, torch.bfloat16):
        logits_NV = logits_NV.float()
    # A second array of this size is half the cost on a CPU: pages are given back and faulted in again at each step.
    result_NV = torch.log_softmax(logits_NV, -1, out=logits_NV if logits_NV.device.type == "cpu" else None)
    if bool(result_NV[:, EOS].isnan().any()):
        raise FootplateError(
            f"search: the model's probabilities at target position {position} are not numbers; "
            "its weights are damaged or diverged in training: use an earlier checkpoint"
        )
    return result_NV


def forbid(log_probabilities_NV: Tensor, end: bool) -> None:
    """Padding and the begin of sentence are never written; nor is the end of sentence if `end` is true. In place.

    The others are not normalised anew: a log-probability stays the model's own.
    """
    log_probabilities_NV[:, PAD] = -torch.inf
    log_probabilities_NV[:, BOS] = -torch.inf
    if end:
        log_probabilities_NV[:, EOS] = -torch.inf
