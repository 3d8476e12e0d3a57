"""Recurrent layers: a whole sequence by one fused kernel wherever the options allow, else position by position.

Axes: T positions, N rows (sentences, or hypotheses), I width of the input, H width of the state, G numbers in all gates
of a cell: H for each of its gates.
Sources: Elman 1990 (rnn); Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder" (gru), with the
reset gate after the recurrent product, as all fused kernels have it; Hochreiter & Schmidhuber 1997 and Gers et al. 2000
(lstm); Gers et al. 2002, "Learning precise timing with LSTM recurrent networks" (peepholes); Jozefowicz et al. 2015,
"An empirical exploration of recurrent network architectures" (forget bias); Semeniuta et al. 2016, "Recurrent dropout
without memory loss"; Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning" (orthogonal matrices).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from footplate.section import Number, Probability, Section
from footplate_nlp.dropout import Dropout

State = tuple[Tensor, ...]
"""What a cell carries from one position to the next: h_NH, and of an LSTM c_NH besides."""

Initialiser = Literal["orthogonal", "xavier"]


class Rnn(Section):
    """h' = tanh(W x + U h + b)."""

    kind: Literal["rnn"] = "rnn"


class Gru(Section):
    """h' = (1 - z) n + z h, n = tanh(W x + b + r (U h + c)), with gates r (reset) and z (update)."""

    kind: Literal["gru"] = "gru"
    recurrent_dropout: Probability = 0.0
    """On what is written into the state, n, anew at each position; what is remembered stays. Costs the fused kernel."""


class Lstm(Section):
    """c' = f c + i g, h' = o tanh(c'), g = tanh(W x + U h + b), with gates i (input), f (forget) and o (output)."""

    kind: Literal["lstm"] = "lstm"
    forget_bias: Number = 1.0
    """Where the bias of the forget gate starts: at 1 an untrained cell remembers."""
    peepholes: bool = False
    """Whether the gates see the cell: i and f the old one, o the new one, number by number. Costs the fused kernel."""
    recurrent_dropout: Probability = 0.0
    """On what is written into the cell, g, anew at each position; what is remembered stays. Costs the fused kernel."""


Cell = Annotated[Rnn | Gru | Lstm, Field(discriminator="kind")]

