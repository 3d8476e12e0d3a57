"""What embeddings have in common, whatever the model: how they begin, and which of the three matrices may be one."""

from typing import Literal

from torch import nn

from footplate.errors import ConfigError
from footplate_nlp.symbols import PAD

Tie = Literal["none", "target", "all"]
"""`target`: one matrix embeds the target and makes the output; `all`: the source too."""


def embedding(vocabulary: int, width: int, deviation: float) -> nn.Embedding:
    """Normal with this standard deviation; the pad row is 0.

    Where inputs are scaled by sqrt(width), width^-1/2 lets scaled inputs and logits both start near 1.
    """
    matrix = nn.Embedding(vocabulary, width, padding_idx=PAD)
    nn.init.normal_(matrix.weight, std=deviation)
    nn.init.zeros_(matrix.weight[PAD])
    return matrix


def refuse_two_vocabularies(source_vocabulary: int, target_vocabulary: int, *, tie: Tie, copying: bool) -> None:
    """Raise ConfigError where one vocabulary is needed and there are two, of these sizes."""
    if source_vocabulary == target_vocabulary:
        return
    if tie == "all":
        raise ConfigError(
            [
                f"model: tie: `all` needs one vocabulary, but the source has {source_vocabulary} tokens and the "
                f"target {target_vocabulary}; use a joint vocabulary, or `target`"
            ]
        )
    if copying:
        raise ConfigError(["model: copying: needs one vocabulary for both sides; set vocabulary.joint to true"])
