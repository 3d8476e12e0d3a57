"""Any gymnasium environment, or one of the user's own, N at a time: in this process or each in its own.

Axes: N environments, O all axes of one observation.
"""

import os
import signal
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from multiprocessing import TimeoutError as LateError
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from numpy.typing import NDArray

import footplate_rl.toys  # noqa: F401  (registers our own ids)
from footplate.errors import FootplateError, TrainingError
from footplate_rl.actions import checked_actions
from footplate_rl.autoreset import Autoreset
from footplate_rl.environments import GymnasiumConfig, Observations, OwnConfig, Seeds, Transitions
from footplate_rl.wrappers import Environment, StepResult, prepare

_ADVICE = "mend it, and `footplate resume` goes on from the last checkpoint."
_MODES = {"same_step": AutoresetMode.SAME_STEP, "next_step": AutoresetMode.NEXT_STEP}


class GymnasiumEnvironments:
    """`Environments` of gymnasium; those in this process are not watched: breakpoints stop there, Ctrl-C ends hangs."""

    def __init__(self, config: GymnasiumConfig | OwnConfig, seeds: Seeds, *, render: bool = False) -> None:
        self.count = len(seeds.indices)
        self.frames_per_step = config.frame_skip
        self.action_meanings: Sequence[str] = ()
        if render:
            config = config.model_copy(update={"autoreset": "next_step"})
        self._config, self._seeds = config, seeds
        self._autoreset = Autoreset(config.autoreset, seeds.indices)
        self._actions: NDArray[Any] | None = None
        makers = [_Maker(config, index, render, os.getpid()) for index in seeds.indices]
        self._vector = _vector(makers, config)
        observations, actions = self._vector.single_observation_space, self._vector.single_action_space
        assert isinstance(observations, Box)
        assert isinstance(actions, Discrete | Box)
        self.observation_space, self.action_space = observations, actions
        self.steps_per_second = float(self._vector.metadata.get("render_fps") or 30) / config.frame_skip

    def reset(self, number: int) -> Observations:
        self._autoreset.restart()
        self._actions = None
        seeds: list[int | None] = [*self._seeds.at(number)]
        if isinstance(self._vector, SyncVectorEnv):
            observations, information = self._vector.reset(seed=seeds)
        else:
            vector = self._vector
            self._await(lambda: vector.reset_async(seed=seeds))
            observations, information = self._await(lambda: vector.reset_wait(self._config.timeout_seconds))
        observations_NO: Observations = observations
        self._check(observations_NO, np.zeros(self.count), information)
        return observations_NO

    def step(self, actions_N: NDArray[Any]) -> Transitions:
        self.send(actions_N)
        return self.recv()

    def send(self, actions_N: NDArray[Any]) -> None:
        self._actions = checked_actions(actions_N, self.action_space, self._seeds.indices)
        if isinstance(self._vector, AsyncVectorEnv):
            vector, actions = self._vector, self._actions
            self._await(lambda: vector.step_async(actions))

    def recv(self) -> Transitions:
        if self._actions is None:
            raise RuntimeError("recv() without send()")
        if isinstance(self._vector, AsyncVectorEnv):
            vector = self._vector
            results = self._await(lambda: vector.step_wait(self._config.timeout_seconds))
        else:
            results = self._vector.step(self._actions)
        self._actions = None
        observations_NO, rewards_N, terminated_N, truncated_N, information = results
        self._check(observations_NO, rewards_N, information)
        return self._autoreset.transitions(
            observations_NO, rewards_N, terminated_N, truncated_N, information.get("final_obs")
        )

    def render(self) -> list[NDArray[np.uint8]]:
        return [np.asarray(frame, np.uint8) for frame in self._vector.render() or ()]

    def close(self) -> None:
        if isinstance(self._vector, SyncVectorEnv):
            self._vector.close()
        elif not self._vector.closed:
            # Else it would wait for the answer to a step in progress, which may never come, and warn.
            self._vector._state = AsyncState.DEFAULT
            self._vector.close(terminate=True)

    def _await(self, call: Callable[[], Any]) -> Any:
        """What the processes answer; if one hangs or has died, all are ended and the error says which."""
        assert isinstance(self._vector, AsyncVectorEnv)
        try:
            return call()
        except (LateError, EOFError, ConnectionError) as cause:
            if isinstance(cause, LateError):
                silent = [not pipe.poll() for pipe in self._vector.parent_pipes]
                problem = f"it has not answered for {self._config.timeout_seconds:g} s"
            else:
                # Its pipe closes a moment before the process itself has ended.
                ended = wait([process.sentinel for process in self._vector.processes])
                silent = [process.sentinel in ended for process in self._vector.processes]
                problem = "its process died"
            index = self._seeds.indices[silent.index(True)]
            self.close()
            raise TrainingError(f"environment {index}: {problem}; {_ADVICE}") from cause

    def _check(self, observations_NO: Observations, rewards_N: NDArray[Any], information: dict[str, Any]) -> None:
        failures = information.get("failure")
        if failures is not None:
            self.close()
            raise TrainingError(next(str(text) for text in failures if text))
        for name, values in (("observation", observations_NO), ("reward", rewards_N)):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                row = int(np.argmin(np.isfinite(values).reshape(self.count, -1).all(axis=1)))
                raise TrainingError(f"environment {self._seeds.indices[row]}: its {name} is not finite; {_ADVICE}")


def _vector(makers: Sequence["_Maker"], config: GymnasiumConfig | OwnConfig) -> SyncVectorEnv | AsyncVectorEnv:
    mode = _MODES[config.autoreset]
    if not config.processes:
        return SyncVectorEnv(makers, autoreset_mode=mode)
    # Never fork: torch's and Ray's threads hold locks that a forked child would wait for.
    return AsyncVectorEnv(makers, autoreset_mode=mode, context="spawn")