KERNELS: dict[str, Callable[[int, int], nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrence(nn.Module):
    """One layer in one direction. Its weights have torch's names and order of gates: r, z, n and i, f, g, o."""

    def __init__(self, cell: Rnn | Gru | Lstm, input_width: int, width: int, initialiser: Initialiser) -> None:
        super().__init__()
        self.width = width
        self.kernel = KERNELS[cell.kind](input_width, width)
        self.states = 2 if isinstance(cell, Lstm) else 1
        self.recurrent_dropout = Dropout(0.0 if isinstance(cell, Rnn) else cell.recurrent_dropout)
        self.peepholes_3H = None
        self._initialise(initialiser)
        if isinstance(cell, Lstm):
            nn.init.constant_(self.input_bias.data[width : 2 * width], cell.forget_bias)
            if cell.peepholes:
                self.peepholes_3H = nn.Parameter(torch.zeros(3, width))

    def _initialise(self, initialiser: Initialiser) -> None:
        """The matrices gate by gate, as each of them is a matrix of its own; biases 0."""
        draw_recurrent = nn.init.orthogonal_ if initialiser == "orthogonal" else nn.init.xavier_uniform_
        for matrix, draw in (
            (self.input_matrix, nn.init.xavier_uniform_),
            (self.recurrent_matrix, draw_recurrent),
        ):
            for gate in torch.split(matrix.data, self.width):
                draw(gate)
        nn.init.zeros_(self.input_bias)
        nn.init.zeros_(self.recurrent_bias)

    @property
    def input_matrix(self) -> Tensor:
        """W of all gates."""
        return cast(Tensor, self.kernel.weight_ih_l0)

    @property
    def recurrent_matrix(self) -> Tensor:
        """U of all gates."""
        return cast(Tensor, self.kernel.weight_hh_l0)

    @property
    def input_bias(self) -> Tensor:
        """What is added to W x."""
        return cast(Tensor, self.kernel.bias_ih_l0)

    @property
    def recurrent_bias(self) -> Tensor:
        """What is added to U h: of a gated recurrent unit within the reset, elsewhere a second b."""
        return cast(Tensor, self.kernel.bias_hh_l0)

    @property
    def fused(self) -> bool:
        """Whether one kernel does the whole sequence. oneDNN's knows no fp16 where the processor does not."""
        on_cpu = self.recurrent_matrix.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if on_cpu and torch.get_autocast_dtype("cpu") == torch.float16:
            return False
        return self.peepholes_3H is None and not (self.training and self.recurrent_dropout.probability)

    def zeros(self, rows: int) -> State:
        """The state before anything was read."""
        return tuple(self.recurrent_matrix.new_zeros(rows, self.width) for _ in range(self.states))

    def forward(self, x_TNI: Tensor, start: State) -> Tensor:
        """h_TNH after each position."""
        if self.fused:
            start_1NH = tuple(each[None] for each in start)
            h_TNH: Tensor = self.kernel(x_TNI, start_1NH if self.states == 2 else start_1NH[0])[0]
            return h_TNH
        return torch.stack([state[0] for state in self._loop(x_TNI, start)])

    def to_the_end(self, x_TNI: Tensor, start: State, length_N: Tensor) -> tuple[Tensor, State]:
        """h_TNH and the state after each row's last real position. What h is behind that position means nothing."""
        if not self.fused:
            states = [torch.stack(of_all) for of_all in zip(*self._loop(x_TNI, start), strict=True)]
            return states[0], tuple(last(state_TNH, length_N) for state_TNH in states)
        if self.states == 1:
            h_TNH = self(x_TNI, start)
            return h_TNH, (last(h_TNH, length_N),)
        # The kernel tells h of all positions, but c of the last one alone: a packed sequence has no padding there.
        packed = pack_padded_sequence(x_TNI, length_N.cpu(), enforce_sorted=False)
        packed_h, end = self.kernel(packed, tuple(each[None] for each in start))
        return pad_packed_sequence(packed_h, total_length=len(x_TNI))[0], tuple(each[0] for each in end)

    def _loop(self, x_TNI: Tensor, state: State) -> Iterator[State]:
        kept = self.draw(len(x_TNI), len(state[0]))
        for projected_NG, kept_NH in zip(self.project(x_TNI).unbind(0), kept, strict=True):
            state = self.step(projected_NG, state, kept_NH)
            yield state

    def draw(self, positions: int, rows: int) -> Sequence[Tensor | None]:
        """For each position what the recurrent dropout multiplies with, NH: None where it does nothing."""
        return masks(self.recurrent_dropout, self.recurrent_matrix.new_ones(positions, rows, self.width))

    def project(self, x_TNI: Tensor) -> Tensor:
        """projected_TNG: all of a step that does not depend on the state, for any number of positions at once."""
        bias_G = self.input_bias
        if not isinstance(self.kernel, nn.GRU):
            bias_G = bias_G + self.recurrent_bias
        return F.linear(x_TNI, self.input_matrix, bias_G)

    def step(self, projected_NG: Tensor, state: State, kept_NH: Tensor | None = None) -> State:
        """One position: the state after it."""
        if self.states == 2:
            return self._lstm(projected_NG, state, kept_NH)
        (h_NH,) = state
        if not isinstance(self.kernel, nn.GRU):
            return (self._recur(projected_NG, h_NH).tanh(),)
        reset_NH, update_NH, new_NH = projected_NG.chunk(3, -1)
        recurrent_NG = F.linear(h_NH, self.recurrent_matrix, self.recurrent_bias)
        reset_again_NH, update_again_NH, new_again_NH = recurrent_NG.chunk(3, -1)
        new_NH = (new_NH + (reset_NH + reset_again_NH).sigmoid() * new_again_NH).tanh()
        if kept_NH is not None:
            new_NH = new_NH * kept_NH
        update_NH = (update_NH + update_again_NH).sigmoid()
        return (new_NH + update_NH * (h_NH - new_NH),)

    def _lstm(self, projected_NG: Tensor, state: State, kept_NH: Tensor | None) -> State:
        h_NH, c_NH = state
        input_NH, forget_NH, new_NH, output_NH = self._recur(projected_NG, h_NH).chunk(4, -1)
        if self.peepholes_3H is not None:
            input_NH = input_NH + self.peepholes_3H[0] * c_NH
            forget_NH = forget_NH + self.peepholes_3H[1] * c_NH
        new_NH = new_NH.tanh()
        if kept_NH is not None:
            new_NH = new_NH * kept_NH
        c_NH = forget_NH.sigmoid() * c_NH + input_NH.sigmoid() * new_NH
        if self.peepholes_3H is not None:
            output_NH = output_NH + self.peepholes_3H[2] * c_NH
        return output_NH.sigmoid() * c_NH.tanh(), c_NH

    def _recur(self, projected_NG: Tensor, h_NH: Tensor) -> Tensor:
        return torch.addmm(projected_NG, h_NH, self.recurrent_matrix.t())


class Maps(nn.Linear):
    """Several linear maps of the same input side by side, each drawn as a matrix of its own."""

    def __init__(self, input_width: int, width: int, count: int, bias: bool = True) -> None:
        super().__init__(input_width, count * width, bias)
        self.count = count
        self.draw_weights(nn.init.xavier_uniform_)
        if bias:
            nn.init.zeros_(self.bias)

    def draw_weights(self, draw: Callable[[Tensor], object]) -> None:
        """Draw each map."""
        for weight in self.weight.data.chunk(self.count):
            draw(weight)


def masks(dropout: Dropout, ones_TNH: Tensor) -> Sequence[Tensor | None]:
    """What a dropout multiplies with at each position; None where it does nothing."""
    if not (dropout.training and dropout.probability):
        return [None] * len(ones_TNH)
    dropped_TNH: Tensor = dropout(ones_TNH)
    return dropped_TNH.unbind(0)


def last(x_TNH: Tensor, length_N: Tensor) -> Tensor:
    """x_NH at each row's last real position."""
    return x_TNH[length_N - 1, torch.arange(len(length_N), device=length_N.device)]


def join(residual: Literal["none", "residual", "dense"], inputs: list[Tensor], output: Tensor) -> Tensor:
    """What a layer hands up, given its output and the inputs of all layers up to it, its own last.

    `residual`: output + its input; `dense`: output + the inputs of all layers so far.
    Source: Britz et al. 2017, "Massive exploration of neural machine translation architectures", Res and ResD.
    """
    if residual == "none":
        return output
    return sum(inputs[-1:] if residual == "residual" else inputs, output)
