"""A shard of the replay of Ape-X: what some of the actors played.

Axes: B windows of a batch, N environments of one actor.
"""

import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from footplate.context import Context
from footplate.errors import FootplateError
from footplate.segments import Segments
from footplate_rl.distributed.actor import Chunk
from footplate_rl.distributed.config import Config
from footplate_rl.environments import Observations, make_environments
from footplate_rl.replay.replay import Batch
from footplate_rl.replay.ring import Rows
from footplate_rl.value_learning import empty_replay


class Shard:
    """Worker of a pool: a replay with a column for each environment of the actors that fill it."""

    def __init__(self, config: Config, index: int, seed: int, folder: Path | None = None) -> None:
        """Raises FootplateError where `folder`, the run's, into which it will save, is not seen from here."""
        if folder is not None and not (folder / "job.yaml").is_file():
            raise FootplateError(
                f"{folder}: a shard of the replay on {socket.gethostname()} cannot see the run folder, into which it "
                "saves; use --runs on a shared disk"
            )
        self._context, self._environments, self._shards = Context(seed=seed), config.environments, config.shards
        count = len(range(index, config.actors, config.shards)) * config.environments
        rows = config.replay.transitions // config.players
        kind = config.replay.model_copy(update={"transitions": rows * count})
        with closing(make_environments(config.environment, 1, seed=seed)) as environments:
            spaces = environments.observation_space, environments.action_space
        self._replay = empty_replay(config, kind, *spaces, count)
        self._following: dict[int, Observations] = {}

    def add(self, actor: int, chunk: Chunk) -> int:
        """Store what an actor played, with the priorities that it found; returns how many windows can be drawn."""
        first = self._first(actor)
        whole = [self._replay.add(*played, first=first) for played in chunk.played]
        if chunk.cut:
            whole.append(self._replay.cut(chunk.observations_NO, first))
        if whole:
            self._replay.update(np.concatenate(whole), chunk.errors_B)
        self._following[actor] = chunk.observations_NO
        return len(self._replay)

    def end(self, actor: int) -> int:
        """The actor is gone, and its episodes end where it was last seen; as `add` else."""
        if actor in self._following:
            self._replay.cut(self._following.pop(actor), self._first(actor))
        return len(self._replay)

    def draw(self, update: int, size: int, beta: float) -> Batch:
        """The batch of this update; there must be a window."""
        batch = self._replay.sample(size, self._context.stream("replay", update), beta)
        kept = batch.observations_BO.copy(), batch.next_observations_BO.copy()  # the next one is written over them
        return replace(batch, observations_BO=kept[0], next_observations_BO=kept[1])

    def learnt(self, rows_B: Rows, errors_B: NDArray[Any]) -> None:
        """The errors that learning found. A row that was written over meanwhile takes that of what lay there."""
        self._replay.update(rows_B, errors_B)

    def save(self, segments: Segments) -> tuple[Mapping[str, Any], dict[str, int]]:
        """The state, and the segments that it needs."""
        return self._replay.save_to(segments), segments.listed

    def load(self, state: Mapping[str, Any], segments: Segments) -> int:
        """Take up a state that was saved; returns how many windows can be drawn."""
        self._replay.load_from(state, segments)
        return len(self._replay)

    def close(self) -> None:
        """There is nothing to close."""

    def _first(self, actor: int) -> int:
        return actor // self._shards * self._environments
