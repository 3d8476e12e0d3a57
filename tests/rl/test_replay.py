"""The replay gives what a naive one gives that stores everything, and weighs as its paper says."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from footplate.checkpoint import CheckpointStore
from footplate_rl.environments import AtariConfig, Transitions, make_environments
from footplate_rl.replay.kinds import ProportionalReplay, RankReplay, ReplayKind, UniformReplay, build_replay
from footplate_rl.replay.replay import Batch, Replay

DISCOUNT = 0.5
KINDS: list[ReplayKind] = [
    UniformReplay(),
    UniformReplay(compression="zlib"),
    ProportionalReplay(kind="proportional"),
    RankReplay(kind="rank"),
]
Window = tuple[NDArray[Any], int, float, float, NDArray[Any]]


@dataclass
class Past:
    """A step as the environment showed it; None for the next observation until it is there."""

    observation: NDArray[Any]
    action: int
    reward: float
    ended: bool
    over: bool
    following: NDArray[Any] | None
    row: int
    """Which row of its environment it would take where the last observation of a truncated episode takes one too."""
    age: int
    """How many steps of its episode lie before it."""


@dataclass
class NaiveReplay:
    """One list of steps for each environment, whole stacks and next observations included."""

    environments: int
    n_step: int
    discount: float
    steps: list[list[Past]] = field(init=False)
    rows: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = [[] for _ in range(self.environments)]
        self.rows = [0] * self.environments

    def add(self, observations: NDArray[Any], actions: NDArray[Any], step: Transitions) -> None:
        finals = iter(step.final_observations_KO)
        for n, past in enumerate(self.steps):
            if not step.valid_N[n]:
                continue
            if past and past[-1].following is None:
                past[-1].following = observations[n]
            following = next(finals) if step.truncated_N[n] else None
            over = bool(step.truncated_N[n] or step.terminated_N[n])
            ended = bool(step.return_ended_N[n])
            age = past[-1].age + 1 if past and not past[-1].over else 0
            reward, action = float(step.rewards_N[n]), int(actions[n])
            past.append(Past(observations[n], action, reward, ended, over, following, self.rows[n], age))
            self.rows[n] += 1 if following is None else 2
            if over and following is None:
                past[-1].following = observations[n]  # nothing is looked at behind a terminal state

    def cut(self, observations: NDArray[Any]) -> None:
        for n, past in enumerate(self.steps):
            if past and not past[-1].over:
                past[-1].over, past[-1].following = True, observations[n]
                self.rows[n] += 1

    def windows(self, rows: int, stack: int) -> Iterator[Window]:
        """All that can be drawn where each environment keeps its last rows."""
        for n, past in enumerate(self.steps):
            for p, step in enumerate(past):
                is_kept = step.row - min(step.age, stack - 1) >= self.rows[n] - rows
                if is_kept and (found := self.window(n, p)) is not None:
                    yield found

    def window(self, n: int, p: int) -> Window | None:
        """Observation, action, return, bootstrap and next observation of a window, or None while it is not whole."""
        past, total, factor = self.steps[n], 0.0, 1.0
        for k in range(self.n_step):
            if p + k >= len(past):
                return None
            step = past[p + k]
            total += factor * step.reward
            factor *= self.discount
            if step.ended or step.over:
                break
        if step.following is None:
            return (past[p].observation, past[p].action, total, 0.0, step.observation) if step.ended else None
        return past[p].observation, past[p].action, total, 0.0 if step.ended else factor, step.following


class Stream:
    """Environments whose observations can be told apart, and that end at random in every way there is."""

    def __init__(self, environments: int, stack: int, seed: int, *, next_step: bool = False) -> None:
        self.count, self.stack, self.next_step = environments, stack, next_step
        self.random = np.random.default_rng(seed)
        self.number = 0
        self.reset()

    def reset(self) -> NDArray[Any]:
        self.pending = np.zeros(self.count, np.bool_)
        self.stacks = np.stack([self._first() for _ in range(self.count)])
        return self.stacks.copy()

    def _frame(self) -> NDArray[Any]:
        self.number += 1
        return np.array([[self.number % 251, self.number // 251 % 251]], np.uint8)

    def _first(self) -> NDArray[Any]:
        return np.concatenate([np.zeros((self.stack - 1, 1, 2), np.uint8), self._frame()[None]])

    def step(self) -> Transitions:
        ended, truncated, lost = (self.random.random(self.count) < p for p in (0.15, 0.15, 0.1))
        valid = ~self.pending
        terminated, truncated = ended & valid, truncated & ~ended & valid
        finals = []
        for n in range(self.count):
            if not valid[n]:
                self.stacks[n] = self._first()
                continue
            self.stacks[n] = np.concatenate([self.stacks[n, 1:], self._frame()[None]])
            if truncated[n]:
                finals.append(self.stacks[n].copy())
            if (terminated | truncated)[n] and not self.next_step:
                self.stacks[n] = self._first()
        self.pending = (terminated | truncated) if self.next_step else self.pending
        rewards = np.where(valid, self.random.integers(-8, 9, self.count), 0.0)
        final_observations = np.stack(finals) if finals else self.stacks[:0]
        observations = self.stacks.copy()
        return Transitions(
            observations, rewards, terminated, truncated, terminated | (lost & valid), valid, final_observations, ()
        )


def fast(kind: ReplayKind, stack: int, rows: int, environments: int, n_step: int) -> Replay:
    config = kind.model_copy(update={"transitions": rows * environments})
    space = Box(0, 255, (stack, 1, 2), np.uint8)
    return build_replay(config, space, 4, environments, stack, n_step, DISCOUNT)


def played(
    kind: ReplayKind, stream: Stream, rows: int, n_step: int, steps: int, cut: int = 0
) -> tuple[Replay, NaiveReplay]:
    """Both replays after the same steps; every `cut` steps all environments start anew."""
    replay, naive = fast(kind, stream.stack, rows, stream.count, n_step), NaiveReplay(stream.count, n_step, DISCOUNT)
    observations = stream.reset()
    for number in range(1, steps + 1):
        actions = stream.random.integers(4, size=stream.count)
        step = stream.step()
        replay.add(observations, actions, step, step.rewards_N)
        naive.add(observations, actions, step)
        observations = step.observations_NO
        if cut and number % cut == 0:
            replay.cut(observations)
            naive.cut(observations)
            observations = stream.reset()
        if len(replay) and number % 3 == 0:  # priorities of every size, while it goes on
            batch = replay.sample(4, stream.random)
            replay.update(batch.rows_B, stream.random.random(4) * 3)
    return replay, naive


def drawn(batch: Batch) -> Iterator[tuple[Any, ...]]:
    """Each window as plain numbers."""
    for b in range(len(batch.rows_B)):
        window = (batch.observations_BO[b], int(batch.actions_B[b]), float(batch.returns_B[b]))
        yield plain(*window, float(batch.bootstraps_B[b]), batch.next_observations_BO[b])


def plain(observation: Any, action: int, total: float, bootstrap: float, following: Any) -> tuple[Any, ...]:
    """What can be compared; the next observation only where something is bootstrapped from it."""
    return observation.tobytes(), action, total, bootstrap, following.tobytes() if bootstrap else None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 30),
    st.sampled_from([5, 40, 90]), st.sampled_from([0, 7, 31]), st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_it_holds_what_a_naive_one_holds_that_stores_everything(
    kind: ReplayKind, environments: int, stack: int, n_step: int, spare: int, steps: int, cut: int, next_step: bool,
    seed: int,
) -> None:  # fmt: skip
    rows = n_step + stack + 1 + spare
    stream = Stream(environments, stack, seed, next_step=next_step)
    replay, naive = played(kind, stream, rows, n_step, steps, cut)
    expected = {plain(*window) for window in naive.windows(rows, stack)}
    assert len(replay) == len(expected)
    if expected:
        assert {*drawn(replay.sample(64, np.random.default_rng(seed)))} <= expected


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind}-{kind.compression}")
def test_every_whole_window_is_drawn_some_day(kind: ReplayKind) -> None:
    replay, naive = played(kind, Stream(2, 3, seed=1), 20, 2, 100, 33)
    found = {window for seed in range(40) for window in drawn(replay.sample(64, np.random.default_rng(seed)))}
    assert found == {plain(*window) for window in naive.windows(20, 3)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind}-{kind.compression}")
def test_both_autoreset_modes_leave_the_same_rows(kind: ReplayKind) -> None:
    """A chain of 3 that is truncated, played in both modes: r = 1, 2, 3, and V of the last observation behind it."""
    batches = []
    for mode in ("same_step", "next_step"):
        replay = fast(kind, 1, 30, 1, 2)
        add_chain(replay, mode)
        batches.append(replay.sample(16, np.random.default_rng(3)))
    for name in ("rows_B", "observations_BO", "returns_B", "bootstraps_B", "next_observations_BO", "weights_B"):
        assert np.array_equal(getattr(batches[0], name), getattr(batches[1], name))
    by_state = {
        int(batches[0].observations_BO[b, 0, 0, 0]): (
            batches[0].returns_B[b], batches[0].bootstraps_B[b], int(batches[0].next_observations_BO[b, 0, 0, 0])
        )
        for b in range(16)
    }  # fmt: skip
    assert by_state == {0: (1 + 0.5 * 2, 0.25, 2), 1: (2 + 0.5 * 3, 0.25, 3), 2: (3.0, 0.5, 3)}


def add_chain(replay: Replay, mode: str) -> None:
    """Three episodes of states 0, 1, 2, truncated on arrival in state 3."""
    for _ in range(3):
        for state in range(3):
            last = state == 2
            following = 0 if last and mode == "same_step" else state + 1
            replay.add(
                picture(state), np.zeros(1, np.int64), chain_step(following, state + 1.0, last), np.array([state + 1.0])
            )
        if mode == "next_step":
            reset = Transitions(picture(0), np.zeros(1), *[np.zeros(1, np.bool_)] * 4, picture(0)[:0], ())
            replay.add(picture(3), np.zeros(1, np.int64), reset, np.zeros(1))


def chain_step(following: int, reward: float, truncated: bool) -> Transitions:
    no, yes = np.zeros(1, np.bool_), np.ones(1, np.bool_)
    final = picture(3) if truncated else picture(0)[:0]
    cut = yes if truncated else no
    return Transitions(picture(following), np.array([reward]), no, cut, no, yes, final, ())


def picture(state: int) -> NDArray[np.uint8]:
    return np.full((1, 1, 1, 2), state, np.uint8)


def test_a_batch_is_a_function_of_the_stream_alone() -> None:
    replay, _ = played(ProportionalReplay(kind="proportional"), Stream(2, 2, seed=5), 40, 3, 60)
    first, again, other = (replay.sample(32, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.rows_B, again.rows_B)
    assert not np.array_equal(first.rows_B, other.rows_B)


def test_weights_worked_by_hand() -> None:
    """Priorities 1 and 3 with alpha 1: P = 1/4, 3/4, N P = 1/2, 3/2; at beta 1/2 the weights are 1 and (1/3)^(1/2)."""
    replay = fast(ProportionalReplay(kind="proportional", alpha=1.0, uniform_mix=0.0, epsilon=1e-12), 1, 10, 1, 1)
    add_chain_once(replay, length=2)
    rows = replay.sample(64, np.random.default_rng(0)).rows_B
    assert {*rows.tolist()} == {0, 1}
    replay.update(np.array([0, 1]), np.array([1.0, 3.0]))
    batch = replay.sample(4, np.random.default_rng(1), beta=0.5)
    assert batch.rows_B.tolist() == [0, 1, 1, 1]
    assert batch.weights_B == pytest.approx([1.0, *[(1 / 3) ** 0.5] * 3])
    assert replay.sample(4, np.random.default_rng(1), beta=0.0).weights_B.tolist() == [1.0] * 4


def add_chain_once(replay: Replay, length: int) -> None:
    for state in range(length):
        last = state == length - 1
        replay.add(picture(state), np.zeros(1, np.int64), chain_step(state + 1, 1.0, last), np.ones(1))


@pytest.mark.parametrize("kind", KINDS[2:], ids=lambda kind: kind.kind)
def test_a_row_that_has_left_gets_no_priority(kind: ReplayKind) -> None:
    """It was drawn, and written over before its error came."""
    replay = fast(kind, 1, 5, 1, 1)
    add_chain_once(replay, 4)
    stale = replay.sample(8, np.random.default_rng(0)).rows_B
    add_chain_once(replay, 3)
    before = len(replay)
    replay.update(stale, np.full(len(stale), 1e6))
    assert len(replay) == before
    assert {*replay.sample(64, np.random.default_rng(0)).rows_B.tolist()} <= {0, 1, 3, 4, 2}


def test_an_error_that_is_not_finite_changes_no_priority() -> None:
    replay = fast(ProportionalReplay(kind="proportional"), 1, 10, 1, 1)
    add_chain_once(replay, 5)
    before = replay.sample(16, np.random.default_rng(0)).rows_B
    replay.update(np.arange(2), np.array([np.nan, np.inf]))
    assert np.array_equal(replay.sample(16, np.random.default_rng(0)).rows_B, before)


def test_compression_changes_nothing_but_memory() -> None:
    plain_one, compressed = (played(kind, Stream(2, 4, seed=9), 30, 3, 70)[0] for kind in KINDS[:2])
    batches = [replay.sample(64, np.random.default_rng(0)) for replay in (plain_one, compressed)]
    assert list(drawn(batches[0])) == list(drawn(batches[1]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind}-{kind.compression}")
def test_it_comes_back_from_a_checkpoint_as_it_was_and_goes_on_alike(kind: ReplayKind, tmp_path: Path) -> None:
    """The rows are many enough for some to be unwritten, and the ring goes around after it was restored."""
    stream = Stream(2, 3, seed=4)
    replay, _ = played(kind, stream, 60, 2, 45)
    store = CheckpointStore(tmp_path)
    store.save(1, {"replay": replay})
    store.close()
    restored = fast(kind, 3, 60, 2, 2)
    store.at(1).restore({"replay": restored})
    observations = stream.reset()
    for number in range(90):
        batches = [one.sample(8, np.random.default_rng(number), 0.5) for one in (replay, restored)]
        assert list(drawn(batches[0])) == list(drawn(batches[1]))
        assert np.array_equal(batches[0].weights_B, batches[1].weights_B)
        errors, actions, step = stream.random.random(8), stream.random.integers(4, size=2), stream.step()
        for one in (replay, restored):
            one.update(batches[0].rows_B, errors)
            one.add(observations, actions, step, step.rewards_N)
            if number == 40:
                one.cut(step.observations_NO)
        observations = stream.reset() if number == 40 else step.observations_NO


def test_only_segments_with_new_frames_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("footplate_rl.replay.frames._SEGMENT_BYTES", 20)  # ten frames of two bytes
    stream = Stream(1, 1, seed=1)
    replay = fast(UniformReplay(), 1, 50, 1, 1)
    store = CheckpointStore(tmp_path, keep_last=9)
    names: list[set[str]] = []
    observations = stream.reset()
    for update, steps in enumerate((25, 3, 0), start=1):
        for _ in range(steps):
            step = stream.step()
            replay.add(observations, np.zeros(1, np.int64), step, step.rewards_N)
            observations = step.observations_NO
        store.save(update, {"replay": replay})
        store.wait()
        names.append({*store.at(update).manifest["segments"]})
    store.close()
    assert len(names[0]) >= 3
    assert 1 <= len(names[1] - names[0]) <= 2
    assert names[2] == names[1]


@pytest.mark.parametrize("protocol", ["machado", "classic"])
def test_the_stacks_of_atari_are_gathered_as_the_emulator_showed_them(protocol: str) -> None:
    """Breakout, with lost lives and games that are truncated after 30 steps."""
    config = AtariConfig(kind="atari", game="breakout", protocol=protocol, max_frames=120)  # type: ignore[arg-type]
    random, naive = np.random.default_rng(1), NaiveReplay(2, 3, DISCOUNT)
    with closing(make_environments(config, 2, seed=3)) as environments:
        replay = build_replay(UniformReplay(transitions=200), environments.observation_space, 4, 2, 4, 3, DISCOUNT)
        observations = environments.reset(0)
        for _ in range(150):
            actions = random.integers(4, size=2)
            step = environments.step(actions)
            replay.add(observations, actions, step, step.rewards_N)
            naive.add(observations, actions, step)
            observations = step.observations_NO
    expected = {plain(*window) for window in naive.windows(100, 4)}
    assert len(replay) == sum(1 for _ in naive.windows(100, 4))
    assert {*drawn(replay.sample(512, random))} <= expected


@pytest.mark.parametrize("n_step", [1, 2])
def test_an_episode_that_is_lost_with_its_environment_ends_where_it_was_acted_on_last(n_step: int) -> None:
    """States 0, 1, 2 of the chain, where the step from 2 is no transition; then the whole chain."""
    replay = fast(UniformReplay(), 1, 20, 1, n_step)
    for state in range(2):
        replay.add(picture(state), np.zeros(1, np.int64), chain_step(state + 1, state + 1.0, False), np.ones(1))
    lost = Transitions(picture(0), np.zeros(1), *[np.zeros(1, np.bool_)] * 4, picture(0)[:0], ())
    replay.add(picture(2), np.zeros(1, np.int64), lost, np.zeros(1))
    for state in range(3):
        step = chain_step(state + 1, state + 1.0, state == 2)
        replay.add(picture(state), np.zeros(1, np.int64), step, np.ones(1))
    batch = replay.sample(64, np.random.default_rng(1))
    windows = zip(
        batch.observations_BO[:, 0, 0, 0].tolist(), batch.bootstraps_B.tolist(),
        batch.next_observations_BO[:, 0, 0, 0].tolist(), strict=True,
    )  # fmt: skip
    if n_step == 1:
        assert set(windows) == {(0, 0.5, 1), (1, 0.5, 2), (2, 0.5, 3)}
    else:  # from 1 one reward as the episode was lost, and two as it went on
        assert set(windows) == {(0, 0.25, 2), (1, 0.5, 2), (1, 0.25, 3), (2, 0.5, 3)}
