import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from footplate_rl.toys import Catch, Chain, Cliffwalk, Corridor


@pytest.mark.parametrize("name", ["Catch", "Corridor", "Chain", "Cliffwalk"])
def test_gymnasium_finds_nothing_to_complain_about(name: str) -> None:
    check_env(gymnasium.make(f"footplate/{name}-v0").unwrapped, skip_render_check=True)


def test_the_best_policy_always_catches_and_gets_1() -> None:
    environment = Catch()
    for seed in range(30):
        board, _ = environment.reset(seed=seed)
        total_reward, steps, terminated = 0.0, 0, False
        while not terminated:
            (_, ball), (_, paddle) = np.argwhere(board)
            board, reward, terminated, truncated, _ = environment.step(int(np.sign(ball - paddle)) + 1)
            total_reward, steps = total_reward + reward, steps + 1
            assert not truncated
            if not terminated:
                assert reward == 0
        assert (total_reward, steps) == (1.0, 9)


def test_a_paddle_that_stays_catches_one_ball_in_five() -> None:
    environment = Catch()
    environment.reset(seed=1)
    returns = []
    for _ in range(2000):
        environment.reset()
        returns.append([environment.step(1)[1] for _ in range(9)][-1])
    assert np.mean(returns) == pytest.approx(-0.6, abs=0.06)


def test_the_paddle_stops_at_the_walls() -> None:
    environment = Catch(rows=10, columns=5)
    environment.reset(seed=1)
    for _ in range(6):
        board = environment.step(0)[0]
    assert board[9].tolist() == [1, 0, 0, 0, 0]


def test_the_corridor_is_walked_in_length_minus_1_steps() -> None:
    environment = Corridor(length=5)
    environment.reset()
    assert [environment.step(1)[1:4] for _ in range(4)] == [(0.0, False, False)] * 3 + [(1.0, True, False)]


def test_the_corridor_has_a_wall_at_its_start_and_a_time_limit() -> None:
    environment = Corridor(length=3)
    environment.reset()
    ends = [environment.step(0) for _ in range(12)]
    assert all(observation.tolist() == [1, 0, 0] for observation, *_ in ends)
    assert [end[2:4] for end in ends] == [(False, False)] * 11 + [(False, True)]


def test_arriving_in_the_last_moment_is_arriving() -> None:
    environment = Corridor(length=3)
    environment.reset()
    for _ in range(10):
        environment.step(0)
    environment.step(1)
    assert environment.step(1)[1:4] == (1.0, True, False)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_the_chain_pays_1_2_3_whatever_one_does(end: str) -> None:
    environment = Chain(length=3, end=end)
    environment.reset()
    steps = [environment.step(action) for action in (0, 1, 0)]
    assert [reward for _, reward, *_ in steps] == [1.0, 2.0, 3.0]
    assert [observation.argmax() for observation, *_ in steps] == [1, 2, 3]
    assert steps[-1][2:4] == (end == "terminated", end == "truncated")


def test_the_cliffwalk_pays_1_for_the_one_right_sequence_and_ends_at_the_first_mistake() -> None:
    environment = Cliffwalk(length=3)
    environment.reset()
    right = [environment.step(action) for action in (1, 0, 1)]
    assert [step[1:4] for step in right] == [(0.0, False, False), (0.0, False, False), (1.0, True, False)]
    assert [step[0].tolist() for step in right[:2]] == [[0, 1, 0], [0, 0, 1]]
    environment.reset()
    assert [environment.step(action)[1:4] for action in (1, 1)] == [(0.0, False, False), (0.0, True, False)]
