"""Playing: a trained policy in an environment of its own, to look at.

An episode is a function of (seed, checkpoint, episode number) alone, so that it can be shown again.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from gymnasium.spaces import Space

from footplate.context import Context
from footplate.errors import FootplateError
from footplate.job import Job
from footplate.tasks import load_task
from footplate_rl.environments import AtariConfig, Episode, GymnasiumConfig, OwnConfig, make_environments, name_of
from footplate_rl.pictures import Thoughts, require_that_it_can_be_saved, save_picture
from footplate_rl.policy import Policy
from footplate_rl.recording import in_this_process, load_recording, play_again
from footplate_rl.video import VideoFile

_STREAM = "play"


class _Agent(Protocol):
    """A task whose runs play."""

    def saved_policy(self, config: Any, observations: Space[Any], actions: Space[Any], context: Context) -> Policy: ...


def play_episodes(
    job: Job, context: Context, episodes: int, video: Path | None = None, values: Path | None = None
) -> Iterator[Episode]:
    """Each episode of the policy in `context.checkpoint`, as it ends; `video` is the file that all of them go to.

    `values` is the picture of what the network made of the first one. Seeds follow from `context.seed`. Raises
    FootplateError for a run that plays nothing and for what can't be drawn.
    """
    environment, task = played_by(job), cast("_Agent", load_task(job.task))
    if not isinstance(environment, AtariConfig):
        environment = in_this_process(environment)
    if values is not None:
        require_that_it_can_be_saved(values)
    with ExitStack() as stack:
        environments = make_environments(
            environment, 1, seed=context.seed, stream=_STREAM, training=False, render=video is not None
        )
        stack.enter_context(closing(environments))
        spaces = environments.observation_space, environments.action_space
        policy: Policy = task.saved_policy(job.config, *spaces, context)
        thoughts = Thoughts(policy, environments.action_meanings)
        film = stack.enter_context(VideoFile(video, environments.steps_per_second)) if video is not None else None
        for number in range(episodes):
            uniforms = context.stream(f"{_STREAM}/act", number)
            observations_NO = environments.reset(number)
            begins_N = np.ones(1, np.bool_)
            ended: tuple[Episode, ...] = ()
            while not ended:
                if film is not None:
                    film.write(environments.render()[0])
                uniforms_NX = uniforms.random((1, *policy.sampler.shape))
                actions_N = policy.act(observations_NO, uniforms_NX, begins_N)
                if values is not None and number == 0:
                    thoughts.add(observations_NO, actions_N[0])
                step = environments.step(actions_N)
                observations_NO, begins_N, ended = step.observations_NO, step.begins_N, step.episodes
            if film is not None:
                film.write(environments.render()[0])
            if values is not None and number == 0:
                title = f"return {ended[0].total_reward:g} in {ended[0].steps} steps"
                save_picture(thoughts.draw(title), values)
            yield ended[0]


def played_by(job: Job) -> GymnasiumConfig | OwnConfig | AtariConfig:
    """What a run plays in. Raises FootplateError for one that plays nothing."""
    environment = getattr(job.config, "environment", None)
    if isinstance(environment, GymnasiumConfig | OwnConfig | AtariConfig) and hasattr(
        load_task(job.task), "saved_policy"
    ):
        return environment
    raise FootplateError(f"play: a run of the task {job.task} plays in no environment; name a run of an agent")


def play_recording(job: Job, path: Path, video: Path | None = None) -> tuple[Episode, float]:
    """The episode of a recording, played again in the environment that it names, and the return that was recorded.

    Raises FootplateError for what is no recording, for one of something that the run does not play (which could name
    any code), and for an environment that does not end where the actions do.
    """
    recording = load_recording(path)
    recorded, played = name_of(recording.environment), name_of(played_by(job))
    if recorded != played:
        raise FootplateError(f"--replay: {path}: is of {recorded}, and the run plays {played}; name one of its own")
    moments = list(play_again(recording, video))
    if not moments or (ended := moments[-1].ended) is None:
        raise FootplateError(
            f"--replay: {path}: after its {len(recording.actions)} actions the episode goes on; the environment does "
            "not repeat itself, or is not what it was"
        )
    return ended, recording.total_reward
