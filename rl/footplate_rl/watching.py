"""Watching an evaluation: videos of episodes with what it takes to play them again, action values, returns.

Axes: N environment.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from footplate.context import Context
from footplate.errors import FootplateError
from footplate.folder import RunFolder
from footplate.job import Job
from footplate.step import Activity, Medium, Step, Video
from footplate_rl.environments import AtariConfig, EnvironmentConfig, Transitions, protocol_of
from footplate_rl.pictures import Thoughts, draw_returns
from footplate_rl.policy import Policy
from footplate_rl.recording import Moment, Recording, in_this_process, play_again


class Recorder:
    """Notes the actions of the first episode of each of the first `count` environments of an evaluation."""

    def __init__(self, environment: EnvironmentConfig, count: int, seed: int, stream: str, update: int) -> None:
        self._environment, self._seed, self._stream, self._update = environment, seed, stream, update
        self._actions: list[list[Any] | None] = [[] for _ in range(count)]
        self.recordings: list[Recording] = []
        """Those that came to their end."""

    def note(self, actions_N: Any, step: Transitions) -> None:
        """One more step of environments that were reset once, all together."""
        for row, actions in enumerate(self._actions):
            if actions is None:
                continue
            if not step.valid_N[row]:  # it failed and was started anew: nobody could play that again
                self._actions[row] = None
                continue
            actions.append(np.asarray(actions_N[row]).tolist())
            for episode in step.episodes:
                if episode.environment == row:
                    recording = Recording(
                        environment=self._environment,
                        update=self._update,
                        seed=self._seed,
                        stream=self._stream,
                        index=row,
                        actions=tuple(actions),
                        total_reward=episode.total_reward,
                    )
                    self.recordings.append(recording)
                    self._actions[row] = None


def watch(
    recordings: Sequence[Recording], policy: Policy, context: Context, *, videos: int, values: bool
) -> Iterator[Step]:
    """Play the recordings again: the first `videos` into the run folder, and draw the values of the first one.

    What can't be shown is told of, and nothing more is lost.
    """
    for number, recording in enumerate(recordings, start=1):
        path: Path | None = None
        media: dict[str, Medium] = {}
        try:
            path = _video_path(context, recording, number) if number <= videos else None
            media = _shown(recording, policy, path, values=values and number == 1, number=number)
        except (FootplateError, OSError) as problem:
            logging.getLogger("footplate").warning(
                f"evaluation after update {recording.update}: episode {number} can't be shown: {problem}"
            )
            with suppress(OSError):
                for file in () if path is None else (path, path.with_suffix(".json")):
                    file.unlink(missing_ok=True)
        yield Step(recording.update, activity=Activity("watch", number, len(recordings)), media=media)


def _shown(recording: Recording, policy: Policy, path: Path | None, *, values: bool, number: int) -> dict[str, Medium]:
    media: dict[str, Medium] = {}
    if values:
        media["eval/values"] = think(recording, policy, path).draw(_title(recording))
    elif path is not None:
        for _ in _told_if_it_differs(recording, path):
            pass
    if path is not None:
        actions = path.with_suffix(".json")
        recording.save(actions)
        played = f"{protocol_of(recording.environment)}, environment seed {recording.environment_seed}"
        caption = f"{_title(recording)}, {played}"
        media["eval/video" if number == 1 else f"eval/video-{number}"] = Video(path, caption, actions)
    return media


def returns_picture(returns: Sequence[float], update: int) -> dict[str, Medium]:
    """The histogram as a medium."""
    return {"eval/returns": draw_returns(returns, f"{len(returns)} episodes after update {update:,}")}


def think(recording: Recording, policy: Policy, video: Path | None = None) -> Thoughts:
    """What the policy makes of each step of the recording."""
    thoughts: Thoughts | None = None
    for moment in _told_if_it_differs(recording, video):
        thoughts = thoughts or Thoughts(policy, moment.meanings)
        thoughts.add(moment.observations_NO, moment.action)
    assert thoughts is not None  # an episode has a step
    return thoughts


def require_that_it_can_be_filmed(job: Job) -> None:
    """Raise ValueError where videos are asked for of what can't be drawn, before anything is trained."""
    environment, videos = job.config.environment, job.config.evaluate.videos  # type: ignore[attr-defined]
    if videos and not isinstance(environment, AtariConfig):
        from footplate_rl.gymnasium_vector import why_it_is_not_drawn

        if (reason := why_it_is_not_drawn(in_this_process(environment))) is not None:
            raise ValueError(f"evaluate.videos: {reason}; set it to 0")


def _told_if_it_differs(recording: Recording, video: Path | None) -> Iterator[Moment]:
    total_reward: float | None = None
    for moment in play_again(recording, video):
        total_reward = None if moment.ended is None else moment.ended.total_reward
        yield moment
    if total_reward != recording.total_reward:
        logging.getLogger("footplate").warning(
            f"environment: does not repeat itself from seed {recording.environment_seed} and the same actions, so "
            "another episode was filmed than was scored; draw all that is random from self.np_random"
        )


def _video_path(context: Context, recording: Recording, number: int) -> Path | None:
    if context.folder is None:
        return None
    folder = RunFolder(context.folder).videos
    folder.mkdir(exist_ok=True)
    return folder / f"{recording.update:06d}-{recording.stream.replace(' ', '-')}-{number}.mp4"


def _title(recording: Recording) -> str:
    return f"return {recording.total_reward:g} in {len(recording.actions)} steps, after update {recording.update:,}"
