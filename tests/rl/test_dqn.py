"""DQN: what it counts, what it learns from, where it can stop, and what it refuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import ValidationError
from torch import Tensor, nn

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.job import load_job
from footplate.step import Mean, Step
from footplate_rl.action_values import QNetwork
from footplate_rl.dqn import Config, evaluate, train
from footplate_rl.explorer import FallingEpsilon
from footplate_rl.networks import Nature
from footplate_rl.q_learning import Lessons, ReplayLoss, SoftTarget, bootstrap_values
from footplate_rl.q_networks import DuelingNetwork, ValueMLP, build_value_network
from footplate_rl.value_learning import beta_at

CATCH = {"kind": "gymnasium", "id": "footplate/Catch-v0"}
SMALL = {
    "environment": CATCH,
    "environments": 2,
    "rollout_steps": 2,
    "learning_starts_steps": 30,
    "steps": 30 + 2 * 2 * 24,
    "batch_size": 8,
    "replay": {"kind": "uniform", "transitions": 100},
    "network": {"kind": "mlp", "hidden": [16]},
    "target": {"kind": "hard", "every_updates": 5},
    "exploration": {"decay_frames": 60},
    "reset_every_updates": 8,
    "evaluate": {"every_updates": 16, "episodes": 3, "environments": 2},
}


def config_of(**changes: Any) -> Config:
    return Config.model_validate(SMALL | changes, strict=False)


def updates(config: Config, context: Context) -> Iterator[Step]:
    return (step for step in train(config, context) if step.activity is None)


def weights(step: Step) -> dict[str, Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}  # type: ignore[union-attr]


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as error:
        config_of(**changes)
    return error.value.errors()[0]["msg"].removeprefix("Value error, ")


def test_the_budget_is_in_steps_of_all_environments_and_pays_for_the_filling_too() -> None:
    assert config_of().updates == 24
    assert config_of(steps=30 + 4 * 24 + 3).updates == 24
    assert config_of(updates_per_rollout=4, evaluate=SMALL["evaluate"]).updates == 96


def test_a_round_of_learning_has_as_many_updates_as_it_says() -> None:
    steps = list(updates(config_of(updates_per_rollout=4), Context()))
    assert [step.update for step in steps] == list(range(1, 97))
    assert [step.work["steps"] for step in steps[:9]] == [34, 0, 0, 0, 4, 0, 0, 0, 4]
    assert [step.update for step in steps if step.state is not None] == list(range(8, 97, 8))
    assert [step.update for step in steps if "eval/return" in step.metrics] == list(range(16, 97, 16))


def test_epsilon_falls_by_frames_from_where_learning_starts() -> None:
    config = config_of(environment=CATCH | {"frame_skip": 2}, exploration={"final": 0.5, "decay_frames": 80})
    epsilons = [step.metrics["train/epsilon"] for step in updates(config, Context())]
    assert epsilons[:4] == pytest.approx([1.0, 0.95, 0.9, 0.85])  # 8 frames an update, 80 for one half
    assert epsilons[10:] == [0.5] * 14
    assert FallingEpsilon(decay_frames=0).at(0) == 0.1


@pytest.mark.parametrize("kind", ["uniform", "proportional", "rank"])
@pytest.mark.parametrize("target", [{"kind": "hard", "every_updates": 5}, {"kind": "soft", "rate": 0.1}])
@pytest.mark.parametrize("transitions", [32, 60])
def test_a_run_resumed_where_environments_start_anew_ends_with_the_same_bytes(
    kind: str, target: dict[str, Any], transitions: int, tmp_path: Path
) -> None:
    """The ring has wrapped around by then; of 32 rows the topmost can't be drawn at a save."""
    replay = {"kind": kind, "transitions": transitions}
    config = config_of(replay=replay, target=target, n_step=3, double=True, dueling=True)
    store = CheckpointStore(tmp_path, keep_last=9)
    straight: list[Step] = []
    for step in updates(config, Context()):
        straight.append(step)
        if step.state is not None:
            store.save(step.update, step.state)
    store.close()
    for stop in (8, 16):
        resumed = list(updates(config, Context(checkpoint=Checkpoint(tmp_path / f"{stop:06d}"))))
        assert [step.metrics for step in resumed] == [step.metrics for step in straight[stop:]]
        for name, tensor in weights(straight[-1]).items():
            assert torch.equal(tensor, weights(resumed[-1])[name])


def test_cutting_the_batch_into_microbatches_changes_nothing() -> None:
    context = Context(precision="fp64")
    replay = {"kind": "proportional", "transitions": 60}
    whole, cut = (
        list(updates(config_of(replay=replay, update={"accumulate": pieces}), context))[-1] for pieces in (1, 4)
    )
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, rtol=1e-9, atol=1e-12)


