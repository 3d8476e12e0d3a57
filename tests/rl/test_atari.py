"""The native vector environment of Atari and its traps."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ale_py import AtariVectorEnv
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from footplate.errors import FootplateError
from footplate_rl.atari import AtariEnvironments, check_game
from footplate_rl.autoreset import Autoreset
from footplate_rl.environments import AtariConfig, Environments, Transitions, make_environments


def atari(game: str = "pong", **settings: Any) -> AtariConfig:
    return AtariConfig(kind="atari", game=game, **settings)


def random_actions(environments: Environments, steps: int) -> NDArray[np.int64]:
    assert isinstance(environments.action_space, Discrete)
    return np.random.default_rng(3).integers(environments.action_space.n, size=(steps, environments.count))


def play(environments: Environments, number: int, steps: int) -> list[Transitions]:
    environments.reset(number)
    return [environments.step(actions_N) for actions_N in random_actions(environments, steps)]


def assert_equal(one: list[Transitions], two: list[Transitions]) -> None:
    for first, second in zip(one, two, strict=True):
        for name in ("observations_NO", "rewards_N", "terminated_N", "return_ended_N", "final_observations_KO"):
            assert (getattr(first, name) == getattr(second, name)).all(), name
        assert first.episodes == second.episodes


@pytest.mark.parametrize("protocol", ["machado", "classic"])
def test_a_reset_makes_all_that_follows_a_function_of_seed_and_number(protocol: str) -> None:
    # Breakout with random actions: some 140 steps a game, so that episodes end by themselves too.
    config = atari("breakout", protocol=protocol)
    environments = make_environments(config, 2, seed=5)
    first, other, again = (play(environments, number, 220) for number in (0, 1, 0))
    assert sum(len(step.episodes) for step in first) > 0
    assert_equal(first, again)
    assert_equal(first, play(make_environments(config.model_copy(update={"threads": 2}), 2, seed=5), 0, 220))
    assert any((one.observations_NO != two.observations_NO).any() for one, two in zip(first, other, strict=True))


def test_an_environment_is_the_same_whoever_owns_it() -> None:
    def frames(count: int, first_index: int, columns: slice) -> list[NDArray[Any]]:
        environments = make_environments(atari(), count, first_index=first_index, seed=2)
        environments.reset(4)
        actions = np.random.default_rng(1).integers(6, size=(60, 4))[:, columns]
        return [environments.step(actions_N).observations_NO for actions_N in actions]

    whole, left, right = frames(4, 0, slice(0, 4)), frames(2, 0, slice(0, 2)), frames(2, 2, slice(2, 4))
    assert all((w == np.concatenate(parts)).all() for w, *parts in zip(whole, left, right, strict=True))
    assert (whole[-1][0] != whole[-1][1]).any()


def test_observations_are_stacks_of_bytes_that_start_with_zeros() -> None:
    environments = make_environments(atari(), 2)
    observations_NO = environments.reset(0)
    assert environments.observation_space.shape == (4, 84, 84)
    assert (observations_NO.shape, observations_NO.dtype) == ((2, 4, 84, 84), np.uint8)
    assert not observations_NO[:, :3].any()
    assert observations_NO[:, 3].any()
    step = environments.step(np.zeros(2, np.int64))
    assert (step.observations_NO[:, 2] == observations_NO[:, 3]).all()


def test_rewards_are_raw() -> None:
    environments = make_environments(atari("space_invaders"), 4)
    rewards = {float(reward) for step in play(environments, 0, 150) for reward in step.rewards_N}
    assert rewards & {5.0, 10.0, 15.0, 20.0}
    assert not rewards - {5.0 * k for k in range(60)}


def test_the_minimal_action_set_is_the_default_and_its_meanings_are_said() -> None:
    minimal = make_environments(atari("breakout"), 1)
    assert list(minimal.action_meanings) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    full = make_environments(atari("breakout", full_action_set=True), 1)
    assert full.action_space == Discrete(18)
    assert len(full.action_meanings) == 18


def starting_frames(config: AtariConfig, resets: int) -> list[int]:
    environments = make_environments(config, 4)
    assert isinstance(environments, AtariEnvironments)
    environments.reset(0)
    return [int(frame) for _ in range(resets) for frame in environments._native.reset()[1]["episode_frame_number"]]


def test_machado_starts_at_once_and_classic_after_0_to_30_noops() -> None:
    (start,) = set(starting_frames(atari("breakout"), resets=5))
    noops = {frame - start for frame in starting_frames(atari("breakout", protocol="classic"), resets=80)}
    assert noops == set(range(31))


def test_classic_repeats_what_was_asked_for_and_machado_sticks_to_the_last_action() -> None:
    # Without stickiness and no-ops a game is the same whatever the seed.
    def differs(config: AtariConfig) -> bool:
        steps = play_same_actions(make_environments(config, 8))
        return any((step.observations_NO != step.observations_NO[0]).any() for step in steps)

    def play_same_actions(environments: Environments) -> list[Transitions]:
        environments.reset(0)
        return [environments.step(np.full(8, action)) for action in np.random.default_rng(2).integers(6, size=40)]

    assert differs(atari())
    assert not differs(atari(sticky_actions=0.0))


def test_a_lost_life_ends_the_return_in_classic_training_only() -> None:
    def play_breakout(**settings: Any) -> list[Transitions]:
        training = settings.pop("training", True)
        environments = make_environments(atari("breakout", **settings), 1, training=training)
        return play(environments, 0, 300)

    classic = play_breakout(protocol="classic")
    ends = [int(step.return_ended_N[0]) for step in classic]
    games = [int(step.terminated_N[0]) for step in classic]
    first_game = games.index(1)
    assert sum(ends[: first_game + 1]) == 5  # Breakout gives five lives
    assert next(step for step in classic if step.episodes) is classic[first_game]
    for other in (play_breakout(protocol="classic", training=False), play_breakout(protocol="machado")):
        assert [step.return_ended_N[0] for step in other] == [step.terminated_N[0] for step in other]


def test_lost_lives_are_those_that_the_emulator_itself_reports() -> None:
    environments = make_environments(atari("breakout", protocol="classic"), 4, seed=1)
    assert isinstance(environments, AtariEnvironments)
    settings = {"noop_max": 31, "use_fire_reset": False, "reward_clipping": False, "num_threads": 1}
    reporting = AtariVectorEnv("breakout", 4, life_loss_info=True, autoreset_mode="SameStep", **settings)
    environments.reset(0)
    reporting.reset(seed=np.array(environments._seeds.at(0)))
    ends = 0
    for actions_N in random_actions(environments, 250):
        step = environments.step(actions_N)
        assert (step.return_ended_N == reporting.step(actions_N)[2]).all()
        ends += int(step.return_ended_N.sum())
    assert ends > 10


def test_a_time_limit_truncates_with_the_true_last_frame_and_starts_a_new_game() -> None:
    limited = make_environments(atari(max_frames=80), 2, seed=3)
    unlimited = make_environments(atari(), 2, seed=3)
    start = limited.reset(0)
    unlimited.reset(0)
    for number, actions_N in enumerate(random_actions(limited, 40), 1):
        step, reference = limited.step(actions_N), unlimited.step(actions_N)
        if number < 20:
            assert (step.observations_NO == reference.observations_NO).all()
            assert not step.truncated_N.any()
        if number == 20:
            assert step.truncated_N.all()
            assert not step.return_ended_N.any()
            assert (step.final_observations_KO == reference.observations_NO).all()
            assert (step.observations_NO == start).all()
            assert [episode.steps for episode in step.episodes] == [20, 20]
    assert step.truncated_N.all()


def test_the_others_stand_still_while_one_starts_anew_at_its_limit() -> None:
    # Environment 1 loses its game of Breakout at another step, so that the limits fall apart.
    config = atari("breakout", max_frames=800)
    environments = make_environments(config, 2, seed=1)
    steps = play(environments, 0, 900)
    for row in range(2):
        alone = make_environments(config, 1, first_index=row, seed=1)
        alone.reset(0)
        for step, actions_N in zip(steps, random_actions(environments, 900), strict=True):
            own = alone.step(actions_N[row : row + 1])
            assert (own.observations_NO[0] == step.observations_NO[row]).all()
            assert own.truncated_N[0] == step.truncated_N[row]
    assert any(step.truncated_N.sum() == 1 for step in steps)


def test_both_modes_of_the_native_environment_teach_the_same() -> None:
    """The frames, rewards and ends of same step are those of next step without the rows that are no transitions."""

    def learned(mode: Any, native_mode: str) -> list[tuple[float, bool, bool, bytes]]:
        settings = {"noop_max": 0, "use_fire_reset": False, "reward_clipping": False, "num_threads": 1}
        native = AtariVectorEnv("breakout", 1, max_num_frames_per_episode=720, autoreset_mode=native_mode, **settings)
        native.reset(seed=np.array([1]))
        autoreset, seen = Autoreset(mode, range(1)), []
        actions = np.random.default_rng(1).integers(4, size=600)
        while len(seen) < 600:
            *results, information = native.step(actions[len(seen) : len(seen) + 1])
            step = autoreset.transitions(*results, information.get("final_obs"))
            if step.valid_N[0]:
                following = step.final_observations_KO if step.truncated_N[0] else step.observations_NO
                picture = b"" if step.return_ended_N[0] else following.tobytes()
                seen.append((float(step.rewards_N[0]), step.terminated_N[0], step.truncated_N[0], picture))
        return seen

    same = learned("same_step", "SameStep")
    assert same == learned("next_step", "NextStep")
    assert any(terminated for _, terminated, _, _ in same)
    assert any(truncated for _, _, truncated, _ in same)


def test_a_picture_shows_the_same_game_in_colour() -> None:
    environments = make_environments(atari(protocol="classic", max_frames=240), 1, render=True)
    environments.reset(0)
    pictures, shown = [], []
    for actions_N in random_actions(environments, 100):
        step = environments.step(actions_N)
        (picture_HWC,) = environments.render()
        assert (picture_HWC.shape, picture_HWC.dtype) == ((210, 160, 3), np.uint8)
        # In blocks of 5 x 40, which both pictures can be cut into. Only what moves is compared.
        pictures.append(picture_HWC.mean(axis=2).reshape(42, 5, 4, 40).mean(axis=(1, 3)))
        last_NO = step.final_observations_KO if step.truncated_N[0] else step.observations_NO
        shown.append(last_NO[0, -1].reshape(42, 2, 4, 21).mean(axis=(1, 3)))
    environments.close()
    moving = [np.reshape(images, (100, -1)) - np.mean(images, axis=0).ravel() for images in (pictures, shown)]
    pictured, seen = (images / np.linalg.norm(images, axis=1, keepdims=True) for images in moving)
    likeness = seen @ pictured.T
    assert likeness.diagonal().min() > 0.8
    # Each is more like the picture of its own step than like any three or more steps away.
    apart = np.abs(np.subtract.outer(np.arange(100), np.arange(100))) >= 3
    assert (np.where(apart, likeness, -1).max(axis=1) < likeness.diagonal()).mean() > 0.9


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: check_game("pongg"), "environment.game: there is no Atari game pongg; did you mean pong?"),
        (
            lambda: check_game("SpaceInvaders"),
            "environment.game: there is no Atari game SpaceInvaders; did you mean space_invaders?",
        ),
        (
            lambda: check_game("xyzzy1"),
            "environment.game: there is no Atari game xyzzy1; games are written like space_invaders",
        ),
        (lambda: check_game("joust"), "environment.game: joust is for two players only; choose a game for one"),
        (
            lambda: make_environments(atari("pongg"), 1),
            "environment.game: there is no Atari game pongg; did you mean pong?",
        ),
    ],
)
def test_a_game_that_does_not_exist_is_one_line(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises(FootplateError) as refused:
        attempt()
    assert str(refused.value) == message


def test_a_rom_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(FootplateError) as refused:
        check_game("pong")
    assert str(refused.value) == (
        "environment.game: the ROM of pong is missing or damaged "
        f"([Errno 2] No such file or directory: '{tmp_path}/pong.bin'); install ale-py anew"
    )


def test_an_invalid_action_is_refused_before_it_can_hang_the_emulator() -> None:
    environments = make_environments(atari(), 2, first_index=8)
    environments.reset(0)
    with pytest.raises(FootplateError) as refused:
        environments.step(np.array([0, 6]))
    assert str(refused.value) == "environment 9: there is no action 6; the actions are 0 to 5"
    assert environments.step(np.array([0, 5])).valid_N.all()


@pytest.mark.slow
def test_an_emulator_that_hangs_ends_the_run_at_the_watchdogs_timeout(tmp_path: Path) -> None:
    # An invalid action, smuggled past our check, really hangs it. In a process of its own, to see that this one ends.
    script = tmp_path / "hang.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from footplate.errors import TrainingError\n"
        "from footplate_rl.environments import AtariConfig, make_environments\n"
        "environments = make_environments(AtariConfig(kind='atari', game='pong', timeout_seconds=2), 1)\n"
        "environments.reset(0)\n"
        "environments.action_space.n = 7\n"
        "try:\n"
        "    environments.step(np.array([6]))\n"
        "except TrainingError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ended.stdout.strip() == (
        "environment: the emulator of pong has not answered for 2 s and can't be killed; "
        "`footplate resume` goes on from the last checkpoint"
    )
    assert ended.returncode == 1
