"""The recurrent encoder: stacked layers in one direction or both, and the bridge to the decoder.

Axes: S source positions, B sentences, I width of an embedding, D width, H width of one direction.
Padding is on the right: no position reads what is behind it, and the backward direction gets each sentence turned round
within its own length, so the fused kernels need no packing.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from footplate_nlp.dropout import Dropout
from footplate_nlp.recomputing import run_layer
from footplate_nlp.recurrent_cells import Lstm, Maps, Recurrence, State, join, last

if TYPE_CHECKING:
    from footplate_nlp.recurrent import RecurrentConfig


class EncoderLayer(nn.Module):
    """One layer: forwards, and if asked for backwards, each with half of the width."""

    def __init__(self, config: "RecurrentConfig", input_width: int) -> None:
        super().__init__()
        width = config.width // 2 if config.bidirectional else config.width
        sizes = input_width, width, config.recurrent_initialiser
        self.forwards = Recurrence(config.cell, *sizes)
        self.backwards = Recurrence(config.cell, *sizes) if config.bidirectional else None
        self.whole_state = config.bridge == "copy"

    def forward(self, x_SBI: Tensor, length_B: Tensor, turned_SB: Tensor) -> tuple[Tensor, State]:
        """h_SBD at each position, and the state at the end: all of it for copying, h alone for a linear bridge."""
        h_SBH, end = self._run(self.forwards, x_SBI, length_B)
        if self.backwards is None:
            return h_SBH, end
        back_SBH, back_end = self._run(self.backwards, reorder(x_SBI, turned_SB), length_B)
        ends = tuple(torch.cat(both, -1) for both in zip(end, back_end, strict=True))
        return torch.cat([h_SBH, reorder(back_SBH, turned_SB)], -1), ends

    def _run(self, direction: Recurrence, x_SBI: Tensor, length_B: Tensor) -> tuple[Tensor, State]:
        start = direction.zeros(x_SBI.shape[1])
        if self.whole_state:
            return direction.to_the_end(x_SBI, start, length_B)
        h_SBH: Tensor = direction(x_SBI, start)
        return h_SBH, (last(h_SBH, length_B),)


class Encoder(nn.Module):
    """All layers, from the embeddings up."""

    def __init__(self, config: "RecurrentConfig") -> None:
        super().__init__()
        widths = [config.embedding_width] + [config.width] * (config.encoder_layers - 1)
        self.layers = nn.ModuleList(EncoderLayer(config, width) for width in widths)
        self.dropout = Dropout(config.dropout)
        self.residual = config.residual
        self.recompute = config.recompute
        self.reversed = config.reversed_source

    def forward(self, x_BSI: Tensor, length_B: Tensor) -> tuple[Tensor, list[State]]:
        """states_BSD in the order of the source, and the state of each layer at the end."""
        x_SBI = x_BSI.transpose(0, 1)
        turned_SB = turn(length_B, len(x_SBI))
        # A sentence is turned round, its end stays at the end, as in Sutskever et al. 2014: "C B A <end>".
        source_SB = turn(length_B - 1, len(x_SBI))
        inputs, ends = [reorder(x_SBI, source_SB) if self.reversed else x_SBI], []
        for layer in self.layers:
            output_SBD, end = run_layer(layer, inputs[-1], length_B, turned_SB, recompute=self.recompute)
            inputs.append(join(self.residual, inputs, self.dropout(output_SBD)))
            ends.append(end)
        states_SBD = reorder(inputs[-1], source_SB) if self.reversed else inputs[-1]
        return states_SBD.transpose(0, 1), ends


class Bridge(nn.Module):
    """The decoder's initial states from the encoder's last: of the layer at the same distance from the top.

    Copied as they are (Sutskever et al. 2014), or h = tanh(W h + b) (Bahdanau et al. 2015, appendix A.2.2, where h is
    the backward direction's; here both) and of an LSTM c = V h + d.
    """

    def __init__(self, config: "RecurrentConfig") -> None:
        super().__init__()
        self.from_layers = [
            max(0, config.encoder_layers - config.decoder_layers + layer) for layer in range(config.decoder_layers)
        ]
        self.states = 2 if isinstance(config.cell, Lstm) else 1
        count = 0 if config.bridge == "copy" else config.decoder_layers
        self.linears = nn.ModuleList(Maps(config.width, config.width, self.states) for _ in range(count))

    def forward(self, ends: list[State]) -> list[State]:
        """The state in which each decoder layer starts."""
        chosen = [ends[layer] for layer in self.from_layers]
        if not len(self.linears):
            return chosen
        made = [linear(end[0]).chunk(self.states, -1) for linear, end in zip(self.linears, chosen, strict=True)]
        return [(h_BD.tanh(), *c_BD) for h_BD, *c_BD in made]


def turn(length_B: Tensor, positions: int) -> Tensor:
    """order_SB that turns the first `length` positions of each sentence round, and is its own inverse."""
    position_S1 = torch.arange(positions, device=length_B.device)[:, None]
    return torch.where(position_S1 < length_B, length_B - 1 - position_S1, position_S1)


def reorder(x_SBD: Tensor, order_SB: Tensor) -> Tensor:
    """x at the positions in that order."""
    return x_SBD[order_SB, torch.arange(order_SB.shape[1], device=order_SB.device)]