class _Maker:
    """Makes the environment with this global index; travels pickled to the process that it is for."""

    def __init__(self, config: GymnasiumConfig | OwnConfig, index: int, render: bool, owner: int) -> None:
        self._config, self._index, self._render, self._owner = config, index, render, owner

    def __call__(self) -> Environment:
        here = os.getpid() == self._owner
        if not here:
            # Ctrl-C reaches every process of a terminal; the trainer saves and then ends these.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        environment, name = make_single(self._config, render=self._render)
        return _Reporting(prepare(environment, self._config, name), self._index, here)


class _Reporting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Says which environment failed, and where: as an exception in this process, as information from another one."""

    def __init__(self, environment: Environment, index: int, here: bool) -> None:
        super().__init__(environment)
        self._index, self._here = index, here
        self._shape = self.observation_space.shape  # a wrapper asks all that it wraps for it each time

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            observation, information = self.env.reset(seed=seed, options=options)
            self._check(observation)
        except Exception as exception:
            return self._nothing(), self._failure("reset", exception)
        return observation, information

    def step(self, action: Any) -> StepResult:
        if isinstance(action, np.integer):
            action = int(action)  # `Discrete` takes ten times as long to check one of NumPy's
        try:
            observation, reward, terminated, truncated, information = self.env.step(action)
            self._check(observation)
        except Exception as exception:
            return self._nothing(), 0.0, False, False, self._failure("step", exception)
        return observation, float(reward), bool(terminated), bool(truncated), information

    def _check(self, observation: Any) -> None:
        if (shape := np.shape(observation)) != self._shape:
            raise ValueError(f"an observation of shape {shape} where the space has {self._shape}")

    def _nothing(self) -> NDArray[Any]:
        return np.zeros(self.observation_space.shape or (), self.observation_space.dtype)

    def _failure(self, what: str, exception: Exception) -> dict[str, Any]:
        message = f"environment {self._index}: {what} raised {_described(exception)}; {_ADVICE}"
        if self._here:
            raise TrainingError(message) from exception
        return {"failure": message}


def _described(exception: Exception) -> str:
    """What was raised, and where, on one line."""
    place = traceback.extract_tb(exception.__traceback__)[-1]
    message = " ".join(str(exception).split())
    return f"{type(exception).__name__}: {message} ({Path(place.filename).name}, line {place.lineno})"


def make_single(config: GymnasiumConfig | OwnConfig, *, render: bool = False) -> tuple[Environment, str]:
    """One environment as it is, before anything is done to its observations, and what to call it."""
    try:
        environment, name = _made(config, render)
    except FootplateError:
        raise
    except Exception as exception:
        name = config.name if isinstance(config, OwnConfig) else config.id
        raise FootplateError(f"environment: {name} can't be made: {_described(exception)}; mend it.") from exception
    for space in ("observation_space", "action_space"):
        if not isinstance(environment, gymnasium.Env) or not hasattr(environment, space):
            raise FootplateError(
                f"environment: {name} makes a {type(environment).__name__} without {space}; "
                "make a gymnasium.Env that sets its spaces in __init__."
            )
    return environment, name


def _made(config: GymnasiumConfig | OwnConfig, render: bool) -> tuple[Environment, str]:
    if render:
        _check_that_it_draws(config)
    arguments = dict(config.arguments) | ({"render_mode": "rgb_array"} if render else {})
    if isinstance(config, OwnConfig):
        kind = _own(config.name)
        try:
            return kind(**arguments), config.name
        except TypeError as problem:
            raise FootplateError(f"environment.arguments: {config.name} refuses them: {problem}.") from problem
    if config.id.startswith("ALE/"):
        import_module("ale_py")  # registers its ids
    try:
        return gymnasium.make(config.id, disable_env_checker=True, **arguments), config.id
    except error.DependencyNotInstalled as missing:
        raise FootplateError(
            f"environment.id: {config.id} needs a package that is not installed: {missing}."
        ) from missing
    except ModuleNotFoundError as missing:
        # gymnasium lengthens the message by what it guesses was wrong.
        reason = str(missing).partition(". ")[0]
        raise FootplateError(f"environment.id: {config.id}: {reason}; install it or correct the id.") from missing
    except error.Error as unknown:
        near = get_close_matches(config.id, gymnasium.registry, n=1)
        advice = f"did you mean {near[0]}?" if near else "see gymnasium.registry for those that are installed."
        raise FootplateError(f"environment.id: gymnasium knows no environment {config.id}; {advice}") from unknown
    except TypeError as problem:
        reason = str(problem).partition(" was raised from the environment creator")[0]
        raise FootplateError(f"environment.arguments: {config.id} refuses them: {reason}.") from problem


def _check_that_it_draws(config: GymnasiumConfig | OwnConfig) -> None:
    environment, name = make_single(config)
    environment.close()
    if "rgb_array" not in (environment.metadata.get("render_modes") or ()):
        raise FootplateError(f"environment: {name} can't be drawn, it has no render mode rgb_array; ask for no video.")


def _own(name: str) -> Callable[..., Environment]:
    module, _, attribute = name.rpartition(".")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as problem:
        raise FootplateError(
            f"environment.name: there is no {name} ({problem}); write package.module.Class of an importable module."
        ) from problem
    if not callable(kind):
        raise FootplateError(f"environment.name: {name} is no class or function; write package.module.Class.")
    made: Callable[..., Environment] = kind
    return made
