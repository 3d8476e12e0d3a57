"""Atari games in ale-py's native vector environment, with its traps closed.

What it does by default and we undo: clipped rewards, FIRE at the start, up to 29 no-ops, no sticky actions, as many
threads as the machine has cores. What it can't do right and we do here: it hangs on an invalid action (checked before)
and may hang on others (watchdog); its last frame at a time limit is a stale one (we count the frames and reset the
environment ourselves); with `life_loss_info` it can't tell a lost life from a lost game (we watch the lives).

`reset` with seeds loads the ROM anew, so that all that follows is a function of the seeds and the actions.

Axes: N environments, K truncated ones, O all axes of one observation.
"""

import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from ale_py import ALEInterface, AtariVectorEnv, roms
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from footplate.errors import FootplateError
from footplate_rl.actions import checked_actions
from footplate_rl.autoreset import Autoreset
from footplate_rl.environments import AtariConfig, Observations, Seeds, Transitions
from footplate_rl.watchdog import Watchdog

# The emulator's own limit is out of reach: it must stay below the largest 32-bit integer, as it adds one to it.
_NO_FRAME_LIMIT = 2**30
_MOST_NOOPS = 30
_SCREEN_HEIGHT, _SCREEN_WIDTH = 210, 160


class AtariEnvironments:
    """`Environments` of one game; `training` is whether a lost life ends the return under the `classic` protocol."""

    restarts: int | None = None

    def __init__(self, config: AtariConfig, seeds: Seeds, *, training: bool = True, render: bool = False) -> None:
        self.count = len(seeds.indices)
        self.frames_per_step = config.frame_skip
        self.steps_per_second = 60 / config.frame_skip
        self._config, self._seeds = config, seeds
        self._lives_count = training and config.protocol == "classic"
        self._autoreset = Autoreset("same_step", seeds.indices)
        check_game(config.game)
        self._native = _native(config, self.count)
        # The same game in colour: same seeds, same actions, and so the same frames.
        self._painter = _native(config, self.count, painted=True) if render else None
        self._pictures: Observations | None = None
        self._lives_N = np.zeros(self.count, np.int32)
        observations, actions = self._native.single_observation_space, self._native.single_action_space
        assert isinstance(observations, Box)
        assert isinstance(actions, Discrete)
        self.observation_space = observations
        self.action_space: Discrete | Box = actions
        self.action_meanings: Sequence[str] = [action.name for action in self._native.ale.get_action_set()]
        self._watchdog = Watchdog(
            config.timeout_seconds,
            f"environment: the emulator of {config.game} has not answered for {config.timeout_seconds:g} s "
            "and can't be killed; `footplate resume` goes on from the last checkpoint",
        )

    def reset(self, number: int) -> Observations:
        seeds = np.array(self._seeds.at(number))
        self._autoreset.restart()
        if self._painter is not None:
            painter = self._painter
            self._pictures, _ = self._watchdog(lambda: painter.reset(seed=seeds))
        observations_NO, information = self._watchdog(lambda: self._native.reset(seed=seeds))
        self._lives_N = information["lives"]
        result: Observations = observations_NO
        return result

    def step(self, actions_N: NDArray[Any]) -> Transitions:
        self.send(actions_N)
        return self.recv()

    def send(self, actions_N: NDArray[Any]) -> None:
        actions = checked_actions(actions_N, self.action_space, self._seeds.indices)
        if self._painter is not None:
            painter = self._painter
            pictures, _, over_N, _, information = self._watchdog(lambda: painter.step(actions))
            if over_N.any():
                pictures[over_N] = information["final_obs"][over_N]
            self._pictures = pictures
        self._native.send(actions)
        self._watchdog.start(self._native.recv)

    def recv(self) -> Transitions:
        observations_NO, rewards_N, terminated_N, _, information = self._watchdog.result()
        lives_N = information["lives"]
        life_lost_N = (lives_N < self._lives_N) & ~terminated_N if self._lives_count else None
        frames_N = (self._autoreset.steps_N + 1) * self.frames_per_step
        truncated_N = (frames_N >= self._config.max_frames) & ~terminated_N
        final_NO = information.get("final_obs")
        if truncated_N.any():
            final_NO = observations_NO.copy()
            observations_NO, information = self._start_anew(truncated_N)
            lives_N = information["lives"]
        self._lives_N = lives_N
        return self._autoreset.transitions(observations_NO, rewards_N, terminated_N, truncated_N, final_NO, life_lost_N)

    def render(self) -> list[NDArray[np.uint8]]:
        if self._pictures is None:
            raise RuntimeError("render() needs environments made with render=True, and a reset")
        return [np.asarray(picture[-1]) for picture in self._pictures]

    def close(self) -> None:
        self._watchdog.close()
        del self._native
        self._painter = None

    def _start_anew(self, which_N: NDArray[np.bool_]) -> Any:
        """Reset some environments, which go on with their own random numbers; the others stand still."""
        options = {"reset_mask": which_N}
        if self._painter is not None:
            painter = self._painter
            self._watchdog(lambda: painter.reset(options=options))
        return self._watchdog(lambda: self._native.reset(options=options))


def _native(config: AtariConfig, count: int, *, painted: bool = False) -> AtariVectorEnv:
    """The native vector environment; `painted` shows one frame in colour and in its own size instead of the stack."""
    return AtariVectorEnv(
        config.game,
        count,
        num_threads=config.threads,
        max_num_frames_per_episode=_NO_FRAME_LIMIT,
        repeat_action_probability=config.stickiness,
        full_action_space=config.full_action_set,
        autoreset_mode="SameStep",
        img_height=_SCREEN_HEIGHT if painted else 84,
        img_width=_SCREEN_WIDTH if painted else 84,
        grayscale=not painted,
        stack_num=1 if painted else config.frame_stack,
        frameskip=config.frame_skip,
        maxpool=config.frame_skip > 1,
        # It draws from 0 to one less than this.
        noop_max=_MOST_NOOPS + 1 if config.protocol == "classic" else 0,
        use_fire_reset=False,
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
    )


def check_game(game: str) -> Path:
    """Where the ROM of the game lies. Raises FootplateError for a game that can't be played.

    The emulator would end the whole process at a ROM that it does not know how to score.
    """
    known = roms.get_all_rom_ids()
    if game not in known:
        near = get_close_matches(game.lower(), known, n=1)
        advice = f"did you mean {near[0]}?" if near else "games are written like space_invaders"
        raise FootplateError(f"environment.game: there is no Atari game {game}; {advice}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = roms.get_rom_path(game)
    except OSError as problem:
        raise FootplateError(
            f"environment.game: the ROM of {game} is missing or damaged ({problem}); install ale-py anew"
        ) from problem
    assert path is not None
    if not ALEInterface.isSupportedROM(path):
        raise FootplateError(f"environment.game: {game} is for two players only; choose a game for one")
    return Path(path)
