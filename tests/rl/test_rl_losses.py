"""The actor-critic loss against worked examples."""

from math import log

import pytest
import torch
from torch import Tensor, nn

from footplate_rl.distributions import Categorical
from footplate_rl.losses import ActorCriticLoss, Microbatch, actor_critic_terms

LOGITS_MA = torch.tensor([[0.0, log(3.0)], [2.0, 2.0]], dtype=torch.float64)  # policies (1/4, 3/4) and (1/2, 1/2)
VALUES_M = torch.tensor([1.0, 5.0], dtype=torch.float64)
RETURNS_M = torch.tensor([3.0, 4.0], dtype=torch.float64)  # advantages 2 and -1
ACTIONS_M = torch.tensor([0, 1])
CHOICE = Categorical(2)
ALL_M = torch.tensor([True, True])
FIRST_M = torch.tensor([True, False])


class Fixed(nn.Module):
    """A network whose outputs are its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.logits_MA = nn.Parameter(LOGITS_MA.clone())
        self.values_M = nn.Parameter(VALUES_M.clone())

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits_MA, self.values_M


def microbatch(returns_M: Tensor = RETURNS_M, valid_M: Tensor = ALL_M) -> Microbatch:
    return Microbatch(torch.zeros(2, 1), ACTIONS_M, returns_M, valid_M)


def test_the_terms_are_what_the_formulas_say() -> None:
    terms = actor_critic_terms(LOGITS_MA, VALUES_M, ACTIONS_M, RETURNS_M, ALL_M, CHOICE)
    assert terms.policy.item() == pytest.approx(2 * log(4) - log(2))
    assert terms.value.item() == pytest.approx(4 + 1)
    assert terms.entropy.item() == pytest.approx(log(4) / 4 + 3 / 4 * log(4 / 3) + log(2))


def test_rows_that_are_no_transitions_count_for_nothing() -> None:
    terms = actor_critic_terms(LOGITS_MA, VALUES_M, ACTIONS_M, RETURNS_M, FIRST_M, CHOICE)
    assert terms.policy.item() == pytest.approx(2 * log(4))
    assert terms.value.item() == pytest.approx(4)
    assert terms.entropy.item() == pytest.approx(log(4) / 4 + 3 / 4 * log(4 / 3))
    assert float(ActorCriticLoss(Fixed(), CHOICE, 0.5, 0.01)(microbatch(valid_M=FIRST_M)).count) == 1


def test_rows_that_are_no_transitions_may_hold_anything() -> None:
    network = Fixed()
    returns_M = torch.tensor([3.0, float("nan")], dtype=torch.float64)
    ActorCriticLoss(network, CHOICE, 0.5, 0.01)(microbatch(returns_M, FIRST_M)).total.backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].isfinite().all()
        assert (parameter.grad[1] == 0).all()


def test_the_total_weighs_the_value_up_and_the_entropy_down() -> None:
    terms = actor_critic_terms(LOGITS_MA, VALUES_M, ACTIONS_M, RETURNS_M, ALL_M, CHOICE)
    total = ActorCriticLoss(Fixed(), CHOICE, value_weight=0.5, entropy_weight=0.1)(microbatch()).total
    assert total.item() == pytest.approx((terms.policy + 0.5 * terms.value - 0.1 * terms.entropy).item())


def test_the_policy_loss_leaves_the_value_alone() -> None:
    network = Fixed()
    ActorCriticLoss(network, CHOICE, value_weight=0.0, entropy_weight=0.0)(microbatch()).total.backward()
    assert network.values_M.grad is not None
    assert network.values_M.grad.tolist() == [0.0, 0.0]
    assert network.logits_MA.grad is not None
    # d(-log pi(a)) / d(logits) = pi - one_hot(a), times the advantage
    expected_MA = torch.tensor([[2 * (0.25 - 1), 2 * 0.75], [-0.5, -(0.5 - 1)]], dtype=torch.float64)
    torch.testing.assert_close(network.logits_MA.grad, expected_MA)


def test_the_value_moves_towards_the_return() -> None:
    network = Fixed()
    ActorCriticLoss(network, CHOICE, value_weight=0.5, entropy_weight=0.0)(microbatch()).total.backward()
    assert network.values_M.grad is not None
    torch.testing.assert_close(network.values_M.grad, VALUES_M - RETURNS_M)


def test_metrics_are_means_over_the_transitions() -> None:
    metrics = ActorCriticLoss(Fixed(), CHOICE, 0.5, 0.01)(microbatch()).metrics
    total, count = metrics["train/value_loss"]
    assert float(total) / float(count) == pytest.approx(2.5)
    assert set(metrics) == {"train/policy_loss", "train/value_loss", "train/entropy"}


def test_half_precision_logits_are_reckoned_in_full() -> None:
    logits_MA = torch.tensor([[20.0, 0.0, -20.0]], dtype=torch.bfloat16)
    one, action = torch.ones(1), torch.tensor([2])
    terms = actor_critic_terms(logits_MA, one.bfloat16(), action, 2 * one, torch.tensor([True]), Categorical(3))
    assert terms.policy.dtype == torch.float32
    assert terms.policy.item() == pytest.approx(40.0, abs=1e-4)
