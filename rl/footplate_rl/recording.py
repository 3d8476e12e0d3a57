"""Recordings: what it takes to play an episode again, without the policy that played it.

An episode follows from its environment, its seed and its actions. So a video is made by playing it again, in an
environment that can be drawn, and the recording beside it lets anybody do the same.

Axes: N the one environment, O all axes of an observation.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from footplate.errors import FootplateError
from footplate.section import Section, WholeNumber
from footplate_rl.environments import (
    AtariConfig,
    EnvironmentConfig,
    Episode,
    GymnasiumConfig,
    Observations,
    OwnConfig,
    Seeds,
    make_environments,
)
from footplate_rl.video import VideoFile


class Recording(Section):
    """The first episode of an environment after a reset."""

    environment: EnvironmentConfig
    """What was played."""
    update: WholeNumber
    """After how many updates it was played."""
    seed: int
    """Of the run."""
    stream: str
    index: WholeNumber
    """Of the environment; its own seed follows from the run's, stream, index and update."""
    actions: tuple[Any, ...]
    """One for each step: a number, or nested lists where actions are continuous."""
    total_reward: float

    @property
    def environment_seed(self) -> int:
        """What the environment's `reset` was given: with it and the actions any program can play the episode."""
        return Seeds(self.seed, self.stream, range(self.index, self.index + 1)).at(self.update)[0]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        facts = self.model_dump(mode="json") | {"environment_seed": self.environment_seed}
        path.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def load_recording(path: Path) -> Recording:
    """The recording in a file. Raises FootplateError where it is none."""
    try:
        facts = json.loads(path.read_text("utf-8"))
        return Recording.model_validate_json(json.dumps({name: facts[name] for name in Recording.model_fields}))
    except OSError as error:
        raise FootplateError(f"--replay: {path}: cannot be read ({error.strerror}); name another file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FootplateError(
            f"--replay: {path}: is no recording of an episode; name a .json file from the videos of a run"
        ) from error


@dataclass(frozen=True)
class Moment:
    """What was seen before an action, and what it did."""

    observations_NO: Observations
    """Of the one environment."""
    action: Any
    ended: Episode | None
    """The episode, where this was its last step."""
    meanings: Sequence[str]
    """A word for each action, or none."""


def play_again(recording: Recording, video: Path | None = None) -> Iterator[Moment]:
    """The episode, step by step, also into a video. It ends with the actions, whether or not the environment does."""
    environment = recording.environment
    if not isinstance(environment, AtariConfig):
        environment = in_this_process(environment)
    with ExitStack() as stack:
        environments = make_environments(
            environment,
            1,
            first_index=recording.index,
            seed=recording.seed,
            stream=recording.stream,
            training=False,
            render=video is not None,
        )
        stack.enter_context(closing(environments))
        film = stack.enter_context(VideoFile(video, environments.steps_per_second)) if video is not None else None
        observations_NO = environments.reset(recording.update)
        for action in recording.actions:
            if film is not None:
                film.write(environments.render()[0])
            actions_N: NDArray[Any] = np.array([action])
            if not isinstance(environments.action_space, Discrete):
                actions_N = actions_N.astype(environments.action_space.dtype)
            step = environments.step(actions_N)
            ended = step.episodes[0] if step.episodes else None
            yield Moment(observations_NO, action, ended, environments.action_meanings)
            observations_NO = step.observations_NO
            if step.episodes:
                break
        if film is not None:
            film.write(environments.render()[0])


def in_this_process(environment: GymnasiumConfig | OwnConfig) -> GymnasiumConfig | OwnConfig:
    """The same, without a process of its own: one environment gains nothing from it, and loses the traceback."""
    return environment.model_copy(update={"processes": False})
