"""The convolutional encoder-decoder, ConvS2S.

Axes: B sentences, S source positions, T target positions, D width, E width of embeddings, V vocabulary.
Source: Gehring et al. 2017, "Convolutional sequence to sequence learning"; the section numbers are theirs.
"""

from typing import Literal, Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn

from footplate.section import Count, Probability, Section
from footplate_nlp.convolutional_decoding import ConvolutionalDecoding
from footplate_nlp.convolutional_layers import ROOT_HALF, DecoderLayer, EncoderLayer, NormalisedLinear, source_of
from footplate_nlp.copying import Copying
from footplate_nlp.dropout import Dropout
from footplate_nlp.embeddings import Tie, embedding, refuse_two_vocabularies
from footplate_nlp.recomputing import run_layer
from footplate_nlp.seq2seq import Decoded, Memory, Seq2Seq
from footplate_nlp.symbols import PAD


class ConvolutionalConfig(Section):
    """A ConvS2S model; the defaults are the authors' sizes for a small corpus (IWSLT)."""

    kind: Literal["convolutional"] = "convolutional"
    encoder_layers: Count = 4
    """Convolutions that read the source."""
    decoder_layers: Count = 3
    """Convolutions that write the target, each with an attention to the source."""
    width: Count = 256
    """Numbers at each position between layers."""
    embedding_width: Count = 256
    """Numbers in an embedding, in what is attended to, and before the output."""
    encoder_kernel: Count = 3
    """How many source positions a convolution sees, in the middle the one that it is for: odd."""
    decoder_kernel: Count = 3
    """How many target positions a convolution sees, the last of them the one that it is for."""
    positions: Count = 256
    """How many positions have an embedding of their own; those beyond share the last one's."""
    dropout: Probability = 0.2
    """On embeddings, on the input of each convolution and on what the decoder makes."""
    tie: Tie = "all"
    """`target`: one matrix embeds the target and makes the output; `all`: the source too, with a joint vocabulary."""
    copying: bool = False
    """Whether source tokens may be copied, by the last layer's attention to the source (See et al. 2017, eq. 8, 9)."""
    recompute: bool = False
    """Keep only the input of each layer and make the rest again for the gradient: less memory, more time."""

    @model_validator(mode="after")
    def _encoder_has_a_middle(self) -> Self:
        if self.encoder_kernel % 2 == 0:
            raise ValueError(f"encoder_kernel {self.encoder_kernel} is even and has no middle; make it odd")
        return self


class Convolutional(Seq2Seq):
    """Convolutions all the way; what was tied is one parameter under one name."""

    def __init__(self, config: ConvolutionalConfig, source_vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        refuse_two_vocabularies(source_vocabulary, target_vocabulary, tie=config.tie, copying=config.copying)
        width, embedding_width, kept = config.width, config.embedding_width, 1 - config.dropout
        self.recompute = config.recompute
        self.dropout = Dropout(config.dropout)
        self.target_embedding = embedding(target_vocabulary, embedding_width, 0.1)
        self.source_embedding = None if config.tie == "all" else embedding(source_vocabulary, embedding_width, 0.1)
        output_deviation = (kept / embedding_width) ** 0.5
        self.output = None if config.tie != "none" else embedding(target_vocabulary, embedding_width, output_deviation)
        self.source_positions = nn.Embedding(config.positions, embedding_width)
        self.target_positions = nn.Embedding(config.positions, embedding_width)
        for positions in (self.source_positions, self.target_positions):
            nn.init.normal_(positions.weight, std=0.1)
        self.encoder_input = NormalisedLinear(embedding_width, width, kept)
        encoder = (EncoderLayer(width, config.encoder_kernel, config.dropout) for _ in range(config.encoder_layers))
        self.encoder = nn.ModuleList(encoder)
        self.encoder_output = NormalisedLinear(width, embedding_width)
        self.decoder_input = NormalisedLinear(embedding_width, width, kept)
        decoder_sizes = width, embedding_width, config.decoder_kernel, config.dropout
        self.decoder = nn.ModuleList(DecoderLayer(*decoder_sizes) for _ in range(config.decoder_layers))
        self.decoder_output = NormalisedLinear(width, embedding_width)
        self.copying = Copying(*3 * [embedding_width]) if config.copying else None

    @property
    def layers(self) -> list[DecoderLayer]:
        """The decoder's layers, from the input up."""
        return cast(list[DecoderLayer], list(self.decoder))

    def encode(self, source_BS: Tensor) -> Memory:
        attend_BS = source_BS != PAD
        attend_BS[:, 0] = True  # a softmax over nothing is not a number: an empty source attends to one pad
        hidden_BS1 = ~attend_BS[..., None]
        input_BSE = self._embed(self.source_embedding or self.target_embedding, self.source_positions, source_BS)
        x_BSD = self.encoder_input(input_BSE)
        for layer in self.encoder:
            x_BSD = run_layer(layer, x_BSD, hidden_BS1, recompute=self.recompute)
        states_BSE = self.encoder_output(x_BSD)
        if states_BSE.requires_grad:
            # Section 3.4: each attention sends a gradient back, too much for the encoder; embeddings get all of theirs.
            attentions = len(self.decoder)
            states_BSE.register_hook(lambda gradient: gradient / attentions)
        return Memory(source_BS, states_BSE, attend_BS, ((states_BSE + input_BSE) * ROOT_HALF,))

    def decode(self, memory: Memory, input_BT: Tensor, *, attention: bool = False) -> Decoded:
        input_BTE = self.embed_target(input_BT)
        source = source_of(memory)
        x_BTD = self.decoder_input(input_BTE)
        for layer in self.decoder:
            x_BTD, weights_BTS = run_layer(layer, x_BTD, input_BTE, source, recompute=self.recompute)
        hidden_BTE: Tensor = self.dropout(self.decoder_output(x_BTD))
        if self.copying is not None:
            gate_BT = self.copying(hidden_BTE, weights_BTS, source.value_BSE, input_BTE)
            return Decoded(hidden_BTE, weights_BTS, gate_BT)
        return Decoded(hidden_BTE, weights_BTS if attention else None)

    @property
    def output_matrix(self) -> Tensor:
        return (self.output or self.target_embedding).weight

    def start(self, memory: Memory, beam: int) -> ConvolutionalDecoding:
        return ConvolutionalDecoding(self, memory, beam)

    def embed_target(self, ids_BT: Tensor, first: int = 0) -> Tensor:
        """input_BTE of target tokens, of which the first is at position `first`."""
        return self._embed(self.target_embedding, self.target_positions, ids_BT, first)

    def _embed(self, embedding: nn.Embedding, positions: nn.Embedding, ids_BT: Tensor, first: int = 0) -> Tensor:
        """Token and position, section 3.1."""
        last = first + ids_BT.shape[1]
        position_T = torch.arange(first, last, device=ids_BT.device).clamp_(max=positions.num_embeddings - 1)
        embedded_BTE: Tensor = self.dropout(embedding(ids_BT) + positions(position_T))
        return embedded_BTE
