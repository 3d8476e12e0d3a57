"""Axes: T step, N environment, O all axes of one observation."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from footplate_rl.autoreset import Autoreset, Mode
from footplate_rl.environments import Episode, GymnasiumConfig, Transitions, make_environments
from footplate_rl.returns import n_step_returns


def chain(end: str, autoreset: Mode, length: int = 3) -> GymnasiumConfig:
    return GymnasiumConfig(id="footplate/Chain-v0", arguments={"length": length, "end": end}, autoreset=autoreset)


class Learned(NamedTuple):
    """What a transition says to a learner, its observations as states of the chain or bytes."""

    observation: bytes
    reward: float
    return_ended: bool
    truncated: bool
    following: bytes


def transitions_of(config: GymnasiumConfig, steps: int) -> list[list[Learned]]:
    """The first transitions of each of three environments, whose actions depend only on the transition's number."""
    environments = make_environments(config, 3, seed=3)
    assert isinstance(environments.action_space, Discrete)
    actions = np.random.default_rng(5).integers(environments.action_space.n, size=(3, steps))
    seen: list[list[Learned]] = [[] for _ in range(3)]
    observations_NO = environments.reset(0)
    while min(map(len, seen)) < steps:
        step = environments.step(np.array([actions[row, min(len(seen[row]), steps - 1)] for row in range(3)]))
        final = iter(step.final_observations_KO)
        for row in range(3):
            following = next(final) if step.truncated_N[row] else step.observations_NO[row]
            if step.valid_N[row]:
                seen[row].append(
                    Learned(
                        observations_NO[row].tobytes(),
                        float(step.rewards_N[row]),
                        bool(step.return_ended_N[row]),
                        bool(step.truncated_N[row]),
                        # Nothing is worth anything behind an end, so learners never look there.
                        b"" if step.return_ended_N[row] else following.tobytes(),
                    )
                )
        observations_NO = step.observations_NO
    environments.close()
    return [row[:steps] for row in seen]


@pytest.mark.parametrize(
    "config",
    [
        chain("terminated", "same_step"),
        chain("truncated", "same_step"),
        GymnasiumConfig(id="footplate/Corridor-v0", arguments={"length": 4}),
        GymnasiumConfig(id="footplate/Catch-v0"),
        GymnasiumConfig(id="CartPole-v1", arguments={"max_episode_steps": 12}),
    ],
    ids=lambda config: f"{config.id} {config.arguments}",
)
def test_both_modes_teach_the_same(config: GymnasiumConfig) -> None:
    same = transitions_of(config, 60)
    following = transitions_of(config.model_copy(update={"autoreset": "next_step"}), 60)
    assert same == following
    assert any(one.return_ended or one.truncated for one in same[0])


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_returns_on_the_chain_are_those_worked_out_by_hand(mode: Mode, end: str) -> None:
    # Rewards 1, 2, 3, then the end. Every observation of state s is given the value 10 s, the last one 30.
    environments = make_environments(chain(end, mode), 1)
    state_values = torch.tensor([0.0, 10.0, 20.0, 30.0])
    observation = environments.reset(0)
    values, steps = [observation @ state_values.numpy()], []
    for _ in range(5):
        steps.append(environments.step(np.array([0])))
        values.append(steps[-1].observations_NO @ state_values.numpy())
    final_TN = torch.tensor(
        [
            [float(step.final_observations_KO[0] @ state_values.numpy()) if step.truncated_N[0] else -1.0]
            for step in steps
        ]
    )

    def stack(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(step, name) for step in steps]))

    returns_TN = n_step_returns(
        stack("rewards_N").float(),
        stack("return_ended_N"),
        stack("truncated_N"),
        stack("valid_N"),
        torch.tensor(np.stack(values), dtype=torch.float32),
        final_TN,
        0.5,
    )
    bootstrap = 30 if end == "truncated" else 0
    third = 3 + 0.5 * bootstrap
    episode = [1 + 0.5 * (2 + 0.5 * third), 2 + 0.5 * third, third]
    # The rollout's end bootstraps too: from state 2 under same step, from state 1 a step behind under next step.
    tail = [1 + 0.5 * (2 + 0.5 * 20), 2 + 0.5 * 20] if mode == "same_step" else [1 + 0.5 * 10]
    assert returns_TN[stack("valid_N")].tolist() == episode + tail


