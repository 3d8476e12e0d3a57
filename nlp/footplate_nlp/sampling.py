"""Drawing the next token at random.

Axes: N rows of hypotheses, V vocabulary, K the most probable of it.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from footplate.section import Count, Section
from footplate_nlp.constraints import Constraints
from footplate_nlp.hypothesis import Length


class SampleConfig(Section):
    """Ancestral sampling. Temperature first, then `top_k`, then `top_p` of what remains."""

    kind: Literal["sample"] = "sample"
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Divides the log-probabilities: below 1 sharpens. (Its limit 0 is greedy search.) From 0.000001 to 1000000: in
    fp32 the quotients must be finite."""
    top_k: Count | None = None
    """The k most probable tokens; null for all. Source: Fan et al. 2018, "Hierarchical neural story generation"."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the nucleus: the smallest set of most probable tokens whose mass reaches p, at least one; 1 for all.
    Source: Holtzman et al. 2020, "The curious case of neural text degeneration", eq. 2 and 3."""
    samples: Count = 1
    """Independent samples of each sentence."""
    length: Length = Length()
    """How long the output may be."""
    constraints: Constraints = Constraints()
    """What it must not say twice; before the temperature."""


def kept_probabilities(log_probabilities_NV: Tensor, config: SampleConfig) -> Tensor:
    """probabilities_NV that are drawn from: 0 where a token is left out, the rest summing to the mass that is kept.

    >>> log_p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    >>> kept_probabilities(log_p, SampleConfig(top_p=0.6)).tolist()[0][2:]
    [0.0, 0.0]
    """
    scaled_NV = log_probabilities_NV / config.temperature
    if config.top_k is not None and config.top_k < scaled_NV.shape[1]:
        top_NK = scaled_NV.topk(config.top_k)
        scaled_NV = torch.full_like(scaled_NV, -torch.inf).scatter_(1, top_NK.indices, top_NK.values)
    # Apple's GPUs have no float64.
    probabilities_NV = scaled_NV.softmax(-1, torch.float32 if scaled_NV.device.type == "mps" else torch.float64)
    return probabilities_NV if config.top_p == 1 else nucleus(probabilities_NV, config.top_p)


def nucleus(probabilities_NV: Tensor, mass: float, width: int = 256) -> Tensor:
    """probabilities_NV with 0 outside the smallest set of most probable tokens whose mass is reached.

    A token stays if those before it have not reached the mass. Only the `width` most probable tokens are sorted, unless
    that is not enough for a row: sorting a vocabulary costs more than the model.
    """
    top_NK = probabilities_NV.topk(min(width, probabilities_NV.shape[1]))
    reached_NK = top_NK.values.cumsum(-1)
    kept_NK = top_NK.values.masked_fill(reached_NK - top_NK.values >= mass, 0)
    kept_NV = torch.zeros_like(probabilities_NV).scatter_(1, top_NK.indices, kept_NK)
    wider_N = reached_NK[:, -1] < mass
    if width < probabilities_NV.shape[1] and bool(wider_N.any()):
        kept_NV[wider_N] = nucleus(probabilities_NV[wider_N], mass, probabilities_NV.shape[1])
    return kept_NV


def draw(log_probabilities_NV: Tensor, uniform_N: Tensor, config: SampleConfig) -> Tensor:
    """tokens_N: for each row the first token at which the cumulative probability exceeds its number from [0, 1).

    The cumulation runs in the order of the vocabulary, not of the probabilities: a last bit that another batch shape
    changes then moves a boundary by as much, where in sorted order it could swap two tokens.
    """
    cumulative_NV = kept_probabilities(log_probabilities_NV, config).cumsum(-1)
    total_N = cumulative_NV[:, -1]
    below_total_N = torch.nextafter(total_N, torch.zeros_like(total_N))
    point_N = torch.minimum(uniform_N.to(total_N) * total_N, below_total_N)
    tokens_N = torch.searchsorted(cumulative_NV, point_N[:, None], right=True)[:, 0]
    # Among numbers that are none, the search ends behind the last one: an id that no embedding has, where the loss is
    # to say that training diverges.
    return tokens_N.clamp_max(cumulative_NV.shape[1] - 1)
