"""Initialisers: what they draw, where, and what they leave alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from footplate.initialisers import FanIn, Gaussian, Glorot, He, Initialiser, Orthogonal, initialise


def drawn(initialiser: Initialiser, outputs: int = 300, inputs: int = 500) -> Tensor:
    torch.manual_seed(1)
    linear = nn.Linear(inputs, outputs)
    initialise(linear, initialiser)
    return linear.weight.detach()


@pytest.mark.parametrize(
    ("initialiser", "deviation", "bound"),
    [
        (FanIn(), 1 / math.sqrt(3 * 500), 1 / math.sqrt(500)),
        (Glorot(), math.sqrt(2 / 800), math.sqrt(6 / 800)),
        (Glorot(distribution="normal"), math.sqrt(2 / 800), None),
        (He(), math.sqrt(2 / 500), None),
        (He(distribution="uniform"), math.sqrt(2 / 500), math.sqrt(6 / 500)),
        (Gaussian(standard_deviation=0.3), 0.3, None),
    ],
)
def test_mean_deviation_and_bound_are_those_of_the_formula(
    initialiser: Initialiser, deviation: float, bound: float | None
) -> None:
    weight = drawn(initialiser)
    assert abs(weight.mean().item()) < 0.02 * deviation
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    largest = weight.abs().max().item()
    if bound is None:
        assert largest > 4 * deviation
    else:
        assert 0.99 * bound < largest <= bound


@pytest.mark.parametrize(("outputs", "inputs"), [(20, 20), (10, 30), (30, 10)])
def test_orthogonal_is(outputs: int, inputs: int) -> None:
    weight = drawn(Orthogonal(gain=2.0), outputs, inputs).double()
    product = weight @ weight.T if outputs <= inputs else weight.T @ weight
    torch.testing.assert_close(product, 4 * torch.eye(min(outputs, inputs)).double(), rtol=0, atol=1e-5)


def test_a_convolution_s_kernel_counts_among_its_inputs() -> None:
    torch.manual_seed(1)
    convolution = nn.Conv2d(16, 32, 5)
    initialise(convolution, He())
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (16 * 25)), rel=0.03)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1), (nn.LSTMCell, 4)])
def test_each_gate_of_a_recurrent_cell_is_a_map_of_its_own(kind: Callable[..., nn.Module], gates: int) -> None:
    cell = kind(8, 8)
    initialise(cell, Orthogonal())
    matrices = [weight for name, weight in cell.named_parameters() if name.startswith("weight")]
    assert len(matrices) == 2
    for matrix in matrices:
        assert matrix.shape == (8 * gates, 8)
        for gate in matrix.detach().chunk(gates):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8), rtol=0, atol=1e-5)


def test_embeddings_norms_bare_parameters_and_biases_of_cells_stay() -> None:
    module = nn.ModuleDict(
        {"embedding": nn.Embedding(5, 4, padding_idx=0), "norm": nn.LayerNorm(4), "cell": nn.LSTM(4, 4)}
    )
    module.register_parameter("alpha", nn.Parameter(torch.zeros(())))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    initialise(module, Gaussian(bias=0.5))
    changed = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["cell.weight_ih_l0", "cell.weight_hh_l0"]


@pytest.mark.parametrize("bias", [0.0, 0.1])
def test_biases_start_where_they_are_told(bias: float) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Conv1d(4, 5, 2), nn.Linear(2, 2, bias=False))
    initialise(module, He(bias=bias))
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.testing.assert_close(parameter, torch.full_like(parameter, bias))


def test_a_module_may_draw_its_blocks_itself() -> None:
    class Blocks(nn.Linear):
        def draw_weights(self, draw: Callable[[Tensor], object]) -> None:
            for block in self.weight.data.chunk(2):
                draw(block)

    blocks = Blocks(6, 12)
    initialise(blocks, Orthogonal(bias=0.2))
    for block in blocks.weight.detach().chunk(2):
        torch.testing.assert_close(block @ block.T, torch.eye(6), rtol=0, atol=1e-5)
    assert blocks.bias.unique().tolist() == pytest.approx([0.2])


def test_null_changes_nothing_and_draws_nothing() -> None:
    linear = nn.Linear(3, 4)
    before, generator = linear.weight.clone(), torch.get_rng_state()
    initialise(linear, None)
    assert torch.equal(linear.weight, before)
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_same_seed_draws_the_same_weights() -> None:
    assert torch.equal(drawn(Orthogonal()), drawn(Orthogonal()))
