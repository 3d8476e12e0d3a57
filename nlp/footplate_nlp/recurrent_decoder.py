"""The recurrent decoder: all positions at once where none needs what the one before has made, and one step of it.

Axes: T target positions, B sentences, N rows (of hypotheses: some for each sentence), I width of an embedding, D width,
G numbers in all gates of a cell, S source positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from footplate_nlp.dropout import Dropout
from footplate_nlp.recomputing import run_layer
from footplate_nlp.recurrent_attention import Attention, NoAttention, Source
from footplate_nlp.recurrent_cells import Maps, Recurrence, State, join, masks

if TYPE_CHECKING:
    from footplate_nlp.recurrent import RecurrentConfig


@dataclass(frozen=True, slots=True)
class DecoderState:
    """What one position leaves to the next."""

    layers: Sequence[State]
    fed_ND: Tensor | None = None
    """What the attention made of the last position: only with input feeding."""
    coverage_NS: Tensor | None = None
    """How much each source position has been looked at: only with coverage."""

    def select(self, rows_N: Tensor) -> "DecoderState":
        """Those rows."""
        fed_ND, coverage_NS = (None if x is None else x[rows_N] for x in (self.fed_ND, self.coverage_NS))
        return DecoderState([tuple(x[rows_N] for x in layer) for layer in self.layers], fed_ND, coverage_NS)

    def repeat(self, count: int) -> "DecoderState":
        """Each row so many times, one after the other."""
        rows = torch.arange(len(self.layers[0][0]), device=self.layers[0][0].device)
        return self.select(rows.repeat_interleave(count))


class Kept(NamedTuple):
    """What dropout multiplies with at one position, layer by layer; None where it does nothing."""

    outputs: Sequence[Tensor | None]
    recurrent: Sequence[Tensor | None]


class Decoder(nn.Module):
    """Stacked layers, and attention from the top one: Luong et al. 2015, section 3, with either kind of score."""

    def __init__(self, config: "RecurrentConfig") -> None:
        super().__init__()
        widths = [config.embedding_width] + [config.width] * (config.decoder_layers - 1)
        self.recurrences = nn.ModuleList(
            Recurrence(config.cell, width, config.width, config.recurrent_initialiser) for width in widths
        )
        self.dropout = Dropout(config.dropout)
        self.residual = config.residual
        self.recompute = config.recompute
        self.attention, self.feed = None, None
        if not isinstance(config.attention, NoAttention):
            self.attention = Attention(config.attention, config.width, config.width)
            if config.attention.input_feeding:
                gates = len(self.layers[0].recurrent_matrix) // config.width
                self.feed = Maps(config.width, config.width, gates, bias=False)

    @property
    def layers(self) -> list[Recurrence]:
        """From the input up."""
        return cast("list[Recurrence]", list(self.recurrences))

    def start(self, layers: Sequence[State], positions: int) -> DecoderState:
        """The state before the first position, for a source of so many positions: nothing fed, nothing looked at."""
        h_ND = layers[0][0]
        covers = self.attention is not None and self.attention.coverage_D is not None
        return DecoderState(
            layers,
            None if self.feed is None else torch.zeros_like(h_ND),
            h_ND.new_zeros(len(h_ND), positions) if covers else None,
        )

    def forward(self, x_TBI: Tensor, state: DecoderState, source: Source | None) -> tuple[Tensor, Tensor | None]:
        """(hidden_BTD, attention_BTS) of all positions, layer by layer: nothing is fed back."""
        inputs = [x_TBI]
        for layer, start in zip(self.layers, state.layers, strict=True):
            output_TBD = run_layer(layer, inputs[-1], start, recompute=self.recompute)
            inputs.append(join(self.residual, inputs, self.dropout(output_TBD)))
        query_BTD = inputs[-1].transpose(0, 1)
        if self.attention is None or source is None:
            return query_BTD, None
        if state.coverage_NS is None:
            hidden_BTD, weights_BTS = self.attention(query_BTD, source, None)
            return hidden_BTD, weights_BTS
        found, coverage_BS = [], state.coverage_NS
        for query_B1D in torch.split(query_BTD, 1, 1):
            found.append(self.attention(query_B1D, source, coverage_BS[:, None]))
            coverage_BS = coverage_BS + found[-1][1][:, 0]
        hidden, weights = zip(*found, strict=True)
        return torch.cat(hidden, 1), torch.cat(weights, 1)

    def step(
        self, x_NI: Tensor, projected_NG: Tensor, state: DecoderState, source: Source | None, kept: Kept | None = None
    ) -> tuple[Tensor, Tensor | None, DecoderState]:
        """One position: (hidden_ND, weights_NS, the state after it); projected_NG is the first layer's `project(x)`."""
        if self.feed is not None and state.fed_ND is not None:
            projected_NG = torch.addmm(projected_NG, state.fed_ND, self.feed.weight.t())
        inputs, after = [x_NI], []
        for number, layer in enumerate(self.layers):
            projected_NG = layer.project(inputs[-1]) if number else projected_NG
            after.append(layer.step(projected_NG, state.layers[number], kept and kept.recurrent[number]))
            output_ND, kept_ND = after[-1][0], kept and kept.outputs[number]
            inputs.append(join(self.residual, inputs, output_ND if kept_ND is None else output_ND * kept_ND))
        if self.attention is None or source is None:
            return inputs[-1], None, DecoderState(after)
        sentences, coverage_NS = len(source.states_BSE), state.coverage_NS
        query_BTD = inputs[-1].view(sentences, -1, inputs[-1].shape[-1])
        coverage_BTS = None if coverage_NS is None else coverage_NS.view(sentences, -1, coverage_NS.shape[-1])
        hidden_ND, weights_NS = (x_BT.flatten(0, 1) for x_BT in self.attention(query_BTD, source, coverage_BTS))
        if coverage_NS is not None:
            coverage_NS = coverage_NS + weights_NS
        return hidden_ND, weights_NS, DecoderState(after, None if self.feed is None else hidden_ND, coverage_NS)

    def draw(self, positions: int, rows: int) -> list[Kept]:
        """What dropout does at each position, drawn at once, and as `forward` draws it."""
        outputs, recurrent = [], []
        for layer in self.layers:
            recurrent.append(layer.draw(positions, rows))
            outputs.append(masks(self.dropout, layer.recurrent_matrix.new_ones(positions, rows, layer.width)))
        each = zip(zip(*outputs, strict=True), zip(*recurrent, strict=True), strict=True)
        return [Kept(*of_one) for of_one in each]
