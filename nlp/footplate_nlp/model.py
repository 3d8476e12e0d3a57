"""The models by name: one union of configurations, one function that builds."""

from typing import Annotated

from pydantic import Field

from footplate_nlp.convolutional import Convolutional, ConvolutionalConfig
from footplate_nlp.recurrent import Recurrent, RecurrentConfig
from footplate_nlp.seq2seq import Decoding as Decoding
from footplate_nlp.seq2seq import Memory as Memory
from footplate_nlp.seq2seq import Searchable as Searchable
from footplate_nlp.seq2seq import Seq2Seq as Seq2Seq
from footplate_nlp.transformer import Transformer, TransformerConfig

ModelConfig = Annotated[TransformerConfig | ConvolutionalConfig | RecurrentConfig, Field(discriminator="kind")]
"""A model and its sizes."""


def build_model(config: ModelConfig, source_vocabulary: int, target_vocabulary: int) -> Seq2Seq:
    """A freshly initialised model, drawing from torch's global generator: seed it first.

    Raises `ConfigError` where the model does not fit the vocabularies.
    """
    if isinstance(config, ConvolutionalConfig):
        return Convolutional(config, source_vocabulary, target_vocabulary)
    if isinstance(config, RecurrentConfig):
        return Recurrent(config, source_vocabulary, target_vocabulary)
    return Transformer(config, source_vocabulary, target_vocabulary)
