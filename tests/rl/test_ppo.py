"""PPO: the loss by hand, epochs that leave nobody out, and that neither workers nor microbatches change it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.job import load_job
from footplate.step import Mean, Step, metric_value
from footplate_rl.actor import Actor
from footplate_rl.clipped_loss import ClippedLoss, ClippedMicrobatch, ClippedWeights
from footplate_rl.distributions import Categorical
from footplate_rl.groups import open_groups
from footplate_rl.minibatches import minibatches, normalised
from footplate_rl.networks import build_network
from footplate_rl.ppo import Config, evaluate, train, transitions_of

CARTPOLE = {"kind": "gymnasium", "id": "CartPole-v1"}
SMALL = {
    "environment": CARTPOLE,
    "environments": 4,
    "rollout_steps": 8,
    "epochs": 2,
    "minibatches": 3,
    "steps": 4 * 8 * 9,
    "network": {"kind": "mlp", "hidden": [16]},
    "optimizer": {"kind": "adam", "learning_rate": 0.01},
    "reset_every_updates": 3,
    "evaluate": {"every_updates": 6, "episodes": 2, "environments": 2},
}


def config_of(**changes: Any) -> Config:
    return Config.model_validate(SMALL | changes, strict=False)


def updates(config: Config, context: Context) -> Iterator[Step]:
    return (step for step in train(config, context) if step.activity is None)


def weights(step: Step) -> dict[str, Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}


class Fixed(nn.Module):
    """Action 0 has the probabilities 0.6, 0.4, 0.6 and 0.5; the values are parameters."""

    def __init__(self) -> None:
        super().__init__()
        probability_M = torch.tensor([0.6, 0.4, 0.6, 0.5], dtype=torch.float64)
        self.logits_MA = nn.Parameter(torch.stack([probability_M.log(), (1 - probability_M).log()], 1))
        self.values_M = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits_MA, self.values_M


def terms_of(network: Fixed, clip_values: float | None = None) -> Any:
    """All acted by action 0 with a probability of 0.5; the last row is no transition."""
    half_M = torch.full((4,), 0.5, dtype=torch.float64).log()
    batch = ClippedMicrobatch(
        observations=torch.zeros(4, 1),
        actions_MX=torch.zeros(4, dtype=torch.int64),
        log_policy_M=half_M,
        values_M=torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64),
        advantages_M=torch.tensor([1.0, 1.0, -1.0, float("nan")], dtype=torch.float64),
        returns_M=torch.tensor([2.0, 2.0, 2.0, float("nan")], dtype=torch.float64),
        valid_M=torch.tensor([True, True, True, False]),
    )
    return ClippedLoss(network, Categorical(2), ClippedWeights(0.1, clip_values, 0.5, 0.01))(batch)


def test_the_loss_is_that_of_the_formula() -> None:
    """Ratios 1.2, 0.8 and 1.2: the first earns no more than 1.1, the second loses in full, the third as well."""
    terms = terms_of(Fixed())
    metrics = {name: float(mean.total) for name, mean in terms.metrics.items()}
    assert metrics["train/policy_loss"] == pytest.approx(-(1.1 + 0.8 - 1.2))
    assert metrics["train/value_loss"] == pytest.approx(1 + 0 + 1)
    assert metrics["train/clipped"] == 3
    assert metrics["train/kl"] == pytest.approx(2 * (0.2 - np.log(1.2)) + (-0.2 - np.log(0.8)))
    entropy = 3 * -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    assert metrics["train/entropy"] == pytest.approx(entropy)
    assert terms.total.item() == pytest.approx(-0.7 + 0.5 * 2 - 0.01 * entropy)
    assert int(terms.count) == 3


def test_a_clipped_ratio_has_no_gradient_and_what_is_no_transition_neither() -> None:
    network = Fixed()
    terms_of(network).total.backward()
    assert network.logits_MA.grad is not None
    policy_only = network.logits_MA.grad[:, 0]
    assert network.values_M.grad is not None
    assert network.values_M.grad.tolist() == [-1.0, 0.0, 1.0, 0.0]
    # What is left in the first row is the entropy's: its ratio is beyond the clip.
    entropy_gradient = 0.01 * 0.6 * (np.log(0.6) - (0.6 * np.log(0.6) + 0.4 * np.log(0.4)))
    assert policy_only[0].item() == pytest.approx(entropy_gradient)
    assert policy_only[2].item() == pytest.approx(1.2 * 0.4 + entropy_gradient)
    assert policy_only[3].item() == 0


def test_a_clipped_value_never_lowers_its_error_by_moving_far() -> None:
    """With 0.25: 0.5 -> 1 counts as 0.75, whose error of 1.25^2 is larger; 1 -> 3 as 1.25, whose 0.75^2 is smaller."""
    network = Fixed()
    terms = terms_of(network, clip_values=0.25)
    assert float(terms.metrics["train/value_loss"].total) == pytest.approx(1.25**2 + 0 + 1)
    terms.total.backward()
    assert network.values_M.grad is not None
    assert network.values_M.grad.tolist() == [0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_an_epoch_learns_from_each_transition_once_whoever_has_it(count: int) -> None:
    shares = [slice(0, 1), slice(1, 4)]
    context = Context()
    found = []
    for share in shares:
        for rows in minibatches(context.stream("order", 0, 0), (6, 4), share, count):
            size = share.stop - share.start
            found += [(int(row) // size, int(row) % size + share.start) for row in rows]
    assert sorted(found) == [(t, n) for t in range(6) for n in range(4)]
    again = [rows.tolist() for rows in minibatches(context.stream("order", 0, 0), (6, 4), shares[1], count)]
    other = [rows.tolist() for rows in minibatches(context.stream("order", 0, 1), (6, 4), shares[1], count)]
    assert again != other


def test_normalised_advantages_have_mean_0_and_deviation_1_over_what_are_transitions() -> None:
    advantages_M = torch.tensor([1.0, 2.0, 6.0, float("inf")], dtype=torch.float64)
    valid_M = torch.tensor([True, True, True, False])
    found_M = normalised(advantages_M, valid_M, Context())[:3]
    assert found_M.tolist() == pytest.approx(((np.array([1, 2, 6]) - 3) / np.std([1, 2, 6], ddof=1)).tolist())
    assert normalised(advantages_M[:1], valid_M[:1], Context()).tolist() == [0]


def test_advantages_and_returns_of_a_rollout_belong_together() -> None:
    config, context = config_of(), Context(precision="fp64")
    share = slice(0, 4)
    with (
        open_groups(config.environment, share, 1, 1) as groups,
        closing(Actor(groups, 30, 4, share, 1, context)) as actor,
    ):
        spaces = groups[0].environments.observation_space, groups[0].environments.action_space
        network = context.place(build_network(config.network, *spaces))
        actor.reset(0)
        rollout = actor.rollout(network, 0)
        batch = transitions_of(rollout, Categorical(2), config)
    torch.testing.assert_close(batch.returns_M, batch.values_M + batch.advantages_M)
    outputs_MP, values_M = network(batch.observations)
    log_policy_MA = torch.log_softmax(outputs_MP, -1)
    torch.testing.assert_close(batch.log_policy_M, log_policy_MA.gather(1, batch.actions_MX.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(batch.values_M, values_M)
    loss = ClippedLoss(network, Categorical(2), ClippedWeights(0.2, None, 0.5, 0.0))(batch)
    assert float(loss.metrics["train/kl"].total) == pytest.approx(0, abs=1e-9)  # nothing was learnt yet


def test_there_is_one_step_a_rollout_and_state_where_environments_start_anew() -> None:
    steps = list(updates(config_of(), Context()))
    assert [step.update for step in steps] == list(range(1, 10))
    assert [step.update for step in steps if step.state is not None] == [3, 6, 9]
    assert [step.update for step in steps if "eval/return" in step.metrics] == [6, 9]
    assert {step.metrics["train/gradient_steps"] for step in steps} == {6.0}
    entropy = steps[0].metrics["train/entropy"]
    assert isinstance(entropy, Mean)
    assert entropy.count == 2 * 4 * 8
    rates = [metric.total / metric.count for s in steps if isinstance(metric := s.metrics["train/learning_rate"], Mean)]
    assert rates == pytest.approx([0.01 * (1 - (6 * number + 2.5) / 54) for number in range(9)])


def learning_rates(**changes: Any) -> list[float]:
    """The mean of each update's six gradient steps."""
    steps = updates(config_of(**changes), Context())
    return [m.total / m.count for s in steps if isinstance(m := s.metrics["train/learning_rate"], Mean)]


