"""Any gymnasium environment, or one of the user's own: how one is made, and N at a time in this process.

Axes: N environments, O all axes of one observation.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import footplate_rl.toys  # noqa: F401  (registers our own ids)
from footplate.errors import FootplateError, TrainingError, described
from footplate_rl.actions import checked_actions
from footplate_rl.autoreset import Autoreset
from footplate_rl.environments import GymnasiumConfig, Observations, OwnConfig, Seeds, Transitions, name_of
from footplate_rl.wrappers import Environment, StepResult, prepare

ADVICE = "mend it, and `footplate resume` goes on from the last checkpoint"
_RAISED = (Exception, SystemExit)  # pygame's programs exit where their window is closed
_MODES = {"same_step": AutoresetMode.SAME_STEP, "next_step": AutoresetMode.NEXT_STEP}


class FailedEnvironmentError(Exception):
    """An environment did what none may do: the message says what, and only that."""

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


class GymnasiumEnvironments:
    """`Environments` of gymnasium in this process, unwatched: breakpoints stop there, Ctrl-C ends hangs."""

    restarts: int | None = None

    def __init__(self, config: GymnasiumConfig | OwnConfig, seeds: Seeds, *, render: bool = False) -> None:
        self.count = len(seeds.indices)
        self.frames_per_step = config.frame_skip
        self.action_meanings: Sequence[str] = ()
        if render:
            config = config.model_copy(update={"autoreset": "next_step"})
        self._seeds = seeds
        self._autoreset = Autoreset(config.autoreset, seeds.indices)
        self._actions: NDArray[Any] | None = None
        makers = [Maker(config, index, render=render) for index in seeds.indices]
        try:
            self._vector = SyncVectorEnv(makers, autoreset_mode=_MODES[config.autoreset])
        except RuntimeError as problem:
            raise FootplateError(
                f"environment: {name_of(config)} makes environments with different spaces; make all alike"
            ) from problem
        observations, actions = self._vector.single_observation_space, self._vector.single_action_space
        assert isinstance(observations, Box)
        assert isinstance(actions, Discrete | Box)
        self.observation_space, self.action_space = observations, actions
        self.steps_per_second = float(self._vector.metadata.get("render_fps") or 30) / config.frame_skip

    def reset(self, number: int) -> Observations:
        self._autoreset.restart()
        self._actions = None
        seeds: list[int | None] = [*self._seeds.at(number)]
        observations_NO, _ = self._told(lambda: self._vector.reset(seed=seeds))
        self._require_finite("its observation", observations_NO)
        result: Observations = observations_NO
        return result

    def step(self, actions_N: NDArray[Any]) -> Transitions:
        self.send(actions_N)
        return self.recv()

    def send(self, actions_N: NDArray[Any]) -> None:
        self._actions = checked_actions(actions_N, self.action_space, self._seeds.indices)

    def recv(self) -> Transitions:
        if self._actions is None:
            raise RuntimeError("recv() without send()")
        actions, self._actions = self._actions, None
        observations_NO, rewards_N, terminated_N, truncated_N, information = self._told(
            lambda: self._vector.step(actions)
        )
        self._require_finite("its observation", observations_NO)
        self._require_finite("its reward", rewards_N)
        # Under same step what an episode ended with comes apart, and only of those that ended.
        finals_N = information.get("final_obs")
        if finals_N is not None:
            rows = zip(observations_NO, finals_N, strict=True)
            self._require_finite("its observation", np.stack([shown if last is None else last for shown, last in rows]))
        return self._autoreset.transitions(observations_NO, rewards_N, terminated_N, truncated_N, finals_N)

    def render(self) -> list[NDArray[np.uint8]]:
        return [*self._told(self._vector.render)]

    def close(self) -> None:
        self._vector.close()

    def _told(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except FailedEnvironmentError as failure:
            raise TrainingError(f"environment {failure.index}: {failure}; {ADVICE}") from failure.__cause__

    def _require_finite(self, what: str, values_N: NDArray[Any]) -> None:
        if values_N.dtype.kind == "f" and not np.isfinite(values_N).all():
            row = int(np.argmin(np.isfinite(values_N).reshape(self.count, -1).all(axis=1)))
            raise TrainingError(f"environment {self._seeds.indices[row]}: {what} is not finite; {ADVICE}")


class Maker:
    """Makes the environment with this global index; travels pickled to the process that it is for."""

    def __init__(self, config: GymnasiumConfig | OwnConfig, index: int, *, render: bool = False) -> None:
        self._config, self._index, self._render = config, index, render

    def __call__(self) -> Environment:
        environment, name = make_single(self._config, render=self._render)
        return _Reporting(prepare(environment, self._config, name), self._index)


class _Reporting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Raises FailedEnvironmentError where an environment raises anything, or shows what is not of its space.

    What it tells besides goes no further: no learner reads it, and of several environments it must not fit together.
    """

    def __init__(self, environment: Environment, index: int) -> None:
        super().__init__(environment)
        self._index = index
        self._shape = self.observation_space.shape  # a wrapper asks all that it wraps for it each time

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            observation, _ = self.env.reset(seed=seed, options=options)
            self._check(observation)
        except _RAISED as exception:
            raise self._failure("reset", exception) from exception
        return observation, {}

    def step(self, action: Any) -> StepResult:
        if isinstance(action, np.integer):
            action = int(action)  # `Discrete` takes ten times as long to check one of NumPy's
        try:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            self._check(observation)
            return observation, float(reward), bool(terminated), bool(truncated), {}
        except _RAISED as exception:
            raise self._failure("step", exception) from exception

    def render(self) -> Any:
        try:
            picture = np.asarray(self.env.render(), np.uint8)
            if picture.ndim != 3 or picture.shape[2] != 3:
                raise ValueError(f"a picture of shape {picture.shape}, not height, width and 3 colours")
        except _RAISED as exception:
            raise self._failure("render", exception) from exception
        return picture

    def close(self) -> None:
        try:
            super().close()
        except _RAISED as exception:
            logging.getLogger("footplate").warning(
                f"environment {self._index}: close raised {described(exception)}; nothing else is lost"
            )

    def _check(self, observation: Any) -> None:
        if (shape := np.shape(observation)) != self._shape:
            raise ValueError(f"an observation of shape {shape} where the space has {self._shape}")

    def _failure(self, what: str, exception: BaseException) -> FailedEnvironmentError:
        return FailedEnvironmentError(self._index, f"{what} raised {described(exception)}")