def test_both_autoreset_modes_count_the_same_transitions() -> None:
    """Episodes of Catch have 9 steps: in 20 rows every tenth is a reset, so 18 are transitions."""
    same, following = (
        next(updates(config_of(environment=CATCH | {"autoreset": mode}, learning_starts_steps=36), Context()))
        for mode in ("same_step", "next_step")
    )
    assert same.work == {"steps": 40, "frames": 40}
    assert following.work == {"steps": 36, "frames": 36}


class Table(nn.Module):
    """Q(s, a) of one-hot states, as it is told."""

    def __init__(self, values_SA: list[list[float]]) -> None:
        super().__init__()
        self.values_SA = nn.Parameter(torch.tensor(values_SA))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        values_MA = observations @ self.values_SA
        return values_MA, values_MA.amax(dim=1)


def test_double_q_learning_judges_the_choice_of_the_other_network() -> None:
    target, network = Table([[1.0, 5.0], [2.0, 0.0]]), Table([[3.0, 2.0], [0.0, 1.0]])
    states = torch.eye(2)
    assert bootstrap_values(states, target, None).tolist() == [5.0, 2.0]
    assert bootstrap_values(states, target, network).tolist() == [1.0, 0.0]


def test_the_loss_worked_by_hand() -> None:
    """Errors 3 and -0.5, weights 1 and 0.5: huber gives 2.5 and 0.125, squares 4.5 and 0.125."""
    lessons = Lessons(torch.eye(2), torch.tensor([0, 1]), torch.tensor([4.0, -0.5]), torch.tensor([1.0, 0.5]))
    for huber, expected in ((1.0, 2.5 + 0.5 * 0.125), (None, 4.5 + 0.5 * 0.125)):
        loss = ReplayLoss(Table([[1.0, 0.0], [0.0, 0.0]]), huber)
        terms = loss(lessons)
        assert terms.total.item() == pytest.approx(expected)
        assert (terms.count, loss.errors[0].tolist()) == (2, [3.0, -0.5])
        assert terms.metrics["train/td_error"] == Mean(torch.tensor(3.5), 2)


def test_beta_moves_in_a_straight_line_to_its_final_value_or_stays() -> None:
    replay = {"kind": "proportional", "transitions": 100, "beta": 0.4}
    assert [beta_at(config_of(replay=replay), number, 24) for number in (0, 11, 23)] == pytest.approx([0.425, 0.7, 1.0])
    assert beta_at(config_of(replay=replay | {"final_beta": 0.4}), 11, 24) == 0.4
    assert beta_at(config_of(), 11, 24) == 0.0


def test_a_soft_target_comes_nearer_by_its_rate() -> None:
    target, network = Table([[0.0, 4.0]]), Table([[8.0, 0.0]])
    SoftTarget(kind="soft", rate=0.25).follow(target, network, 1)
    assert target.values_SA.tolist() == [[2.0, 3.0]]


def test_a_dueling_network_adds_a_value_and_advantages_of_mean_zero() -> None:
    torch.manual_seed(1)
    network = build_value_network(ValueMLP(hidden=(8, 6)), Box(-1, 1, (4,)), Discrete(3), dueling=True)
    assert isinstance(network, DuelingNetwork)
    observations = torch.randn(5, 4)
    values_M = network.value(network.value_stream(network.trunk(observations)))[:, 0]
    torch.testing.assert_close(network(observations)[0].mean(dim=1), values_M)
    assert count(network) == (4 * 8 + 8) + 2 * (8 * 6 + 6) + (6 + 1) + (6 * 3 + 3)


def count(network: QNetwork | DuelingNetwork) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_network_of_2015_has_its_layers_and_bytes_are_scaled() -> None:
    torch.manual_seed(1)
    network = build_value_network(Nature(), Box(0, 255, (4, 84, 84), np.uint8), Discrete(6), dueling=False)
    convolutions = 32 * 4 * 8 * 8 + 32 + 64 * 32 * 4 * 4 + 64 + 64 * 64 * 3 * 3 + 64
    assert count(network) == convolutions + 7 * 7 * 64 * 512 + 512 + 512 * 6 + 6
    pixels = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(network(pixels)[0], network(pixels.float() / 255)[0])


