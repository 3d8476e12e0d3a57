"""Environments in processes of their own: one that raises, dies or hangs is started anew, and the others never notice.

gymnasium's vector environment of processes can't lose one of them, and so the processes are ours. Observations come
through shared memory, everything else through a pipe for each environment.

Axes: N environments, O all axes of one observation.
"""

import logging
import signal
from collections.abc import Sequence
from contextlib import suppress
from ctypes import c_uint8
from math import isfinite
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from footplate.errors import TrainingError
from footplate.orphans import end_with_parent, how_it_died
from footplate_rl.actions import checked_actions
from footplate_rl.autoreset import Autoreset, Mode
from footplate_rl.environments import GymnasiumConfig, Observations, OwnConfig, Seeds, Transitions
from footplate_rl.gymnasium_vector import ADVICE, Maker
from footplate_rl.watchdog import SECONDS_AT_A_TIME
from footplate_rl.wrappers import Environment

_SPAWN = get_context("spawn")  # never fork: torch's and Ray's threads hold locks that a forked child would wait for
_SECONDS_TO_START = 60.0
_SECONDS_TO_END = 2.0


class _Answer(NamedTuple):
    """What a reset or a step gave, but for the observation."""

    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    final_observation: NDArray[Any] | None = None
    """Of the episode that has just ended, where the process has begun the next one already."""


class ProcessEnvironments:
    """`Environments`, each in a spawned process. What fails is started anew at most `restarts_in_a_row` times.

    The row of an environment that fails is no transition, and its episode is dropped: what came before it bootstraps
    from the observation that was acted on last, as if a time limit had cut it there.
    """

    def __init__(self, config: GymnasiumConfig | OwnConfig, seeds: Seeds) -> None:
        self.count = len(seeds.indices)
        self.frames_per_step = config.frame_skip
        self.action_meanings: Sequence[str] = ()
        self.restarts: int | None = 0
        self._seeds, self._reset_number = seeds, 0
        self._autoreset = Autoreset(config.autoreset, seeds.indices)
        # One in this process says what all are like, and why none can be made.
        example = Maker(config, seeds.indices[0])()
        observations, actions = example.observation_space, example.action_space
        self.steps_per_second = float(example.metadata.get("render_fps") or 30) / config.frame_skip
        example.close()
        assert isinstance(observations, Box)
        assert isinstance(actions, Discrete | Box)
        self.observation_space, self.action_space = observations, actions
        self._processes = [_Process(Maker(config, index), observations, config) for index in seeds.indices]

    def reset(self, number: int) -> Observations:
        self._autoreset.restart()
        self._reset_number = number
        for process, seed in zip(self._processes, self._seeds.at(number), strict=True):
            process.ask("reset", seed)
        self._answers()
        return self._observations()

    def step(self, actions_N: NDArray[Any]) -> Transitions:
        self.send(actions_N)
        return self.recv()

    def send(self, actions_N: NDArray[Any]) -> None:
        actions = checked_actions(actions_N, self.action_space, self._seeds.indices)
        for process, action in zip(self._processes, actions, strict=True):
            process.ask("step", int(action) if isinstance(self.action_space, Discrete) else action)

    def recv(self) -> Transitions:
        if not self._processes[0].is_asked:
            raise RuntimeError("recv() without send()")
        answers, lost_N = self._answers()
        for process, answer in zip(self._processes, answers, strict=True):
            if answer.terminated or answer.truncated:
                process.failures_in_a_row = 0
        return self._autoreset.transitions(
            self._observations(),
            np.array([answer.reward for answer in answers]),
            np.array([answer.terminated for answer in answers]),
            np.array([answer.truncated for answer in answers]),
            [answer.final_observation for answer in answers],
            lost_N=lost_N,
        )

    def render(self) -> list[NDArray[np.uint8]]:
        raise RuntimeError("environments in processes are not drawn")

    def close(self) -> None:
        for process in self._processes:
            process.tell_to_end()
        for process in self._processes:
            process.end()

    def _observations(self) -> Observations:
        return np.stack([process.observation for process in self._processes])

    def _answers(self) -> tuple[list[_Answer], NDArray[np.bool_]]:
        """The answer of each process, and which were started anew: theirs is that of their reset."""
        lost_N = np.zeros(self.count, np.bool_)
        answers = [_Answer()] * self.count
        waiting = list(range(self.count))
        while waiting:
            failed = []
            for row in waiting:
                while (answer := self._processes[row].answer()) is None:
                    for other in waiting:  # it was waited for as long as this one
                        self._processes[other].seconds_left -= SECONDS_AT_A_TIME
                if isinstance(answer, _Answer):
                    answers[row] = answer
                    continue
                failed.append(row)
                lost_N[row] = True
                self._start_anew(row, answer)
            waiting = failed
        return answers, lost_N

    def _start_anew(self, row: int, problem: str) -> None:
        process, index = self._processes[row], self._seeds.indices[row]
        if process.failures_in_a_row == process.restarts_in_a_row:
            self.close()
            restarts = f" (restarts in a row: {process.restarts_in_a_row})" if process.restarts_in_a_row else ""
            raise TrainingError(f"environment {index}: {problem}{restarts}; {ADVICE}")
        process.failures_in_a_row += 1
        self.restarts = (self.restarts or 0) + 1
        steps = int(self._autoreset.steps_N[row])
        dropped = f", its episode of {steps} steps is dropped" if steps else ""
        logging.getLogger("footplate").warning(f"environment {index}: {problem}; started anew{dropped}")
        process.start_anew(self._seeds.after_restart(index, self._reset_number, self.restarts))


