"""The flow of Ape-X: chunks from actors to shards, batches from shards to the learner, errors back, weights to actors.

All of it passes the learner's process, which asks; what each asks for next depends on what has come back. In this
thread every call is over when it returns, so there the flow is a function of what it began with.

Every queue is bounded: an actor has one rollout under way and at most two that are being stored, a shard has those
and `batches_ahead` + 1 batches to draw.
"""

import logging
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import nn

from footplate.context import Context
from footplate.job import Precision
from footplate.pool import Pool, Replacements, WorkerDiedError
from footplate.segments import Segments
from footplate.step import Activity, Latest, Mean, Metric, Step
from footplate_rl.distributed.actor import Actor, Chunk, Weights
from footplate_rl.distributed.config import Config
from footplate_rl.distributed.limit import SamplesPerInsert
from footplate_rl.distributed.shard import Shard
from footplate_rl.environments import Episode
from footplate_rl.replacing import replace
from footplate_rl.replay.replay import Batch
from footplate_rl.rollout import episode_metrics
from footplate_rl.value_learning import beta_at

_MOST_CHUNKS_BEING_STORED = 2


def make_worker(
    config: Config, number: int, seed: int, precision: Precision, folder: Path | None = None
) -> Actor | Shard:
    """The workers of one pool: first the actors, then the shards."""
    if number < config.actors:
        return Actor(config, number, seed, precision)
    return Shard(config, number - config.actors, seed, folder)


class _Call(NamedTuple):
    """A call that is under way."""

    serial: int
    worker: int
    life: int
    """Which of the workers of this number was asked: one that died, or lost its shard, is no longer listened to."""
    method: str
    actor: int = -1
    """Whose chunk it is about."""
    transitions: int = 0
    version: int = 0
    """The update whose weights it is played with."""


class _Draw(NamedTuple):
    worker: int
    life: int
    future: "Future[Batch]"


