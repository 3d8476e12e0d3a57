"""Each optimizer against its paper's formula, worked by hand or against a naive version."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from footplate.optimizers import Adadelta, Adam, AdamW, Optimizer, RAdam, RmsProp, Sgd, build_optimizer, decay_groups


class Weights(nn.Module):
    """Parameters to move by hand; `loss` has the gradient that it is given."""

    def __init__(self, *values: Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(value.clone()) for value in values)

    def give(self, gradients: list[Tensor]) -> None:
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient.clone()


def scalar_path(config: Optimizer, gradients: list[float], start: float = 1.0) -> list[float]:
    """Where one weight goes under these gradients."""
    module = Weights(torch.tensor([[start]], dtype=torch.float64))
    optimizer = build_optimizer(config, module)
    path = []
    for gradient in gradients:
        module.give([torch.tensor([[gradient]], dtype=torch.float64)])
        optimizer.step()
        path.append(module.weights[0].item())
    return path


def test_plain_descent_steps_along_the_gradient() -> None:
    assert scalar_path(Sgd(learning_rate=0.5), [2.0, -1.0]) == [0.0, 0.5]


def test_momentum_keeps_a_share_of_the_velocity() -> None:
    # v = 2, then 0.5 * 2 + 1 = 2
    assert scalar_path(Sgd(learning_rate=0.25, momentum=0.5), [2.0, 1.0]) == [0.5, 0.0]


def test_nesterov_looks_ahead_along_the_velocity() -> None:
    # v = 2: step 2 + 0.5 * 2 = 3; v = 0.5 * 2 + 1 = 2: step 1 + 0.5 * 2 = 2
    assert scalar_path(Sgd(learning_rate=0.25, momentum=0.5, nesterov=True), [2.0, 1.0]) == [0.25, -0.25]


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        Sgd(nesterov=True)
    assert caught.value.errors()[0]["msg"] == (
        "Value error, nesterov without momentum does nothing; set momentum above 0 or nesterov to false"
    )


def test_adadelta_has_its_papers_defaults_and_first_two_steps() -> None:
    mean_square = mean_step = 0.0
    weight, expected = 1.0, []
    for gradient in [2.0, -3.0]:
        mean_square = 0.95 * mean_square + 0.05 * gradient**2
        step = gradient * math.sqrt(mean_step + 1e-6) / math.sqrt(mean_square + 1e-6)
        mean_step = 0.95 * mean_step + 0.05 * step**2
        weight -= step
        expected.append(weight)
    assert scalar_path(Adadelta(), [2.0, -3.0]) == pytest.approx(expected, abs=1e-14)


def test_adam_corrects_the_bias_of_its_means() -> None:
    config = Adam(learning_rate=0.1, betas=(0.9, 0.98), epsilon=0.5)
    first = 1 - 0.1 * 2 / (2 + 0.5)
    mean = (0.9 * 0.1 * 2 + 0.1 * 4) / (1 - 0.9**2)
    square = (0.98 * 0.02 * 4 + 0.02 * 16) / (1 - 0.98**2)
    second = first - 0.1 * mean / (math.sqrt(square) + 0.5)
    assert scalar_path(config, [2.0, 4.0]) == pytest.approx([first, second], abs=1e-14)


def test_decay_is_l2_in_adam_and_decoupled_in_adamw_and_radam() -> None:
    gradient, weight, rate, decay = 2.0, 3.0, 0.1, 0.5
    adaptive = (gradient + decay * weight) / (gradient + decay * weight + 1.0)
    settings = {"learning_rate": rate, "weight_decay": decay, "epsilon": 1.0}
    assert scalar_path(Adam(**settings), [gradient], weight) == pytest.approx([weight - rate * adaptive])
    decoupled = weight - rate * decay * weight
    assert scalar_path(AdamW(**settings), [gradient], weight) == pytest.approx([decoupled - rate * 2 / 3])
    # In the first five updates RAdam's variance is intractable: plain momentum, freed of its bias.
    assert scalar_path(RAdam(**settings), [gradient], weight) == pytest.approx([decoupled - rate * gradient])


def test_radam_rectifies_its_rate_once_the_variance_is_tractable() -> None:
    beta1, beta2, rate, epsilon = 0.9, 0.999, 0.01, 1e-8
    gradients = [1.0, -2.0, 0.5, 3.0, -1.0, 2.0, 1.5]
    limit = 2 / (1 - beta2) - 1
    mean = square = 0.0
    weight, expected = 1.0, []
    for number, gradient in enumerate(gradients, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        length = limit - 2 * number * beta2**number / (1 - beta2**number)
        unbiased = mean / (1 - beta1**number)
        if length > 5:
            scale = math.sqrt(1 - beta2**number) / (math.sqrt(square) + epsilon)
            numerator = (length - 4) * (length - 2) * limit
            weight -= rate * unbiased * scale * math.sqrt(numerator / ((limit - 4) * (limit - 2) * length))
        else:
            weight -= rate * unbiased
        expected.append(weight)
    assert scalar_path(RAdam(learning_rate=rate), gradients) == pytest.approx(expected, abs=1e-10)


def test_the_place_of_epsilon_is_a_factor_of_three_at_a_tenth() -> None:
    outside = RmsProp(learning_rate=1.0, epsilon=0.1)
    inside = RmsProp(learning_rate=1.0, epsilon=0.1, epsilon_inside_root=True)
    gradient = 1e-6
    assert scalar_path(outside, [gradient], 0.0) == pytest.approx([-gradient / 0.1], rel=1e-5)
    assert scalar_path(inside, [gradient], 0.0) == pytest.approx([-gradient / math.sqrt(0.1)], rel=1e-5)


def test_a_statistic_that_starts_at_one_makes_the_first_step_small() -> None:
    config = {"learning_rate": 1.0, "decay": 0.75, "epsilon": 1e-12}
    assert scalar_path(RmsProp(**config), [2.0], 0.0) == pytest.approx([-2 / math.sqrt(0.25 * 4)])
    started = RmsProp(**config, initial_statistic=1)
    assert scalar_path(started, [2.0], 0.0) == pytest.approx([-2 / math.sqrt(0.75 + 0.25 * 4)])


def naive_rmsprop(
    config: RmsProp, weights: list[Tensor], gradients: list[list[Tensor]], decays: list[float]
) -> list[Tensor]:
    """One element at a time, in Python's arithmetic."""
    results = []
    for index, (start, decay) in enumerate(zip(weights, decays, strict=True)):
        values = start.flatten().tolist()
        squares = [float(config.initial_statistic)] * len(values)
        velocities = [0.0] * len(values)
        for update in gradients:
            for place, one in enumerate(update[index].flatten().tolist()):
                gradient = one + decay * values[place]
                squares[place] = config.decay * squares[place] + (1 - config.decay) * gradient**2
                if config.epsilon_inside_root:
                    root = math.sqrt(squares[place] + config.epsilon)
                else:
                    root = math.sqrt(squares[place]) + config.epsilon
                velocities[place] = config.momentum * velocities[place] + gradient / root
                values[place] -= config.learning_rate * velocities[place]
        results.append(torch.tensor(values, dtype=torch.float64).reshape(start.shape))
    return results


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("statistic", [0, 1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_fast_rmsprop_equals_the_naive_one(inside: bool, statistic: int, momentum: float, weight_decay: float) -> None:
    config = RmsProp(
        learning_rate=0.01,
        epsilon=0.1,
        epsilon_inside_root=inside,
        initial_statistic=statistic,  # type: ignore[arg-type]
        momentum=momentum,
        weight_decay=weight_decay,
    )
    stream = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=stream, dtype=torch.float64) for shape in [(3, 2), (5,), (2, 2, 2)]]
    gradients = [[torch.randn(one.shape, generator=stream, dtype=torch.float64) for one in weights] for _ in range(4)]
    module = Weights(*weights)
    optimizer = build_optimizer(config, module)
    for update in gradients:
        module.give(update)
        optimizer.step()
    expected = naive_rmsprop(config, weights, gradients, [weight_decay, 0.0, weight_decay])
    for weight, value in zip(module.weights, expected, strict=True):
        torch.testing.assert_close(weight.data, value, rtol=0, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_with_torchs_choices_equals_torchs(momentum: float) -> None:
    # The largest parameter fills a chunk of the foreach calls by itself.
    shapes = [(4,), (300, 300), (7, 3)]
    stream = torch.Generator().manual_seed(2)
    ours, theirs = (Weights(*(torch.ones(shape) for shape in shapes)) for _ in range(2))
    first = build_optimizer(RmsProp(learning_rate=0.01, momentum=momentum), ours)
    second = torch.optim.RMSprop(theirs.parameters(), 0.01, momentum=momentum, foreach=False)
    for _ in range(3):
        gradients = [torch.randn(shape, generator=stream) for shape in shapes]
        for module, optimizer in [(ours, first), (theirs, second)]:
            module.give(gradients)
            optimizer.step()
    for ours_now, theirs_now in zip(ours.weights, theirs.weights, strict=True):
        assert torch.equal(ours_now, theirs_now)


def test_rmsprop_runs_a_closure_and_returns_its_loss() -> None:
    module = Weights(torch.ones(2, 2))
    optimizer = build_optimizer(RmsProp(learning_rate=0.01), module)

    def closure() -> float:
        optimizer.zero_grad()
        loss = module.weights[0].square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert (module.weights[0] < 1).all()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.hidden = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.map_norm = nn.LayerNorm((2, 2))
        self.alpha = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(2, 2))
        self.output = nn.Linear(3, 4)
        self.output.weight = self.embedding.weight


