"""Environments that misbehave, named by tests as dotted names."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

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


class Spaceless(gymnasium.Env[Any, Any]):
    """An environment that forgot its spaces."""


def nothing() -> None:
    """Makes no environment."""
