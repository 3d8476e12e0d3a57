"""The recurrent encoder-decoder, with attention or without.

Axes: B sentences, S source positions, T target positions, I width of an embedding, D width, V vocabulary.
Sources: Sutskever et al. 2014, "Sequence to sequence learning with neural networks" (no attention, reversed source);
Luong et al. 2015, "Effective approaches to attention-based neural machine translation" (the decoder); Zaremba et al.
2014, "Recurrent neural network regularization" (dropout, on what goes up and never on what goes on); those of the
parts stand in their files.
"""

from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from footplate.section import Count, Probability, Section
from footplate_nlp.copying import Copying
from footplate_nlp.dropout import Dropout
from footplate_nlp.embeddings import Tie, embedding, refuse_two_vocabularies
from footplate_nlp.recomputing import run_layer
from footplate_nlp.recurrent_attention import AttentionConfig, Multiplicative, NoAttention, Source
from footplate_nlp.recurrent_cells import Cell, Initialiser, Lstm, State
from footplate_nlp.recurrent_decoder import Decoder, DecoderState
from footplate_nlp.recurrent_decoding import RecurrentDecoding
from footplate_nlp.recurrent_encoder import Bridge, Encoder
from footplate_nlp.seq2seq import Decoded, Memory, Seq2Seq
from footplate_nlp.symbols import PAD

Choose = Callable[[int, Tensor], Tensor]
"""(t, logits_BV of what follows position t - 1) -> tokens_B to feed at position t, for t from 1."""


