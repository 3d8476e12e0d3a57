"""The models by name: one union of configurations, one function that builds."""

from footplate_nlp.seq2seq import Decoding as Decoding
from footplate_nlp.seq2seq import Memory as Memory
from footplate_nlp.seq2seq import Searchable as Searchable
from footplate_nlp.seq2seq import Seq2Seq as Seq2Seq
from footplate_nlp.transformer import Transformer, TransformerConfig

ModelConfig = TransformerConfig
"""A union discriminated by `kind` once there is a second model: `Annotated[A | B, Field(discriminator="kind")]`."""


def build_model(config: ModelConfig, source_vocabulary: int, target_vocabulary: int) -> Seq2Seq:
    """A freshly initialised model, drawing from torch's global generator: seed it first.

    Raises `ConfigError` where the model does not fit the vocabularies.
    """
    return Transformer(config, source_vocabulary, target_vocabulary)