class Flow:
    """Who does what next. Between `rest` and `begin` nobody does anything, and it can be saved."""

    def __init__(self, pool: Pool, config: Config, context: Context) -> None:
        self._pool, self._config, self._context = pool, config, context
        self._limit = SamplesPerInsert(config.samples_per_insert, config.learning_starts_steps, config.lead_transitions)
        self._replacements = Replacements(pool, config.replace_workers)
        self._lives = [0] * pool.count
        self._calls: dict[Future[Any], _Call] = {}
        self._serial = self._rollouts = self._number = self._begun = 0
        self._drawing: deque[_Draw] = deque()
        self._idle: list[int] = []
        self._being_stored = [0] * config.actors
        self._stored = [0] * config.shards
        self._windows = [0] * config.shards
        self._weights: Weights = ()
        self._version, self._held = -1, [-1] * config.actors
        self._episodes: list[Episode] = []
        self._transitions, self._ages = 0, Mean(0.0, 0)

    def begin(self, number: int, network: nn.Module) -> None:
        """All environments start anew, after this update; the first rollouts follow with the next `batch`."""
        self._begun = self._number = number
        self.publish(number, network)
        for actor in range(self._config.actors):
            self._restart(actor)

    def batch(self, number: int, stop: int) -> Generator[Step, None, tuple[int, Batch]]:
        """The batch of the update behind `number`, and the worker that drew it; none is drawn from update `stop` on.

        Yields news while the replay is being filled.
        """
        self._number = number
        while True:
            self._listen()
            self._let_play()
            self._draw_ahead(number, stop)
            if self._drawing and self._drawing[0].future.done():
                drawn = self._drawing.popleft()
                try:
                    return drawn.worker, drawn.future.result()
                except WorkerDiedError as death:
                    self._drawing.appendleft(drawn)
                    self._mourn(_Call(0, drawn.worker, drawn.life, "draw"), death)
                    continue
            if not self._shards_to_draw_from():
                total = self._config.learning_starts_steps
                yield Step(number, activity=Activity("fill the replay", min(total, self._limit.inserted), total))
            # The first draw alone is learnt from next: a later one that is done would be no reason to wake up.
            first = [self._drawing[0].future] if self._drawing else []
            wait([*self._calls, *first], return_when=FIRST_COMPLETED)

    def learnt(self, worker: int, batch: Batch, errors_B: NDArray[Any]) -> None:
        """Hand the errors of a batch back to the shard that drew it."""
        self._ask(worker, "learnt", batch.rows_B, errors_B)

    def publish(self, number: int, network: nn.Module) -> None:
        """Each actor gets the weights of this update with its next rollout."""
        self._weights = [parameter.detach().cpu().numpy().copy() for parameter in network.parameters()]
        self._version = number

    def rest(self) -> None:
        """Return when all that was played is stored, with every episode in progress ended, and nobody is at work."""
        self._wait_for_all()
        for actor in range(self._config.actors):
            self._ask(actor, "cut")
        self._wait_for_all()
        self._pool.pause()

    def take_metrics(self) -> tuple[dict[str, Metric], int]:
        """Metrics and transitions since the last time."""
        metrics: dict[str, Metric] = {
            **episode_metrics(self._episodes, self._context),
            "train/staleness": self._ages,
            "train/replaced_workers": Latest(float(self._replacements.count)),
            **self._pool.usage(),
        }
        transitions = self._transitions
        self._episodes, self._transitions, self._ages = [], 0, Mean(0.0, 0)
        return metrics, transitions

    def save_to(self, segments: Segments) -> dict[str, Any]:
        """One shard after another writes what is new, from where it is."""
        states = []
        for worker in range(self._config.actors, self._pool.count):
            state, listed = self._pool.submit(worker, "save", segments).result()
            segments.listed.update(listed)
            states.append(state)
        return {"limit": self._limit.state_dict(), "rollouts": self._rollouts, "stored": self._stored, "shards": states}

    def load_from(self, state: Mapping[str, Any], segments: Segments) -> None:
        self._limit.load_state_dict(state["limit"])
        self._rollouts, self._stored = state["rollouts"], list(state["stored"])
        for shard, own in enumerate(state["shards"]):
            self._windows[shard] = self._pool.submit(self._config.actors + shard, "load", own, segments).result()

    def _let_play(self) -> None:
        """Give idle actors a rollout, as far as the limit lets them; while there is nothing to learn from, always."""
        size = self._config.rollout_steps * self._config.environments
        for actor in list(self._idle):
            if self._shards_to_draw_from() and not self._limit.may_insert(size):
                return
            if self._being_stored[actor] < _MOST_CHUNKS_BEING_STORED:
                self._idle.remove(actor)
                newer = self._weights if self._held[actor] != self._version else None
                self._held[actor] = self._version
                self._limit.promised += size
                self._ask(actor, "play", self._rollouts, newer, transitions=size, version=self._version)
                self._rollouts += 1

    def _draw_ahead(self, number: int, stop: int) -> None:
        size = self._config.batch_size
        while len(self._drawing) <= self._config.batches_ahead and number + len(self._drawing) < stop:
            shards = self._shards_to_draw_from()
            if not shards or not self._limit.may_draw(size):
                return
            update = number + len(self._drawing)
            worker = self._config.actors + shards[update % len(shards)]
            beta = beta_at(self._config, update, self._config.updates)
            future = self._pool.submit(worker, "draw", update, size, beta)
            self._drawing.append(_Draw(worker, self._lives[worker], future))
            self._limit.drawn += size

    def _shards_to_draw_from(self) -> list[int]:
        """None before learning starts; then those that have their share of what must be stored by then."""
        if self._limit.inserted < self._config.learning_starts_steps:
            return []
        share = self._config.learning_starts_steps / self._config.shards
        return [shard for shard, stored in enumerate(self._stored) if stored >= share and self._windows[shard] > 0]

    def _ask(self, worker: int, method: str, *arguments: Any, **about: int) -> None:
        self._serial += 1
        call = _Call(self._serial, worker, self._lives[worker], method, **about)
        self._calls[self._pool.submit(worker, method, *arguments)] = call

    def _wait_for_all(self) -> None:
        while self._calls:
            wait(self._calls, return_when=FIRST_COMPLETED)
            self._listen()

    def _listen(self) -> None:
        """Deal with every answer that has come, and with those that follow from it."""
        while done := sorted((call, future) for future, call in self._calls.items() if future.done()):
            for call, future in done:
                del self._calls[future]
                try:
                    answer = future.result()
                except WorkerDiedError as death:
                    self._forget(call)
                    self._mourn(call, death)
                    continue
                if call.life == self._lives[call.worker]:
                    self._take(call, answer)
                else:
                    self._forget(call)

    def _take(self, call: _Call, answer: Any) -> None:
        match call.method:
            case "reset":
                self._idle.append(call.worker)
            case "play" | "cut":
                self._store(call, answer)
                if call.method == "play":
                    self._idle.append(call.worker)
            case "add":
                shard = call.worker - self._config.actors
                self._limit.inserted += call.transitions
                self._stored[shard] += call.transitions
                self._windows[shard] = answer
                self._being_stored[call.actor] -= 1

    def _store(self, call: _Call, chunk: Chunk) -> None:
        self._episodes += chunk.episodes
        self._transitions += chunk.transitions
        if call.method == "play":
            self._ages = Mean(self._ages.total + self._number - call.version, self._ages.count + 1)
        self._limit.promised += chunk.transitions - call.transitions
        actor = call.worker
        self._being_stored[actor] += 1
        self._ask(self._shard_of(actor), "add", actor, chunk, actor=actor, transitions=chunk.transitions)

    def _forget(self, call: _Call) -> None:
        """What this call was about is lost."""
        if call.method in ("play", "add"):
            self._limit.promised -= call.transitions
        if call.method == "add":
            self._being_stored[call.actor] -= 1

    def _mourn(self, call: _Call, death: WorkerDiedError) -> None:
        """Replace a worker, unless that was done since it was asked. Raises TrainingError where there were too many."""
        worker, actors = call.worker, self._config.actors
        if call.life != self._lives[worker]:
            return
        replace(self._replacements, worker, death)
        self._lives[worker] += 1
        if worker < actors:
            self._ask(self._shard_of(worker), "end", worker)
            self._restart(worker)
            return
        shard = worker - actors
        logging.getLogger("footplate").info(f"worker {worker}: was a shard of the replay; what it held is lost")
        self._stored[shard] = self._windows[shard] = 0
        self._limit.drawn -= self._config.batch_size * len(self._drawing)
        self._drawing.clear()
        for actor in range(shard, actors, self._config.shards):
            # What it has begun has its beginning in the lost shard: its episodes start anew, and the rest is not heard.
            self._lives[actor] += 1
            self._restart(actor)

    def _restart(self, actor: int) -> None:
        if actor in self._idle:
            self._idle.remove(actor)
        self._held[actor] = -1
        self._ask(actor, "reset", self._begun + self._replacements.count)

    def _shard_of(self, actor: int) -> int:
        return self._config.actors + actor % self._config.shards