def test_a_schedule_counts_updates_of_the_run_and_not_gradient_steps() -> None:
    """Worked by hand for a rate of 0.01 and six gradient steps an update, nine updates."""
    warmed = learning_rates(schedule={"kind": "constant", "warmup_updates": 2})
    assert warmed == pytest.approx([0.01 * 3.5 / 12, 0.01 * 9.5 / 12] + [0.01] * 7)
    dropped = learning_rates(schedule={"kind": "step", "every_updates": 4, "factor": 0.5})
    assert dropped == pytest.approx([0.01] * 4 + [0.005] * 4 + [0.0025])
    fallen = learning_rates(schedule={"kind": "linear", "updates": 3})
    assert fallen == pytest.approx([0.01 * (1 - (6 * n + 2.5) / 18) for n in range(3)] + [0.0] * 6)


def test_gradients_that_are_not_finite_end_the_run_and_name_the_gradient_step() -> None:
    exploding = {"kind": "adam", "learning_rate": 1e30}
    with pytest.raises(TrainingError) as error:
        list(updates(config_of(optimizer=exploding, update={"stop_after_non_finite": 2}), Context()))
    assert str(error.value) == (
        "gradient step 3: gradient of network.value_trunk.1.weight: not finite 2 times in a row; lower "
        "optimizer.learning_rate or set update.clip_norm"
    )