def test_a_chain_of_known_values_is_learnt_in_both_autoreset_modes() -> None:
    """V(s) of 3 states that pay 1, 2, 3 with discount 0.5, and end: 2.75, 3.5, 3."""
    found = {}
    for mode in ("same_step", "next_step"):
        environment = {"kind": "gymnasium", "id": "footplate/Chain-v0", "autoreset": mode}
        config = config_of(
            environment=environment, reward_clip=None, discount=0.5, n_step=2, steps=30 + 4 * 320, environments=1,
            rollout_steps=4, network={"kind": "mlp", "hidden": []}, optimizer={"kind": "adam", "learning_rate": 0.05},
            reset_every_updates=320, evaluate={"every_updates": 320, "episodes": 1, "environments": 1},
        )  # fmt: skip
        *_, last = updates(config, Context())
        assert last.state is not None
        values = last.state["model"](torch.eye(4))[1]  # type: ignore[operator]
        found[mode] = values[:3].tolist()
    assert found["same_step"] == pytest.approx([2.75, 3.5, 3.0], abs=0.02)
    assert found["next_step"] == pytest.approx([2.75, 3.5, 3.0], abs=0.02)


def test_the_saved_policy_is_evaluated_on_other_seeds_than_those_that_chose_it(tmp_path: Path) -> None:
    config = config_of(environment={"kind": "gymnasium", "id": "CartPole-v1"})
    *_, last = updates(config, Context())
    assert last.state is not None
    store = CheckpointStore(tmp_path)
    store.save(last.update, last.state)
    store.close()
    context = Context(checkpoint=store.newest())
    first, again = (list(evaluate(config, context))[-1] for _ in range(2))
    assert first.metrics == again.metrics
    assert first.metrics["eval/return"] != last.metrics["eval/return"]


def test_what_a_replay_can_not_do_is_refused_before_anything_starts() -> None:
    assert refusal(replay={"kind": "uniform", "transitions": 7}) == (
        "replay.transitions: 7 is less than one batch, batch_size: 8; use at least as many"
    )
    assert refusal(replay={"kind": "uniform", "transitions": 15}, n_step=6) == (
        "replay.transitions: 15 has 7 for each environment, and a window of n_step: 6 takes 8; use at least 16"
    )
    assert refusal(learning_starts_steps=2, n_step=5) == (
        "learning_starts_steps: 2 fills no window of n_step: 5; use at least 12"
    )


def test_a_budget_below_one_update_is_refused() -> None:
    assert refusal(steps=33) == (
        "steps: 33 pays for no update, the first one comes after learning_starts_steps and a rollout, 34 steps; "
        "use at least as many"
    )


def test_what_does_not_go_together_is_refused() -> None:
    assert refusal(update={"accumulate": 3}) == (
        "batch_size: 8 can't be cut into update.accumulate: 3 microbatches; use a multiple of 3"
    )
    assert refusal(schedule={"kind": "plateau", "better": "lower"}) == (
        "schedule.better: lower does not suit eval/return, which a plateau watches here; leave it out"
    )
    assert refusal(exploration={"initial": 0.1, "final": 0.5}) == (
        "exploration.final: 0.5 is above initial: 0.1; make it the smaller one"
    )
    assert refusal(updates_per_rollout=3) == (
        "reset_every_updates: 8 is no multiple of updates_per_rollout: 3, and environments can't start anew in the "
        "middle of a round; make it one"
    )
    assert refusal(reset_every_updates=3) == (
        "evaluate.every_updates: 16 is no multiple of reset_every_updates: 3, and only there a policy can be saved; "
        "make it one"
    )


def test_a_save_where_nothing_can_be_saved_is_refused() -> None:
    with pytest.raises(FootplateError) as error:
        load_job("catch-dqn", ["save.every_updates=150"])
    assert str(error.value).endswith(
        "save.every_updates: 150 is no multiple of reset_every_updates: 500, and only there a run can be saved; "
        "make it one"
    )


def test_several_workers_are_refused() -> None:
    with pytest.raises(FootplateError) as error:
        load_job("catch-dqn", ["on=ray", "resources.workers=2"])
    assert str(error.value).endswith("resources.workers: 2 are ranks, and DQN has one learner; use 1")


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(FootplateError) as error:
        list(train(config_of(environment={"kind": "gymnasium", "id": "Pendulum-v1"}), Context()))
    assert str(error.value) == (
        "network: actions are Box(-2.0, 2.0, (1,), float32); values are of discrete ones, so use an environment that "
        "has them, or a3c"
    )


def test_a_replay_in_which_every_step_was_lost_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    exiting = {"kind": "own", "name": "broken_environments.Odd", "arguments": {"what": "exit"}, "processes": True}
    config = config_of(
        environment=exiting | {"restarts_in_a_row": 9},
        environments=1,
        rollout_steps=1,
        learning_starts_steps=2,
        batch_size=1,
    )
    with pytest.raises(TrainingError) as error:
        list(train(config, Context()))
    assert str(error.value) == (
        "replay: there is nothing to learn from, every step so far was lost with its environment; mend that"
    )