def step_of(autoreset: Autoreset, terminated: list[bool], truncated: list[bool], rewards: list[float]) -> Transitions:
    observations_NO = np.arange(len(rewards), dtype=np.float32)[:, None]
    return autoreset.transitions(
        observations_NO, np.array(rewards), np.array(terminated), np.array(truncated), observations_NO + 100
    )


def test_the_row_after_an_end_is_no_transition_in_next_step_mode() -> None:
    autoreset = Autoreset("next_step", range(2))
    first = step_of(autoreset, [True, False], [False, False], [1.0, 1.0])
    # A vector environment that reports nonsense while it resets must not be believed.
    second = step_of(autoreset, [True, False], [False, False], [7.0, 1.0])
    third = step_of(autoreset, [False, False], [False, False], [1.0, 1.0])
    assert first.valid_N.tolist() == [True, True]
    assert second.valid_N.tolist() == [False, True]
    assert second.rewards_N.tolist() == [0.0, 1.0]
    assert second.terminated_N.tolist() == [False, False]
    assert second.return_ended_N.tolist() == [False, False]
    assert second.episodes == ()
    assert third.valid_N.tolist() == [True, True]


def test_every_row_is_a_transition_in_same_step_mode() -> None:
    autoreset = Autoreset("same_step", range(1))
    for _ in range(3):
        assert step_of(autoreset, [True], [False], [1.0]).valid_N.tolist() == [True]


def test_the_final_observation_is_the_separate_one_in_same_step_mode_and_the_observation_in_next_step_mode() -> None:
    arguments = ([False] * 3, [False, True, True], [0.0] * 3)
    assert step_of(Autoreset("same_step", range(3)), *arguments).final_observations_KO.tolist() == [[101.0], [102.0]]
    assert step_of(Autoreset("next_step", range(3)), *arguments).final_observations_KO.tolist() == [[1.0], [2.0]]


def test_final_observations_are_an_empty_batch_where_nothing_was_truncated() -> None:
    step = step_of(Autoreset("same_step", range(2)), [True, False], [False, False], [0.0, 0.0])
    assert step.final_observations_KO.shape == (0, 1)


def test_an_episode_that_is_terminated_at_its_time_limit_is_terminated() -> None:
    step = step_of(Autoreset("same_step", range(1)), [True], [True], [1.0])
    assert (step.terminated_N.tolist(), step.truncated_N.tolist()) == ([True], [False])


def test_a_lost_life_ends_the_return_but_not_the_episode() -> None:
    autoreset = Autoreset("same_step", range(2))
    step = autoreset.transitions(
        np.zeros((2, 1)),
        np.ones(2),
        np.array([False, False]),
        np.array([False, False]),
        None,
        life_lost_N=np.array([True, False]),
    )
    assert step.return_ended_N.tolist() == [True, False]
    assert not step.terminated_N.any()
    assert step.episodes == ()


def test_episodes_carry_global_indices_raw_returns_and_lengths_in_transitions() -> None:
    for mode in ("same_step", "next_step"):
        autoreset = Autoreset(mode, range(4, 6))
        step_of(autoreset, [False, False], [False, False], [5.0, -1.0])
        assert step_of(autoreset, [True, False], [False, False], [2.0, -1.0]).episodes == (Episode(4, 7.0, 2),)
        step_of(autoreset, [False, False], [False, False], [0.0, -1.0])
        last = step_of(autoreset, [True, False], [False, True], [1.0, -1.0])
        assert last.episodes == (Episode(4, 1.0, 2 if mode == "same_step" else 1), Episode(5, -4.0, 4))


def test_an_episode_that_is_cut_by_a_restart_is_never_reported() -> None:
    autoreset = Autoreset("next_step", range(1))
    step_of(autoreset, [True], [False], [5.0])
    autoreset.restart()
    step = step_of(autoreset, [True], [False], [1.0])
    assert step.valid_N.tolist() == [True]
    assert step.episodes == (Episode(0, 1.0, 1),)