class _Process:
    """One environment in its process, whichever that is."""

    def __init__(self, maker: Maker, space: Box, config: GymnasiumConfig | OwnConfig) -> None:
        self._maker, self._space, self._mode = maker, space, config.autoreset
        self._timeout_seconds = config.timeout_seconds
        self.restarts_in_a_row = config.restarts_in_a_row
        self.failures_in_a_row = 0
        """Since an episode came to its end."""
        size = int(np.prod(space.shape)) * np.dtype(space.dtype).itemsize
        self._memory = _SPAWN.RawArray(c_uint8, max(size, 1))
        self.observation = _shown(self._memory, space)
        """The newest; written over by the next answer."""
        self.is_asked = False
        self.seconds_left = 0.0
        """For which it is waited before it counts as hung."""
        self._start()

    def _start(self) -> None:
        self._pipe, there = _SPAWN.Pipe()
        self._process: SpawnProcess = _SPAWN.Process(
            target=_serve, args=(there, self._maker, self._memory, self._space, self._mode), daemon=True
        )
        self._process.start()
        # An interpreter that is ending would send it a SIGTERM, which it does not heed, and wait for it.
        self._kill = Finalize(self, self._process.kill, exitpriority=0)
        there.close()
        self._allowance_seconds = _SECONDS_TO_START

    def ask(self, method: str, argument: Any) -> None:
        """Begin a reset with this seed, or a step with this action; an `answer` follows."""
        self.is_asked = True
        self.seconds_left = self._timeout_seconds + self._allowance_seconds
        with suppress(OSError):  # it has died, as its answer will show
            self._pipe.send((method, argument))

    def answer(self) -> _Answer | str | None:
        """What came of it, or in what way it failed; None where it has not answered yet, though waited for."""
        try:
            if not self._pipe.poll(max(0.0, min(SECONDS_AT_A_TIME, self.seconds_left))):
                if self.seconds_left > 0:
                    return None
                return f"it has not answered for {self._timeout_seconds + self._allowance_seconds:g} s"
            answer: _Answer | str = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(_SECONDS_TO_END)  # its pipe closes a moment before it has ended
            return f"its process died ({how_it_died(self._process)})"
        self.is_asked, self._allowance_seconds = False, 0.0
        return answer

    def start_anew(self, seed: int) -> None:
        """Another process in the place of this one, and an episode from this seed."""
        self._kill()
        self._process.join()
        self._pipe.close()
        self._start()
        self.ask("reset", seed)

    def tell_to_end(self) -> None:
        """Ask it to close its environment and end, unless it is at work."""
        if self.is_asked:
            self._kill()
            return
        with suppress(OSError):  # it has ended by itself
            self._pipe.send(None)

    def end(self) -> None:
        """Return when it has ended."""
        self._process.join(_SECONDS_TO_END)
        self._kill()
        self._process.join()
        self._pipe.close()


def _shown(memory: Any, space: Box) -> NDArray[Any]:
    return np.frombuffer(memory, space.dtype, int(np.prod(space.shape))).reshape(space.shape)


def _serve(pipe: connection.Connection, maker: Maker, memory: Any, space: Box, mode: Mode) -> None:
    """What a process does: make the environment, then reset and step it until it is told to end."""
    # They reach every process of a terminal or of a group, and the trainer saves and then ends these. A handler and not
    # SIG_IGN: that would be inherited by whatever an environment starts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number_of_signal in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number_of_signal, lambda number, frame: None)
    end_with_parent()
    environment: Environment | None = None
    player: _Player | None = None
    try:
        while (call := pipe.recv()) is not None:
            method, argument = call
            try:
                if player is None:
                    environment = maker()
                    player = _Player(environment, _shown(memory, space), mode)
                pipe.send(getattr(player, method)(argument))
            except Exception as problem:  # told by whoever started this process
                pipe.send(str(problem))
        if environment is not None:
            environment.close()
    except (EOFError, OSError):
        pass  # nobody listens any more


class _Player:
    """An environment in its process, started anew where an episode ends as the mode says."""

    def __init__(self, environment: Environment, observation: NDArray[Any], mode: Mode) -> None:
        self._environment, self._observation, self._mode = environment, observation, mode
        self._is_over = False

    def reset(self, seed: int | None) -> _Answer:
        observation, _ = self._environment.reset(seed=seed)
        self._show(observation)
        self._is_over = False
        return _Answer()

    def step(self, action: Any) -> _Answer:
        if self._is_over:
            return self.reset(None)
        observation, paid, terminated, truncated, _ = self._environment.step(action)
        reward = float(paid)
        if not isfinite(reward):
            raise ValueError("its reward is not finite")
        self._show(observation)
        if not (terminated or truncated):
            return _Answer(reward)
        if self._mode == "next_step":
            self._is_over = True
            return _Answer(reward, terminated, truncated)
        final_observation = self._observation.copy()
        self.reset(None)
        return _Answer(reward, terminated, truncated, final_observation)

    def _show(self, observation: Any) -> None:
        self._observation[...] = observation
        if self._observation.dtype.kind == "f" and not np.isfinite(self._observation).all():
            raise ValueError("its observation is not finite")