def make_single(config: GymnasiumConfig | OwnConfig, *, render: bool = False) -> tuple[Environment, str]:
    """One environment as it is, before anything is done to its observations, and what to call it."""
    try:
        environment, name = _made(config, render)
    except FootplateError:
        raise
    except _RAISED as exception:
        raise FootplateError(
            f"environment: {name_of(config)} can't be made: {described(exception)}; mend it"
        ) from exception
    for space in ("observation_space", "action_space"):
        if not isinstance(environment, gymnasium.Env) or not hasattr(environment, space):
            raise FootplateError(
                f"environment: {name} makes a {type(environment).__name__} without {space}; "
                "make a gymnasium.Env that sets its spaces in __init__"
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
            raise FootplateError(f"environment.arguments: {config.name} refuses them: {problem}") from problem
    if config.id.startswith("ALE/"):
        import_module("ale_py")  # registers its ids
    try:
        return gymnasium.make(config.id, disable_env_checker=True, **arguments), config.id
    except error.DependencyNotInstalled as missing:
        raise FootplateError(
            f"environment.id: {config.id} needs a package that is not installed: {missing}"
        ) from missing
    except ModuleNotFoundError as missing:
        # gymnasium lengthens the message by what it guesses was wrong.
        reason = str(missing).partition(". ")[0]
        raise FootplateError(f"environment.id: {config.id}: {reason}; install it or correct the id") from missing
    except error.Error as unknown:
        near = get_close_matches(config.id, gymnasium.registry, n=1)
        advice = f"did you mean {near[0]}?" if near else "see gymnasium.registry for those that are installed"
        raise FootplateError(f"environment.id: gymnasium knows no environment {config.id}; {advice}") from unknown
    except TypeError as problem:
        reason = str(problem).partition(" was raised from the environment creator")[0]
        raise FootplateError(f"environment.arguments: {config.id} refuses them: {reason}") from problem


def _check_that_it_draws(config: GymnasiumConfig | OwnConfig) -> None:
    if (reason := why_it_is_not_drawn(config)) is not None:
        raise FootplateError(f"environment: {reason}; ask for no video")


def why_it_is_not_drawn(config: GymnasiumConfig | OwnConfig) -> str | None:
    """What keeps this environment from being drawn; None where nothing does."""
    environment, name = make_single(config)
    with suppress(Exception):
        environment.close()
    if "rgb_array" in (environment.metadata.get("render_modes") or ()):
        return None
    return f"{name} can't be drawn, it has no render mode rgb_array"


def _own(name: str) -> Callable[..., Environment]:
    module, _, attribute = name.rpartition(".")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as problem:
        raise FootplateError(
            f"environment.name: there is no {name} ({problem}); write package.module.Class of an importable module"
        ) from problem
    if not callable(kind):
        raise FootplateError(f"environment.name: {name} is no class or function; write package.module.Class")
    made: Callable[..., Environment] = kind
    return made
