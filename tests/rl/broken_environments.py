"""Environments that misbehave, named by tests as dotted names."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Countdown(gymnasium.Env[Any, Any]):
    """Episodes of 4 steps that pay 1, 2, 3, 4 and show [number of the episode in its process, steps].

    On the actions `on` it does as it is told at the third step of the second episode, or of each where `always`.
    """

    def __init__(self, what: str = "nothing", always: bool = False, on: Sequence[int] = (1,)) -> None:
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = Discrete(2)
        self.what, self.always, self.on = what, always, on
        self.episodes = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episodes, self.steps = self.episodes + 1, 0
        return np.array([self.episodes, 0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation = np.array([self.episodes, self.steps], np.float32)
        if self.steps == 3 and (self.episodes == 2 or self.always) and action in self.on:
            match self.what:
                case "raise":
                    raise ArithmeticError("it broke")
                case "hang":
                    time.sleep(600)
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "nan observation":
                    observation[1] = np.nan
        if self.steps == 4 and self.what == "nan at the end":
            observation[0] = np.nan
        return observation, float(self.steps), self.steps == 4, False, {}


class Misbehaving(gymnasium.Env[Any, Any]):
    """Does as it is told at its third step; where it would hang or die, only on action 1."""

    def __init__(self, what: str = "nothing", scale: float = 1.0) -> None:
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = Discrete(2)
        self.what, self.scale, self.steps = what, scale, 0
        if what == "raise when made":
            raise RuntimeError("no licence\nfound")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.what == "raise in reset":
            raise ValueError("no start")
        if self.what == "nothing in reset":
            return None  # type: ignore[return-value]
        self.steps = 0
        return self.np_random.random(2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.what == "look for torch":
            return np.zeros(2, np.float32), float("torch" in sys.modules), False, False, {}
        observation, reward = self.np_random.random(2).astype(np.float32), 1.0
        if self.steps == 3:
            if self.what == "raise":
                raise ZeroDivisionError("it broke")
            if self.what == "another shape":
                observation = np.zeros(3, np.float32)
            if self.what == "hang" and action == 1:
                time.sleep(600)
            if self.what == "die" and action == 1:
                os._exit(3)
            if self.what == "nan reward":
                reward = float("nan")
            if self.what == "nan observation":
                observation[1] = np.nan
        return observation, reward * self.scale, False, False, {}


class Odd(gymnasium.Env[Any, Any]):
    """Legal, or nearly: says, pays, draws and closes in ways that few do. Its one observation is always the same."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    made = 0

    def __init__(self, what: str = "nothing", render_mode: str | None = None) -> None:
        Odd.made += 1
        self.render_mode, self.what, self.steps = render_mode, what, 0
        self.action_space = Discrete(2)
        self.observation_space: gymnasium.Space[Any] = {
            "scalar": Box(0.0, 1.0, (), np.float32),
            "bytes": Box(0, 9, (3,), np.uint8),
            "empty": Box(0.0, 1.0, (0,), np.float32),
            "all different": Box(0.0, float(Odd.made), (3,), np.float32),
        }.get(what, Box(0.0, 1.0, (3,), np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._shown(), self._information()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        rewards: dict[str, Any] = {"pays nothing": None, "pays twice": np.ones(2)}
        if self.what == "exit":
            raise SystemExit
        return self._shown(), rewards.get(self.what, 1.0), self.steps == 3, False, self._information()

    def render(self) -> Any:
        if self.what == "draws nothing":
            return None
        if self.what == "can't draw":
            raise OSError("no display")
        return np.zeros((30 + (self.steps if self.what == "draws larger and larger" else 0), 30, 3), np.uint8)

    def close(self) -> None:
        if self.what == "can't close":
            raise RuntimeError("it is stuck")

    def _shown(self) -> Any:
        assert self.observation_space.shape is not None
        return np.ones(self.observation_space.shape, self.observation_space.dtype)

    def _information(self) -> Any:
        said: dict[str, Any] = {
            "tells of what may be none": {"winner": None if self.steps % 2 else 3},
            "tells of more and more": {"legal": np.arange(self.steps)},
            "tells of many types": {"phase": "end" if self.steps % 2 else 0},
            "tells nothing": None,
        }
        return said.get(self.what, {})


class Spaceless(gymnasium.Env[Any, Any]):
    """An environment that forgot its spaces."""


def nothing() -> None:
    """Makes no environment."""
