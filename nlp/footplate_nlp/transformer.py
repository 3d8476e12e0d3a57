"""The Transformer encoder-decoder.

Axes: B sentences, S source positions, T target positions, D width, V vocabulary, N rows of hypotheses, L layers.
Source: Vaswani et al. 2017, "Attention is all you need"; pre-norm: Xiong et al. 2020, "On layer normalization in the
Transformer architecture", with a last norm after each stack; ReZero: Bachlechner et al. 2020, "ReZero is all you need:
fast convergence at large depth"; tied embeddings: Press & Wolf 2017, "Using the output embedding to improve language
models".
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from footplate.section import Count, Probability, Section
from footplate_nlp.attention import CrossAttention, SelfAttention, SourceCache
from footplate_nlp.copying import Copying
from footplate_nlp.dropout import Dropout
from footplate_nlp.embeddings import Tie, embedding, refuse_two_vocabularies
from footplate_nlp.recomputing import run_layer
from footplate_nlp.seq2seq import Decoded, Memory, Seq2Seq
from footplate_nlp.symbols import PAD
from footplate_nlp.transformer_decoding import TransformerDecoding


class TransformerConfig(Section):
    """A Transformer; the defaults are the tiny model of Multi30k (Wu et al. 2021, arXiv 2105.14462)."""

    kind: Literal["transformer"] = "transformer"
    encoder_layers: Count = 4
    """Layers that read the source."""
    decoder_layers: Count = 4
    """Layers that write the target."""
    width: Count = 128
    """Numbers in an embedding and between layers (d_model)."""
    feed_forward_width: Count = 256
    """Numbers inside the feed-forward sub-layers."""
    heads: Count = 4
    """Attention heads; they share the width."""
    norm: Literal["pre", "post", "rezero"] = "post"
    """LayerNorm before each sub-layer (steady without much warm-up) or after the residual sum (the original);
    `rezero`: none, but a factor of what each sub-layer adds, which is learned and starts at 0."""
    activation: Literal["relu", "gelu"] = "relu"
    """What bends the feed-forward sub-layers."""
    dropout: Probability = 0.3
    """On embeddings and on what each sub-layer adds."""
    attention_dropout: Probability = 0.0
    """On attention weights; costs the fused attention kernel while training."""
    activation_dropout: Probability = 0.0
    """Inside the feed-forward sub-layers, after the activation."""
    tie: Tie = "all"
    """`target`: one matrix embeds the target and makes the output; `all`: the source too, with a joint vocabulary."""
    copying: bool = False
    """Whether source tokens may be copied, by the last layer's attention to the source (See et al. 2017, eq. 8, 9)."""
    recompute: bool = False
    """Keep only the input of each layer and make the rest again for the gradient: less memory, more time."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}; change one of them")
        if self.width % 2:
            raise ValueError(f"width {self.width} is odd, but positions are pairs of sine and cosine; make it even")
        return self


class Residual(nn.Module):
    """x + dropout(layer(x)), normalised before the layer or after the sum."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.before = config.norm == "pre"
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.before:
            added: Tensor = x + self.dropout(layer(self.norm(x)))
            return added
        normalised: Tensor = self.norm(x + self.dropout(layer(x)))
        return normalised


class ReZero(nn.Module):
    """x + alpha dropout(layer(x)), eq. 1 of Bachlechner et al. 2020: alpha starts at 0, and so the layer at x."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(()))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        added: Tensor = x + self.alpha * self.dropout(layer(x))
        return added


def _residual(config: TransformerConfig) -> Residual | ReZero:
    return ReZero(config) if config.norm == "rezero" else Residual(config)


class FeedForward(nn.Module):
    """output(dropout(activation(input(x)))), at each position alone."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.width, config.feed_forward_width)
        self.output = nn.Linear(config.feed_forward_width, config.width)
        self.activation: Callable[[Tensor], Tensor] = F.relu if config.activation == "relu" else F.gelu
        self.dropout = Dropout(config.activation_dropout)
        for linear in (self.input, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.output(self.dropout(self.activation(self.input(x))))
        return mixed


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads, config.attention_dropout)
        self.attention_residual = _residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = _residual(config)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor) -> Tensor:
        x_BSD = self.attention_residual(x_BSD, lambda y_BSD: self.attention(y_BSD, mask_B11S))
        out_BSD: Tensor = self.feed_forward_residual(x_BSD, self.feed_forward)
        return out_BSD


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, then feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config.width, config.heads, config.attention_dropout)
        self.self_residual = _residual(config)
        self.cross_attention = CrossAttention(config.width, config.heads, config.attention_dropout)
        self.cross_residual = _residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = _residual(config)

    def forward(
        self, x_BTD: Tensor, states_BSD: Tensor, mask_B11S: Tensor, looked: list[Tensor] | None = None
    ) -> Tensor:
        """`looked` is given to be told where the attention to the source looked, BTS."""

        def cross(y_BTD: Tensor) -> Tensor:
            if looked is not None:
                looked.append(self.cross_attention.look(y_BTD, states_BSD, mask_B11S))
            mixed_BTD: Tensor = self.cross_attention(y_BTD, states_BSD, mask_B11S)
            return mixed_BTD

        x_BTD = self.self_residual(x_BTD, lambda y_BTD: self.self_attention(y_BTD, causal=True))
        x_BTD = self.cross_residual(x_BTD, cross)
        out_BTD: Tensor = self.feed_forward_residual(x_BTD, self.feed_forward)
        return out_BTD

    def step(
        self,
        x_ND: Tensor,
        past_T2ND: Tensor,
        position: int,
        hidden_T: Tensor,
        source: SourceCache,
        looked: list[Tensor] | None = None,
    ) -> Tensor:
        """One position, with the caches of the two attentions; `looked` is told where it looked, NS."""

        def cross(y_ND: Tensor) -> Tensor:
            if looked is not None:
                looked.append(self.cross_attention.look_once(y_ND, source))
            return self.cross_attention.step(y_ND, source)

        x_ND = self.self_residual(x_ND, lambda y_ND: self.self_attention.step(y_ND, past_T2ND, position, hidden_T))
        x_ND = self.cross_residual(x_ND, cross)
        out_ND: Tensor = self.feed_forward_residual(x_ND, self.feed_forward)
        return out_ND


