"""Embeddings, and which of them may be one matrix.

Source: Press & Wolf 2017, "Using the output embedding to improve language models".
"""

from torch import nn

from footplate.errors import ConfigError
from footplate_nlp.symbols import PAD


def new_embedding(vocabulary: int, width: int) -> nn.Embedding:
    """Normal with standard deviation D^-1/2, so that scaled inputs and logits both start near 1; the pad row is 0."""
    embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    nn.init.zeros_(embedding.weight[PAD])
    return embedding


def fits_vocabularies(tie: str, copying: bool, source_vocabulary: int, target_vocabulary: int) -> None:
    """Raise ConfigError where one matrix, or one set of ids, would have to serve two vocabularies."""
    if source_vocabulary == target_vocabulary:
        return
    if tie == "all":
        raise ConfigError(
            [
                f"model: tie: `all` needs one vocabulary, but the source has {source_vocabulary} tokens and the "
                f"target {target_vocabulary}; use a joint vocabulary, or `target`."
            ]
        )
    if copying:
        raise ConfigError(["model: copying: needs one vocabulary for both sides; set vocabulary.joint to true."])