def decay_of(config: Optimizer, module: nn.Module) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = decay_groups(config, module)
    return {names[id(member)]: group["weight_decay"] for group in groups for member in group["params"]}


def test_biases_norms_and_scalars_do_not_decay() -> None:
    decays = decay_of(AdamW(weight_decay=0.1), Network())
    assert {name for name, decay in decays.items() if decay == 0.1} == {"embedding.weight", "hidden.weight"}
    assert {name for name, decay in decays.items() if decay == 0.0} == {
        "alpha",
        "bias",
        "hidden.bias",
        "norm.weight",
        "norm.bias",
        "map_norm.weight",
        "map_norm.bias",
        "output.bias",
    }


def test_without_the_switch_everything_decays() -> None:
    assert set(decay_of(Sgd(weight_decay=0.1, no_decay=False), Network()).values()) == {0.1}


def test_a_tied_parameter_decays_once() -> None:
    module = Network()
    before = module.embedding.weight.detach().clone()
    optimizer = build_optimizer(Sgd(learning_rate=0.5, weight_decay=0.1), module)
    module.embedding.weight.grad = torch.zeros_like(before)
    optimizer.step()
    torch.testing.assert_close(module.output.weight.data, before * (1 - 0.5 * 0.1))


@pytest.mark.parametrize(
    "config", [Sgd(weight_decay=0.1), Adadelta(weight_decay=0.1), RmsProp(weight_decay=0.1), Adam(weight_decay=0.1)]
)
def test_a_frozen_parameter_is_left_alone(config: Optimizer) -> None:
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    before = module.weight.clone()
    bias = module.bias.clone()
    optimizer = build_optimizer(config, module)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(module.weight, before)
    assert (module.bias != bias).all()


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_torchs_fused_kernel_serves_where_there_is_one(kind: str) -> None:
    config: Optimizer = TypeAdapter(Optimizer).validate_json(f'{{"kind": "{kind}"}}')
    assert build_optimizer(config, nn.Linear(2, 2)).param_groups[0]["fused"] is True


def test_a_recipe_names_the_kind_and_a_list_serves_as_betas() -> None:
    config = TypeAdapter(Optimizer).validate_json('{"kind": "adam", "betas": [0.9, 0.98], "epsilon": 1e-9}')
    assert config == Adam(betas=(0.9, 0.98), epsilon=1e-9)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TypeAdapter(Optimizer).validate_json('{"kind": "adam", "momentum": 0.9}')