def test_a_policy_that_has_moved_too_far_ends_the_update_and_the_next_one_begins_as_ever() -> None:
    stopped = list(updates(config_of(stop_kl=1e-12), Context()))
    # In the first minibatch the policy is still the one that acted.
    assert {step.metrics["train/gradient_steps"] for step in stopped} == {2.0}
    rates = [
        metric.total / metric.count for s in stopped if isinstance(metric := s.metrics["train/learning_rate"], Mean)
    ]
    assert rates == pytest.approx([0.01 * (1 - (6 * number + 0.5) / 54) for number in range(9)])
    assert all(step.metrics["train/gradient_steps"] == 6 for step in updates(config_of(stop_kl=10.0), Context()))


@pytest.mark.parametrize(
    "changes", [{}, {"stop_kl": 0.001}, {"environment": {"kind": "gymnasium", "id": "Pendulum-v1"}}]
)
def test_a_resumed_run_ends_with_the_same_bytes(changes: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(**changes)
    store = CheckpointStore(tmp_path)
    straight: list[Step] = []
    for step in updates(config, Context()):
        straight.append(step)
        if step.update == 6:
            assert step.state is not None
            store.save(step.update, step.state)
            store.wait()
    store.close()
    (folder,) = tmp_path.iterdir()
    resumed = list(updates(config, Context(checkpoint=Checkpoint(folder))))
    assert [step.metrics for step in resumed] == [step.metrics for step in straight[6:]]
    for name, tensor in weights(straight[-1]).items():
        assert torch.equal(tensor, weights(resumed[-1])[name])
    assert "eval/return" in list(evaluate(config, Context(checkpoint=Checkpoint(folder))))[-1].metrics


@pytest.mark.parametrize("changes", [{"update": {"accumulate": 3, "clip_norm": 0.5}}, {"groups": 2}])
def test_neither_microbatches_nor_groups_change_anything_but_rounding(changes: dict[str, Any]) -> None:
    context = Context(precision="fp64")
    whole, cut = (list(updates(config_of(**change), context))[-1] for change in ({}, changes))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"steps": 31}, "steps: 31 pays for no update, each takes environments * rollout_steps = 32; use at least as "
         "many"),
        ({"minibatches": 11, "update": {"accumulate": 3}}, "minibatches: 32 transitions can't be cut into 11 * "
         "update.accumulate: 3 pieces; use fewer"),
        ({"minibatches": 17}, "normalise_advantages: of 17 minibatches of 32 transitions some have only one, whose "
         "advantage becomes 0; use at most 16 minibatches, or set it to false"),
        ({"groups": 5}, "groups: 4 environments can't be cut into 5 groups; use at most 4"),
        ({"schedule": {"kind": "plateau", "better": "lower"}}, "schedule.better: lower does not suit eval/return, "
         "which a plateau watches here; leave it out"),
        ({"reset_every_updates": 4}, "evaluate.every_updates: 6 is no multiple of reset_every_updates: 4, and only "
         "there a policy can be saved; make it one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as error:
        config_of(**changes)
    assert error.value.errors()[0]["msg"] == f"Value error, {problem}"


def test_a_clip_that_falls_ends_near_0_and_is_what_the_loss_uses() -> None:
    config = config_of(anneal_clip=True, clip_ratio=0.18)
    assert [config.clip_ratio_at(number) for number in (0, 3, 8)] == pytest.approx([0.18, 0.12, 0.02])
    assert config_of(clip_ratio=0.18).clip_ratio_at(8) == 0.18
    shares = [
        [metric_value(step.metrics["train/clipped"]) for step in updates(config_of(anneal_clip=falls), Context())]
        for falls in (False, True)
    ]
    assert shares[0][0] == shares[1][0]
    assert sum(filter(None, shares[1][1:])) > sum(filter(None, shares[0][1:]))


def test_a_save_where_nothing_can_be_saved_is_refused() -> None:
    with pytest.raises(FootplateError) as error:
        load_job("catch-ppo", ["save.every_updates=50"])
    assert str(error.value).endswith(
        "save.every_updates: 50 is no multiple of reset_every_updates: 40, and only there a run can be saved; "
        "make it one"
    )
