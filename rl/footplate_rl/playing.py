"""Playing: a trained policy in an environment of its own, to look at.

An episode is a function of (seed, checkpoint, episode number) alone, so that it can be shown again.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from footplate.context import Context
from footplate.errors import FootplateError
from footplate.job import Job
from footplate.tasks import load_task
from footplate_rl.environments import AtariConfig, Episode, GymnasiumConfig, OwnConfig, make_environments
from footplate_rl.policy import Policy
from footplate_rl.video import VideoFile

_STREAM = "play"


def play_episodes(job: Job, context: Context, episodes: int, video: Path | None = None) -> Iterator[Episode]:
    """Each episode of the policy in `context.checkpoint`, as it ends; `video` is the file that all of them go to.

    Seeds follow from `context.seed`. Raises FootplateError for a run that plays nothing and for what can't be drawn.
    """
    environment, task = getattr(job.config, "environment", None), load_task(job.task)
    if not isinstance(environment, GymnasiumConfig | OwnConfig | AtariConfig) or not hasattr(task, "saved_policy"):
        raise FootplateError(f"play: a run of the task {job.task} plays in no environment; name a run of an agent.")
    if not isinstance(environment, AtariConfig):
        # One environment gains nothing from a process, and loses the traceback.
        environment = environment.model_copy(update={"processes": False})
    with ExitStack() as stack:
        environments = make_environments(
            environment, 1, seed=context.seed, stream=_STREAM, training=False, render=video is not None
        )
        stack.enter_context(closing(environments))
        spaces = environments.observation_space, environments.action_space
        policy: Policy = task.saved_policy(job.config, *spaces, context)
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
                step = environments.step(policy.act(observations_NO, uniforms_NX, begins_N))
                observations_NO, begins_N, ended = step.observations_NO, step.begins_N, step.episodes
            if film is not None:
                film.write(environments.render()[0])
            yield ended[0]
