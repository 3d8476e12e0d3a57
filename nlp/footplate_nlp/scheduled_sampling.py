"""Scheduled sampling: the decoder is fed, now and then, with its own prediction instead of the true token.

So it meets its own mistakes in training. A coin for each token of each sentence decides; the share of true tokens falls
over the updates. The prediction made at position t is for token t + 1: it stands in for the input one place to the
right. Begin of sentence and padding are never replaced, and no gradient flows through what was predicted.

Source: Bengio et al. 2015, "Scheduled sampling for sequence prediction with recurrent neural networks". A Transformer
sees all positions at once, so its predictions come from a pass before: Mihaylova & Martins 2019, "Scheduled sampling
for transformers" (two passes); Duckworth et al. 2019, "Parallel scheduled sampling" (K more passes than the first; as
many as there are positions make it sequential).

Axes: B sentences, T target positions, V vocabulary.
"""

import math
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from footplate.section import Count, Probability, Section, WholeNumber
from footplate_nlp.cross_entropy import logits_at_once
from footplate_nlp.recurrent import Recurrent
from footplate_nlp.sampling import SampleConfig, draw
from footplate_nlp.seq2seq import Decoded, Memory, Seq2Seq
from footplate_nlp.symbols import BOS, PAD


class LinearDecay(Section):
    """max(floor, 1 - i / updates) after i updates. Source: Bengio 2015, section 2.4."""

    kind: Literal["linear"] = "linear"
    updates: Count
    """After how many updates it would reach 0."""
    floor: Probability = 0.0
    """The share of true tokens that remains, below 1."""

    def share(self, done: int) -> float:
        """The probability of the true token after so many updates."""
        return max(self.floor, 1 - done / self.updates)


class ExponentialDecay(Section):
    """k^i after i updates. Source: Bengio 2015, section 2.4."""

    kind: Literal["exponential"] = "exponential"
    k: Annotated[float, Field(gt=0, lt=1)]
    """What one update multiplies it by; 0.9999 halves it in 6,900 updates."""

    def share(self, done: int) -> float:
        """The probability of the true token after so many updates."""
        return float(self.k**done)


class InverseSigmoidDecay(Section):
    """k / (k + exp(i / k)) after i updates. Source: Bengio 2015, section 2.4."""

    kind: Literal["inverse_sigmoid"] = "inverse_sigmoid"
    k: Annotated[float, Field(ge=1)]
    """It is a half after k ln k updates."""

    def share(self, done: int) -> float:
        """The probability of the true token after so many updates: sigmoid(ln k - i / k), which does not overflow.

        >>> InverseSigmoidDecay(k=100).share(461)  # 100 ln 100 = 460.5
        0.49...
        """
        x = math.log(self.k) - done / self.k
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


Decay = Annotated[LinearDecay | ExponentialDecay | InverseSigmoidDecay, Field(discriminator="kind")]


class ScheduledSampling(Section):
    """How often the decoder is fed with the true token, and with what else."""

    decay: Decay
    """How the share of true tokens falls over the updates."""
    begin_update: WholeNumber = 0
    """Until then all tokens are true; the decay counts from there."""
    prediction: Literal["argmax", "sample"] = "argmax"
    """The most probable token, or one that is drawn."""
    passes: Count | None = None
    """Passes of a parallel decoder beyond the first, each fed with the predictions of the one before: 1 if null.
    A recurrent decoder predicts as it goes and takes none."""

    def share(self, update: int) -> float:
        """The probability of the true token in this update (the first is number 1)."""
        done = update - 1 - self.begin_update
        return 1.0 if done < 0 else self.decay.share(done)


def mix(input_BT: Tensor, predicted_BT: Tensor, true_BT: Tensor) -> Tensor:
    """The input, with the prediction made one position before wherever the coin `true_BT` is False.

    >>> mix(torch.tensor([[2, 5, 6, 0]]), torch.tensor([[7, 8, 9, 9]]), torch.zeros(1, 4, dtype=torch.bool)).tolist()
    [[2, 7, 8, 0]]
    """
    before_BT = predicted_BT.roll(1, 1)
    kept_BT = true_BT | (input_BT == PAD) | (input_BT == BOS)
    return torch.where(kept_BT, input_BT, before_BT)


def decode_mixed(
    model: Seq2Seq, memory: Memory, input_BT: Tensor, true_BT: Tensor, config: ScheduledSampling, attention: bool
) -> Decoded:
    """What the decoder makes of true tokens where the coins say so, and of its own predictions elsewhere."""
    if not isinstance(model, Recurrent):
        mixed_BT = mixed_input(model, memory, input_BT, true_BT, config)
        return model.decode(memory, mixed_BT, attention=attention)

    def choose(position: int, logits_BV: Tensor) -> Tensor:
        given_B = input_BT[:, position]
        kept_B = true_BT[:, position] | (given_B == PAD) | (given_B == BOS)
        return torch.where(kept_B, given_B, predict(logits_BV, drawn(given_B, config)))

    return model.decode(memory, input_BT, attention=attention, choose=choose)


def mixed_input(model: Seq2Seq, memory: Memory, input_BT: Tensor, true_BT: Tensor, config: ScheduledSampling) -> Tensor:
    """What a parallel decoder is fed with: `passes` times, what it has just predicted, where the coins say so.

    All passes draw with the same uniform numbers: a position stays as it is once those before it do.
    """
    mixed_BT, uniform_BT = input_BT, drawn(input_BT, config)
    with torch.no_grad():
        for _ in range(config.passes or 1):
            decoded = model.decode(memory, mixed_BT)
            mixed_BT = mix(input_BT, predictions(model, memory, decoded, uniform_BT), true_BT)
    return mixed_BT


def drawn(like: Tensor, config: ScheduledSampling) -> Tensor | None:
    """A uniform number for each token; None where the most probable one is taken."""
    return torch.rand(like.shape, device=like.device) if config.prediction == "sample" else None


def predictions(model: Seq2Seq, memory: Memory, decoded: Decoded, uniform_BT: Tensor | None) -> Tensor:
    """predicted_BT: the token that is to follow each position. Some sentences at a time: all logits would not fit."""
    sentences, positions, _ = decoded.hidden_BTD.shape
    device = decoded.hidden_BTD.device
    at_once = max(1, logits_at_once(device.type) // (positions * model.output_matrix.shape[0]))
    # Logits need no more of the memory than its ids: the states would be copied for nothing.
    ids = replace(memory, states_BSD=memory.states_BSD[:, :0], extra=())
    found = []
    for first in range(0, sentences, at_once):
        rows_B = torch.arange(first, min(first + at_once, sentences), device=device)
        uniforms = None if uniform_BT is None else uniform_BT[rows_B]
        found.append(predict(model.logits(ids.select(rows_B), decoded.select(rows_B)), uniforms))
    return torch.cat(found)


def predict(logits_BV: Tensor, uniform_B: Tensor | None) -> Tensor:
    """tokens_B (any leading axes), never padding nor begin of sentence. It may overwrite the logits.

    The most probable token, or the one that a number between 0 and 1 draws.
    """
    logits_BV[..., [PAD, BOS]] = -torch.inf
    if uniform_B is None:
        return logits_BV.argmax(-1)
    return draw(logits_BV.flatten(0, -2), uniform_B.flatten(), SampleConfig()).view(logits_BV.shape[:-1])
