"""Worked by hand on an environment whose frames say which frame they are."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Graph, MultiDiscrete, Space

from footplate.errors import FootplateError
from footplate_rl.environments import SingleConfig
from footplate_rl.wrappers import FrameSkip, FrameStack, Resize, area_weights, is_image, prepare


class Counting(gymnasium.Env[Any, Any]):
    """Frame f of an episode shows f in pixel f mod 4 and 0 elsewhere; its reward is f; the episode ends at `end`."""

    def __init__(self, end: int = 100, shape: tuple[int, ...] = (2, 2), dtype: Any = np.uint8) -> None:
        self.end, self.frame = end, 0
        self.observation_space = Box(0, 255, shape, dtype)
        self.action_space: Space[Any] = Discrete(3, start=-1)
        self.actions: list[Any] = []
        self._picture = np.zeros(shape, dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.frame = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        self.frame += 1
        return self._draw(), float(self.frame), self.frame == self.end, False, {}

    def _draw(self) -> Any:
        # One array for all frames, as emulators do it.
        self._picture[:] = 0
        self._picture.reshape(-1)[self.frame % 4] = self.frame
        return self._picture


def test_frame_skip_adds_rewards_and_shows_the_maximum_of_the_last_two_frames() -> None:
    environment = FrameSkip(Counting(), 4)
    environment.reset()
    observation, reward, terminated, *_ = environment.step(0)
    assert observation.tolist() == [[4, 0], [0, 3]]
    assert (reward, terminated) == (1 + 2 + 3 + 4, False)
    assert environment.step(0)[0].tolist() == [[8, 0], [0, 7]]


@pytest.mark.parametrize(
    ("end", "picture", "reward"),
    [(5, [[0, 5], [0, 0]], 5), (6, [[0, 5], [6, 0]], 11), (7, [[0, 0], [6, 7]], 18)],
)
def test_an_episode_that_ends_within_a_skip_shows_only_frames_since_the_action(
    end: int, picture: list[list[int]], reward: float
) -> None:
    environment = FrameSkip(Counting(end=end), 4)
    environment.reset()
    environment.step(0)
    observation, total_reward, terminated, *_ = environment.step(0)
    assert observation.tolist() == picture
    assert (total_reward, terminated) == (reward, True)
    assert environment.unwrapped.frame == end


def test_nothing_of_the_last_episode_is_in_the_first_frames_of_the_next() -> None:
    environment = FrameSkip(Counting(end=5), 4)
    for _ in range(2):
        environment.reset()
        assert environment.step(0)[0].tolist() == [[4, 0], [0, 3]]
        environment.step(0)


def test_frame_skip_shows_the_last_of_what_is_no_image() -> None:
    environment = FrameSkip(Counting(shape=(4,), dtype=np.float32), 2)
    environment.reset()
    assert environment.step(0)[0].tolist() == [0, 0, 2, 0]


def test_a_stack_is_the_last_frames_oldest_first_after_zeros() -> None:
    environment = FrameStack(Counting(), 3)
    first, _ = environment.reset()
    assert first.shape == environment.observation_space.shape == (3, 2, 2)
    assert first.sum(axis=(1, 2)).tolist() == [0, 0, 0]
    sums = [environment.step(0)[0].sum(axis=(1, 2)).tolist() for _ in range(4)]
    assert sums == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_a_reset_empties_the_stack() -> None:
    environment = FrameStack(Counting(), 3)
    environment.reset()
    for _ in range(5):
        environment.step(0)
    assert environment.reset()[0].sum() == 0


def test_a_stack_that_was_handed_out_never_changes() -> None:
    environment = FrameStack(Counting(), 2)
    environment.reset()
    before = environment.step(0)[0]
    kept = before.copy()
    environment.step(0)
    assert (before == kept).all()


def test_colours_become_channels_of_the_stack() -> None:
    class Colourful(Counting):
        def _draw(self) -> Any:
            return np.full((2, 2, 3), [10 * self.frame, 10 * self.frame + 1, 10 * self.frame + 2], np.uint8)

    environment = FrameStack(Colourful(shape=(2, 2, 3)), 2)
    environment.reset()
    environment.step(0)
    assert environment.step(0)[0][:, 0, 0].tolist() == [10, 11, 12, 20, 21, 22]


def test_area_weights_cover_every_pixel_once() -> None:
    for old, new in [(210, 84), (160, 84), (7, 3), (5, 5), (3, 6)]:
        weights = area_weights(old, new)
        assert weights.sum(axis=1) == pytest.approx(np.ones(new), abs=1e-5)
        assert weights.sum(axis=0) == pytest.approx(np.full(old, new / old), abs=1e-5)


def test_resizing_is_the_mean_of_what_a_pixel_covers() -> None:
    environment = Resize(Counting(), 1, 1)
    environment.reset()
    environment.env.unwrapped.frame = 9
    assert environment.step(0)[0].tolist() == [[2]]  # 10 / 4, rounded to even
    assert Resize(Counting(), 2, 2).observation(np.array([[1, 2], [3, 4]], np.uint8)).tolist() == [[1, 2], [3, 4]]


def test_colours_are_resized_each_by_itself() -> None:
    image_HWC = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    resized = Resize(Counting(shape=(4, 6, 3)), 2, 3).observation(image_HWC)
    expected = image_HWC.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3))
    assert resized == pytest.approx(expected, abs=0.5001)


def test_preparing_makes_what_a_convolution_takes() -> None:
    config = SingleConfig(frame_skip=2, grayscale=True, resize=(8, 9), frame_stack=4)
    environment = prepare(Counting(shape=(16, 18, 3)), config, "it")
    assert environment.observation_space == Box(0, 255, (4, 8, 9), np.uint8)
    observation, _ = environment.reset()
    assert observation.shape == (4, 8, 9)
    assert environment.step(0)[0].dtype == np.uint8


def test_actions_count_from_zero() -> None:
    counting = Counting()
    environment = prepare(counting, SingleConfig(), "it")
    assert environment.action_space == Discrete(3)
    environment.reset()
    environment.step(np.int64(0))
    environment.step(np.int64(2))
    assert counting.actions == [-1, 1]


def test_what_is_no_array_is_flattened() -> None:
    environment = prepare(gymnasium.make("FrozenLake-v1", is_slippery=False), SingleConfig(), "FrozenLake-v1")
    assert environment.reset(seed=1)[0].tolist() == [1] + [0] * 15


def test_only_bytes_with_two_axes_or_channels_last_are_images() -> None:
    shapes = {(8, 8): True, (8, 8, 1): True, (8, 8, 3): True, (4, 8, 8): False, (8,): False}
    assert {shape: is_image(Box(0, 255, shape, np.uint8)) for shape in shapes} == shapes
    assert not is_image(Box(0, 1, (8, 8), np.float32))


def test_actions_that_nothing_can_take_are_refused() -> None:
    counting = Counting()
    counting.action_space = MultiDiscrete([2, 3])
    with pytest.raises(FootplateError) as refused:
        prepare(counting, SingleConfig(), "Counting-v0")
    assert str(refused.value) == (
        "environment: Counting-v0 takes actions MultiDiscrete([2 3]); only Discrete and Box actions are supported"
    )


def test_observations_that_do_not_flatten_are_refused() -> None:
    counting = Counting()
    counting.observation_space = Graph(Discrete(2), None)  # type: ignore[assignment]
    with pytest.raises(FootplateError) as refused:
        prepare(counting, SingleConfig(), "Counting-v0")
    assert str(refused.value) == (
        "environment: Counting-v0 shows Graph(Discrete(2), None); only what flattens into one array is supported"
    )


@pytest.mark.parametrize(("key", "value"), [("grayscale", True), ("resize", [4, 4]), ("frame_stack", 4)])
def test_image_options_are_refused_where_there_is_no_image(key: str, value: object) -> None:
    with pytest.raises(FootplateError) as refused:
        prepare(
            Counting(shape=(4,), dtype=np.float32), SingleConfig.model_validate({key: value}, strict=False), "It-v0"
        )
    assert str(refused.value) == (
        f"environment.{key}: observations of It-v0 are Box(0.0, 255.0, (4,), float32), not images; leave it out"
    )


# Scale


def scaled(space: Space[Any], scale: Any) -> gymnasium.Env[Any, Any]:
    class Showing(gymnasium.Env[Any, Any]):
        observation_space, action_space = space, Discrete(2)

        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return np.array([1.0, 30.0], np.float32), {}

    return prepare(Showing(), SingleConfig(observation_scale=scale), "It-v0")


def test_observations_are_brought_from_their_bounds_to_minus_1_to_1() -> None:
    bounded = scaled(Box(np.array([0.0, -10.0]), np.array([4.0, 30.0]), dtype=np.float64), "bounds")
    assert bounded.reset()[0].tolist() == [-0.5, 1.0]
    assert bounded.observation_space == Box(-1.0, 1.0, (2,), np.float32)


def test_each_number_of_an_observation_has_its_factor() -> None:
    unbounded = scaled(Box(-np.inf, np.inf, (2,), np.float32), (2.0, 0.1))
    observation = unbounded.reset()[0]
    assert observation.tolist() == pytest.approx([2.0, 3.0])
    assert observation.dtype == np.float32
    assert unbounded.observation_space == Box(-np.inf, np.inf, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "scale", "problem"),
    [
        (Box(0.0, np.inf, (2,), np.float32), "bounds", "observations of It-v0 are Box(0.0, inf, (2,), float32), "
         "without bounds on all sides; give a factor for each number"),
        (Box(0.0, 1.0, (2,), np.float32), (1.0,), "1 factors for observations of 2 numbers; give one for each"),
        (Box(0, 255, (4, 4), np.uint8), "bounds", "observations of It-v0 are images, which networks scale; leave it "
         "out"),
    ],
)  # fmt: skip
def test_a_scale_that_does_not_fit_is_refused(space: Space[Any], scale: Any, problem: str) -> None:
    with pytest.raises(FootplateError) as refused:
        scaled(space, scale)
    assert str(refused.value) == f"environment.observation_scale: {problem}"


def test_what_is_gray_already_is_made_gray_by_nobody() -> None:
    with pytest.raises(FootplateError) as refused:
        prepare(Counting(), SingleConfig(grayscale=True), "It-v0")
    assert str(refused.value) == "environment.grayscale: observations of It-v0 are gray already; leave it out"
