"""What is done to a single environment before it joins a batch: frame skip, resizing, frame stack, plain spaces.

Axes: H, W height and width of an image before resizing, A, B after it; C channels.
"""

from math import prod
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.wrappers import FlattenObservation, GrayscaleObservation
from numpy.typing import NDArray

from footplate.errors import FootplateError
from footplate_rl.environments import SingleConfig

Environment = gymnasium.Env[Any, Any]
StepResult = tuple[Any, float, bool, bool, dict[str, Any]]


def is_image(space: Space[Any]) -> bool:
    """Whether observations are pictures: bytes with two axes, or with three of which the last are 1 or 3 channels.

    >>> is_image(Box(0, 255, (210, 160, 3), np.uint8)), is_image(Box(0, 1, (10, 5), np.float32))
    (True, False)
    """
    if not isinstance(space, Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[-1] in (1, 3))


def prepare(environment: Environment, config: SingleConfig, name: str) -> Environment:
    """The environment as `config` wants it shown; `name` is what errors call it."""
    actions = environment.action_space
    if not isinstance(actions, Discrete | Box):
        raise FootplateError(
            f"environment: {name} takes actions {actions}; only Discrete and Box actions are supported"
        )
    if isinstance(actions, Discrete) and actions.start != 0:
        environment = CountedFromZero(environment)
    if config.frame_skip > 1:
        environment = FrameSkip(environment, config.frame_skip)
    space = environment.observation_space
    if not is_image(space):
        for key in ("grayscale", "resize", "frame_stack"):
            if getattr(config, key):
                raise FootplateError(f"environment.{key}: observations of {name} are {space}, not images; leave it out")
        if not isinstance(space, Box) or not space.shape:
            if not space.is_np_flattenable:
                raise FootplateError(
                    f"environment: {name} shows {space}; only what flattens into one array is supported"
                )
            environment = FlattenObservation(environment)
        shown = environment.observation_space
        assert isinstance(shown, Box)
        if not prod(shown.shape):
            raise FootplateError(f"environment: {name} shows {space}, which holds no number; show at least one")
        if config.observation_scale is not None:
            return _scaled(environment, config.observation_scale, name)
        # Bytes are for images, which networks scale.
        return environment if shown.dtype != np.uint8 else _scaled(environment, (1.0,) * prod(shown.shape), name)
    if config.observation_scale is not None:
        raise FootplateError(
            f"environment.observation_scale: observations of {name} are images, which networks scale; leave it out"
        )
    is_gray = len(space.shape or ()) == 2 or (space.shape or ())[-1] == 1
    if config.grayscale and is_gray:
        raise FootplateError(f"environment.grayscale: observations of {name} are gray already; leave it out")
    if config.grayscale:
        environment = GrayscaleObservation(environment)
    if config.resize is not None:
        environment = Resize(environment, *config.resize)
    return FrameStack(environment, config.frame_stack or 1)


def _scaled(environment: Environment, scale: Literal["bounds"] | tuple[float, ...], name: str) -> Environment:
    space = environment.observation_space
    assert isinstance(space, Box)
    if scale == "bounds":
        if not (np.isfinite(space.low) & np.isfinite(space.high) & (space.high > space.low)).all():
            raise FootplateError(
                f"environment.observation_scale: observations of {name} are {space}, without bounds on all sides; "
                "give a factor for each number"
            )
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        return ScaledObservation(environment, 2 / (high - low), (high + low) / (low - high))
    if len(scale) != (size := prod(space.shape)):
        raise FootplateError(
            f"environment.observation_scale: {len(scale)} factors for observations of {size} numbers; give one for each"
        )
    return ScaledObservation(environment, np.array(scale).reshape(space.shape), np.zeros(space.shape))