class RecurrentConfig(Section):
    """A recurrent encoder and decoder; the defaults are an LSTM with the attention of Luong et al. 2015."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Cell = Lstm()
    """What a layer computes at each position."""
    encoder_layers: Count = 2
    """Layers that read the source."""
    decoder_layers: Count = 2
    """Layers that write the target."""
    embedding_width: Count = 256
    """Numbers in an embedding."""
    width: Count = 256
    """Numbers in the state of a layer; of a bidirectional encoder, each direction has half of them."""
    bidirectional: bool = True
    """Whether the encoder reads in both directions."""
    reversed_source: bool = False
    """Whether a one-way encoder reads the source from its last token to its first, then its end."""
    bridge: Literal["linear", "copy"] = "linear"
    """How the decoder's initial states follow from the encoder's last ones; `copy` keeps an LSTM's cells as well."""
    residual: Literal["none", "residual", "dense"] = "none"
    """What is added to a layer's output: nothing, its input, or the inputs of all layers up to it."""
    attention: AttentionConfig = Multiplicative()
    """How the decoder looks at the source."""
    dropout: Probability = 0.2
    """On embeddings and on what each layer hands up, never on what it hands on to the next position."""
    recurrent_initialiser: Initialiser = "orthogonal"
    """How the recurrent matrix of each gate starts."""
    tie: Tie = "none"
    """`target`: one matrix embeds the target and makes the output; `all`: the source too, with a joint vocabulary."""
    copying: bool = False
    """Whether source tokens may be copied, by the attention to them (See et al. 2017, eq. 8, 9)."""
    recompute: bool = False
    """Run each layer, or each position of a loop, again in the backward pass instead of keeping what was inside."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.bidirectional and self.width % 2:
            raise ValueError(f"width: {self.width} is odd, but two directions share it; make it even")
        if self.bidirectional and self.reversed_source:
            raise ValueError(
                "reversed_source: a bidirectional encoder reads both ways already; "
                "set bidirectional to false, or leave this out"
            )
        for key, kind, reason in (
            ("tie", self.tie, "the output matrix is as wide as the state"),
            ("residual", self.residual, "an embedding is added to the first layer's state"),
        ):
            if kind != "none" and self.embedding_width != self.width:
                raise ValueError(
                    f"{key}: {kind}: {reason}, but embedding_width is {self.embedding_width} and width {self.width}; "
                    "make them equal"
                )
        if self.copying and isinstance(self.attention, NoAttention):
            raise ValueError(
                "copying: it copies where attention looks, but attention.kind is none; "
                "choose another, or leave copying out"
            )
        return self


class Recurrent(Seq2Seq):
    """Embeddings, encoder, bridge, decoder. A tied matrix is one parameter under one name; only inputs are scaled."""

    def __init__(self, config: RecurrentConfig, source_vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        refuse_two_vocabularies(source_vocabulary, target_vocabulary, tie=config.tie, copying=config.copying)
        width = config.embedding_width
        self.dropout = Dropout(config.dropout)
        self.target_embedding = embedding(target_vocabulary, width, width**-0.5)
        self.source_embedding = None if config.tie == "all" else embedding(source_vocabulary, width, width**-0.5)
        self.output = None if config.tie != "none" else embedding(target_vocabulary, config.width, config.width**-0.5)
        self.encoder = Encoder(config)
        self.bridge = Bridge(config)
        self.decoder = Decoder(config)
        self.copying = Copying(config.width, config.width, width) if config.copying else None
        self.scale: float = width**0.5

    def encode(self, source_BS: Tensor) -> Memory:
        attend_BS = source_BS != PAD
        attend_BS[:, 0] = True  # an empty source is one pad
        x_BSI = (self.source_embedding or self.target_embedding)(source_BS) * self.scale
        states_BSD, ends = self.encoder(self.dropout(x_BSI), attend_BS.sum(1))
        return Memory(source_BS, states_BSD, attend_BS, tuple(x for state in self.bridge(ends) for x in state))

    def decode(
        self, memory: Memory, input_BT: Tensor, *, attention: bool = False, choose: Choose | None = None
    ) -> Decoded:
        """As `Seq2Seq.decode`; with `choose`, only the first position is fed from the input.

        The logits that it is given are without gradient, and of the model as it is: in training with dropout.
        """
        x_TBI = self.embed(input_BT.t())
        state, source = self.begin_with(memory)
        if choose is not None or self.decoder.feed is not None:
            return self._decode_in_steps(memory, x_TBI, (state, source), choose)
        x_TBI = self.dropout(x_TBI)
        hidden_BTD, attention_BTS = self.decoder(x_TBI, state, source)
        return self._decoded(memory, x_TBI.transpose(0, 1), hidden_BTD, attention_BTS)

    def _decode_in_steps(
        self, memory: Memory, x_TBI: Tensor, begin: tuple[DecoderState, Source | None], choose: Choose | None
    ) -> Decoded:
        """What `decode` returns; the first layer sees all its input at once unless that is chosen on the way."""
        state, source = begin
        kept_TBI = self.dropout(torch.ones_like(x_TBI))
        fed = list(x_TBI * kept_TBI)
        first = self.decoder.layers[0]
        projected = first.project(torch.stack(fed)).unbind(0) if choose is None else None
        hidden: list[Tensor] = []
        looked: list[Tensor | None] = []
        for position, kept in enumerate(self.decoder.draw(*x_TBI.shape[:2])):
            if choose is not None and position:
                with torch.no_grad():
                    last = self._decoded(memory, fed[position - 1][:, None], hidden[-1][:, None], looked[-1])
                    logits_BV = self.logits(memory, last)[:, 0]
                fed[position] = self.embed(choose(position, logits_BV)) * kept_TBI[position]
            projected_BG = first.project(fed[position]) if projected is None else projected[position]
            inputs = fed[position], projected_BG, state, source, kept
            hidden_BD, weights_BS, state = run_layer(self.decoder.step, *inputs, recompute=self.decoder.recompute)
            hidden.append(hidden_BD)
            looked.append(None if weights_BS is None else weights_BS[:, None])
        attention_BTS = torch.cat([each for each in looked if each is not None], 1) if source else None
        return self._decoded(memory, torch.stack(fed, 1), torch.stack(hidden, 1), attention_BTS)

    def _decoded(self, memory: Memory, input_BTI: Tensor, hidden_BTD: Tensor, attention_BTS: Tensor | None) -> Decoded:
        if self.copying is None or attention_BTS is None:
            return Decoded(hidden_BTD, attention_BTS)
        gate_BT = self.copying(hidden_BTD, attention_BTS, memory.states_BSD, input_BTI)
        return Decoded(hidden_BTD, attention_BTS, gate_BT)

    def begin_with(self, memory: Memory) -> tuple[DecoderState, Source | None]:
        """The decoder before its first position, and what its attention sees."""
        states = self.decoder.layers[0].states
        layers: list[State] = [memory.extra[first : first + states] for first in range(0, len(memory.extra), states)]
        attention, source = self.decoder.attention, None
        if attention is not None:
            source = attention.remember(memory.states_BSD, memory.attend_BS)
        return self.decoder.start(layers, memory.source_BS.shape[1]), source

    def embed(self, ids_BT: Tensor) -> Tensor:
        """sqrt(I) * embedding of target tokens (any axes), before dropout."""
        x_BTI: Tensor = self.target_embedding(ids_BT) * self.scale
        return x_BTI

    @property
    def output_matrix(self) -> Tensor:
        return (self.output or self.target_embedding).weight

    def start(self, memory: Memory, beam: int) -> RecurrentDecoding:
        return RecurrentDecoding(self, memory, beam)
