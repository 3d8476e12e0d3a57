"""Networks: their shapes, their sizes as published, their starts, and what they refuse."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import nn

from footplate.errors import FootplateError
from footplate_rl.networks import MLP, NIPS, ActorCritic, Nature, build_network

SCREEN = Box(0, 255, (4, 84, 84), np.uint8)
VECTOR = Box(-1, 1, (4,), np.float32)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build(config: MLP | NIPS | Nature, observations: Box = VECTOR, actions: int = 6) -> ActorCritic:
    torch.manual_seed(1)
    return build_network(config, observations, Discrete(actions))


def test_nips_has_the_layers_of_mnih_2013() -> None:
    first, second = 16 * 4 * 8 * 8 + 16, 32 * 16 * 4 * 4 + 32
    hidden = 9 * 9 * 32 * 256 + 256
    assert parameters(build(NIPS(), SCREEN)) == first + second + hidden + (256 * 6 + 6) + (256 + 1)


def test_nature_has_the_layers_of_mnih_2015() -> None:
    convolutions = 32 * 4 * 8 * 8 + 32 + 64 * 32 * 4 * 4 + 64 + 64 * 64 * 3 * 3 + 64
    hidden = 7 * 7 * 64 * 512 + 512
    assert parameters(build(Nature(), SCREEN)) == convolutions + hidden + (512 * 6 + 6) + (512 + 1)


def test_a_separate_trunk_doubles_the_hidden_layers() -> None:
    trunk = 4 * 64 + 64 + 64 * 64 + 64
    heads = 64 * 6 + 6 + 64 + 1
    assert parameters(build(MLP(shared=True))) == trunk + heads
    assert parameters(build(MLP(shared=False))) == 2 * trunk + heads


@pytest.mark.parametrize("config", [MLP(), MLP(shared=True), MLP(hidden=(), activation="relu")])
def test_one_row_of_logits_and_one_value_for_each_observation(config: MLP) -> None:
    logits_MA, values_M = build(config)(torch.zeros(3, 4))
    assert logits_MA.shape == (3, 6)
    assert values_M.shape == (3,)


@pytest.mark.parametrize("config", [MLP(), NIPS(), Nature()])
def test_bytes_are_scaled_to_between_0_and_1(config: MLP | NIPS | Nature) -> None:
    network = build(config, SCREEN)
    pixels = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    untouched = pixels.clone()
    for scaled, bytewise in zip(network(pixels.float() / 255), network(pixels), strict=True):
        torch.testing.assert_close(bytewise, scaled)
    assert torch.equal(pixels, untouched)


def test_numbers_that_are_no_bytes_are_left_as_they_are_and_not_written_to() -> None:
    observations = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    build(MLP())(observations)
    assert observations.tolist() == [[1.0, -2.0, 3.0, 4.0]]


def test_an_orthogonal_start_preserves_lengths_and_is_near_uniform() -> None:
    network = build(MLP(initialiser="orthogonal"))
    layer = network.policy_trunk[1]
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(layer.weight.T @ layer.weight, 2 * torch.eye(4), atol=1e-5, rtol=0)
    logits_MA, _ = network(torch.ones(1, 4))
    assert logits_MA.abs().max().item() < 0.05
    torch.testing.assert_close(network.value.weight.norm(), torch.tensor(1.0))
    assert all(m.bias.abs().max().item() == 0 for m in network.modules() if isinstance(m, nn.Linear))


def test_the_default_start_of_torch_stays_within_its_bound() -> None:
    network = build(NIPS(initialiser="torch"), SCREEN)
    assert 0.9 / 16 < network.policy.weight.abs().max().item() <= 1 / 16


def test_a_network_for_images_refuses_other_observations() -> None:
    with pytest.raises(FootplateError) as error:
        build(NIPS())
    assert str(error.value) == (
        "network.kind: nips takes images (channels, height, width), not observations of shape (4,); use mlp"
    )


def test_a_network_for_images_refuses_small_ones() -> None:
    with pytest.raises(FootplateError) as error:
        build(Nature(), Box(0, 255, (1, 16, 16), np.uint8))
    assert str(error.value) == (
        "network.kind: nature takes images of 36 x 36 and more, not of shape (1, 16, 16); use mlp"
    )


def test_the_smallest_image_that_is_said_to_fit_fits() -> None:
    for config, size in ((NIPS(), 20), (Nature(), 36)):
        screen = Box(0, 255, (1, size, size), np.uint8)
        build(config, screen)(torch.zeros(1, *screen.shape, dtype=torch.uint8))
        with pytest.raises(FootplateError, match=f"takes images of {size} x {size} and more"):
            build(config, Box(0, 255, (1, size, size - 1), np.uint8))


@pytest.mark.parametrize("actions", [MultiDiscrete([2, 2]), Box(0, 3, (2,), np.int64), Box(0, 1, (), np.float32)])
def test_actions_must_be_discrete_or_a_box_of_numbers(actions: Any) -> None:
    with pytest.raises(FootplateError) as error:
        build_network(MLP(), VECTOR, actions)
    assert str(error.value) == (
        f"network: actions are {actions}; use an environment whose actions are Discrete, or a Box of real numbers"
    )