class ScaledObservation(gymnasium.ObservationWrapper[Any, Any, Any]):
    """factor * observation + offset, number by number, in float32."""

    def __init__(self, environment: Environment, factors: NDArray[np.float64], offsets: NDArray[np.float64]) -> None:
        super().__init__(environment)
        self._factors, self._offsets = factors, offsets
        space = environment.observation_space
        assert isinstance(space, Box)
        low, high = self.observation(space.low), self.observation(space.high)
        self.observation_space = Box(low, high, dtype=np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        return np.asarray(observation * self._factors + self._offsets, np.float32)


class CountedFromZero(gymnasium.ActionWrapper[Any, Any, Any]):
    """Discrete actions 0 to n - 1 for an environment that counts them from elsewhere."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        assert isinstance(environment.action_space, Discrete)
        self._start = int(environment.action_space.start)
        self.action_space = Discrete(int(environment.action_space.n))

    def action(self, action: Any) -> Any:
        return action + self._start


class FrameSkip(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeat each action; rewards add up.

    Images show the maximum of the last two frames, as sprites on old machines flicker from frame to frame. Where an
    episode ends early it is the last two since the action was chosen. Anything but an image shows the last frame.
    """

    def __init__(self, environment: Environment, frames: int) -> None:
        super().__init__(environment)
        self._frames = frames
        self._is_image = is_image(environment.observation_space)

    def step(self, action: Any) -> StepResult:
        total_reward = 0.0
        previous: Any = None
        for frame in range(self._frames):
            observation, reward, terminated, truncated, information = self.env.step(action)
            total_reward += float(reward)
            if terminated or truncated or frame == self._frames - 1:
                break
            # The environment may write its next frame into the same array.
            previous = np.array(observation) if self._is_image else None
        if previous is not None:
            observation = np.maximum(previous, observation)
        return observation, total_reward, terminated, truncated, information


class Resize(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Images of another size by averaging over areas: each new pixel is the mean of what it covers, rounded."""

    def __init__(self, environment: Environment, height: int, width: int) -> None:
        super().__init__(environment)
        shape = environment.observation_space.shape
        assert shape is not None
        self._rows_AH = area_weights(shape[0], height)
        self._columns_BW = area_weights(shape[1], width)
        self.observation_space = Box(0, 255, (height, width, *shape[2:]), np.uint8)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        image_CHW = observation.reshape(*observation.shape[:2], -1).transpose(2, 0, 1).astype(np.float32)
        resized_CAB = self._rows_AH @ image_CHW @ self._columns_BW.T
        pixels: NDArray[np.uint8] = np.rint(resized_CAB.transpose(1, 2, 0)).astype(np.uint8)
        return pixels.reshape(self.observation_space.shape or ())


def area_weights(old: int, new: int) -> NDArray[np.float32]:
    """How much of each of `old` pixels each of `new` pixels in their place covers, shape (new, old); rows sum to 1.

    >>> area_weights(4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: NDArray[np.float32] = (covered.clip(0) / (old / new)).astype(np.float32)
    return weights


class FrameStack(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The last `frames` images as channels of one, oldest first, shape (frames * C, height, width).

    After a reset the earlier images are zeros: nothing of the episode before is left.
    """

    def __init__(self, environment: Environment, frames: int) -> None:
        super().__init__(environment)
        shape = environment.observation_space.shape
        assert shape is not None
        self._channels = 1 if len(shape) == 2 else shape[2]
        self._stack = np.zeros((frames * self._channels, *shape[:2]), np.uint8)
        self.observation_space = Box(0, 255, self._stack.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        image, information = self.env.reset(seed=seed, options=options)
        self._stack[:] = 0
        return self._push(image), information

    def step(self, action: Any) -> StepResult:
        image, reward, terminated, truncated, information = self.env.step(action)
        return self._push(image), float(reward), terminated, truncated, information

    def _push(self, image: Any) -> NDArray[np.uint8]:
        self._stack[: -self._channels] = self._stack[self._channels :].copy()
        self._stack[-self._channels :] = image if image.ndim == 2 else np.moveaxis(image, -1, 0)
        return self._stack.copy()