class Transformer(Seq2Seq):
    """Attention all the way.

    A tied matrix is one parameter under one name, so that no save, load or move can untie it; where it embeds it is
    scaled by sqrt(D), where it makes the output it is not.
    """

    def __init__(self, config: TransformerConfig, source_vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        refuse_two_vocabularies(source_vocabulary, target_vocabulary, tie=config.tie, copying=config.copying)
        self.width = config.width
        self.recompute = config.recompute
        self.dropout = Dropout(config.dropout)
        self.target_embedding = embedding(target_vocabulary, config.width, config.width**-0.5)
        self.source_embedding = (
            None if config.tie == "all" else embedding(source_vocabulary, config.width, config.width**-0.5)
        )
        self.output = None if config.tie != "none" else embedding(target_vocabulary, config.width, config.width**-0.5)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        last = nn.LayerNorm if config.norm == "pre" else nn.Identity
        self.encoder_norm = last(config.width)
        self.decoder_norm = last(config.width)
        self.copying = Copying(*3 * [config.width]) if config.copying else None

    @property
    def layers(self) -> list[DecoderLayer]:
        """The decoder's layers, from the input up."""
        return cast(list[DecoderLayer], list(self.decoder))

    def encode(self, source_BS: Tensor) -> Memory:
        attend_BS = source_BS != PAD
        attend_BS[:, 0] = True  # a softmax over nothing is not a number: an empty source attends to one pad
        mask_B11S = attend_BS[:, None, None]
        x_BSD = self.embed(self.source_embedding or self.target_embedding, source_BS)
        for layer in self.encoder:
            x_BSD = run_layer(layer, x_BSD, mask_B11S, recompute=self.recompute)
        return Memory(source_BS, self.encoder_norm(x_BSD), attend_BS)

    def decode(self, memory: Memory, input_BT: Tensor, *, attention: bool = False) -> Decoded:
        x_BTD = input_BTD = self.embed(self.target_embedding, input_BT)
        mask_B11S = memory.attend_BS[:, None, None]
        looked: list[Tensor] = []
        for layer in self.layers:
            tell = looked if layer is self.layers[-1] and (attention or self.copying) else None
            # Run again for the gradient, a layer tells once more where it looked, when nobody listens any longer.
            x_BTD = run_layer(layer, x_BTD, memory.states_BSD, mask_B11S, tell, recompute=self.recompute)
        hidden_BTD: Tensor = self.decoder_norm(x_BTD)
        if not looked:
            return Decoded(hidden_BTD)
        if self.copying is None:
            return Decoded(hidden_BTD, looked[0])
        return Decoded(hidden_BTD, looked[0], self.copying(hidden_BTD, looked[0], memory.states_BSD, input_BTD))

    @property
    def output_matrix(self) -> Tensor:
        return (self.output or self.target_embedding).weight

    def start(self, memory: Memory, beam: int) -> TransformerDecoding:
        return TransformerDecoding(self, memory, beam)

    def embed(self, embedding: nn.Embedding, ids_BT: Tensor, first: int = 0) -> Tensor:
        """sqrt(D) * embedding + position. The first id is at position `first`."""
        scaled_BTD = embedding(ids_BT) * self.width**0.5
        last = first + ids_BT.shape[1]
        table_TD = sinusoids(1 << max(last - 1, 63).bit_length(), self.width, scaled_BTD.dtype, scaled_BTD.device)
        embedded_BTD: Tensor = self.dropout(scaled_BTD + table_TD[first:last])
        return embedded_BTD


@lru_cache(maxsize=16)
def sinusoids(length: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """table_TD: sin(t / 10000^(2i / D)) in the first half of a row, the cosines in the second.

    The paper interleaves the two, which permutes the columns and nothing more. Not a buffer of the module: data
    parallel would exchange buffers, whose lengths differ between ranks.
    """
    with torch.inference_mode(False):
        rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * -(math.log(1e4) / width))
        angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], 1).to(device, dtype)
