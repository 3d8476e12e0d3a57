"""Toy environments whose optimum is known: importing this module registers them with gymnasium.

`footplate/Catch-v0` (optimum 1), `footplate/Corridor-v0` (optimum 1), `footplate/Chain-v0` (all policies get the same),
`footplate/Cliffwalk-v0` (optimum 1).
"""

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

Picture = NDArray[np.float32]
Action = int | np.integer[Any]
Information = dict[str, Any]
Options = dict[str, Any] | None


class Catch(gymnasium.Env[Picture, Action]):
    """A ball falls one row a step from a random column; a paddle in the last row moves left, stays or moves right.

    The reward comes in the last step: 1 if the paddle is where the ball lands, else -1. The optimum is 1, a random
    policy gets -0.6 on the default board, and an episode has rows - 1 steps.

    Source: bsuite's `catch` (Osband et al. 2020, arXiv 1908.03568).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - gymnasium declares it so

    def __init__(self, rows: int = 10, columns: int = 5, render_mode: Literal["rgb_array"] | None = None) -> None:
        self.rows, self.columns, self.render_mode = rows, columns, render_mode
        self.observation_space = Box(0.0, 1.0, (rows, columns), np.float32)
        self.action_space = Discrete(3)
        self._ball_row = self._ball_column = self._paddle = 0

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[Picture, Information]:
        super().reset(seed=seed)
        self._ball_row = 0
        self._ball_column = int(self.np_random.integers(self.columns))
        self._paddle = self.columns // 2
        return self._board(), {}

    def step(self, action: Action) -> tuple[Picture, float, bool, bool, Information]:
        self._paddle = min(max(self._paddle + int(action) - 1, 0), self.columns - 1)
        self._ball_row += 1
        landed = self._ball_row == self.rows - 1
        reward = (1.0 if self._paddle == self._ball_column else -1.0) if landed else 0.0
        return self._board(), reward, landed, False, {}

    def render(self) -> NDArray[np.uint8]:
        """The board in squares of 32 pixels, ball and paddle in white."""
        squares = (255 * self._board()).astype(np.uint8).repeat(32, axis=0).repeat(32, axis=1)
        return np.stack([squares] * 3, axis=-1)

    def _board(self) -> Picture:
        board = np.zeros((self.rows, self.columns), np.float32)
        board[self._ball_row, self._ball_column] = 1.0
        board[self.rows - 1, self._paddle] = 1.0
        return board


class Corridor(gymnasium.Env[Picture, Action]):
    """`length` cells in a row: action 1 steps towards the goal at the far end, action 0 back towards the start.

    The reward is 1 on reaching the goal and 0 before. The optimum is 1, after length - 1 steps. A random policy
    needs (length - 1) * length steps on average, as the start lies at the wall; after 4 * length of them the episode is
    truncated.
    """

    def __init__(self, length: int = 8) -> None:
        self.length = length
        self.observation_space = Box(0.0, 1.0, (length,), np.float32)
        self.action_space = Discrete(2)
        self._cell = self._steps = 0

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[Picture, Information]:
        super().reset(seed=seed)
        self._cell = self._steps = 0
        return one_hot(self._cell, self.length), {}

    def step(self, action: Action) -> tuple[Picture, float, bool, bool, Information]:
        self._cell = max(self._cell + (1 if action == 1 else -1), 0)
        self._steps += 1
        arrived = self._cell == self.length - 1
        late = self._steps >= 4 * self.length
        return one_hot(self._cell, self.length), float(arrived), arrived, late and not arrived, {}


class Chain(gymnasium.Env[Picture, Action]):
    """States 0, 1, ... in a row, left one a step whatever the action; leaving state s pays s + 1.

    The episode ends on arrival in state `length`, as a terminal state or by truncation as `end` says, so that every
    return and value can be written down: V(s) = sum over k >= s of discount^(k - s) (k + 1).
    """

    def __init__(self, length: int = 3, end: Literal["terminated", "truncated"] = "terminated") -> None:
        self.length, self.end = length, end
        self.observation_space = Box(0.0, 1.0, (length + 1,), np.float32)
        self.action_space = Discrete(2)
        self._state = 0

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[Picture, Information]:
        super().reset(seed=seed)
        self._state = 0
        return one_hot(self._state, self.length + 1), {}

    def step(self, action: Action) -> tuple[Picture, float, bool, bool, Information]:
        self._state += 1
        ended = self._state == self.length
        return (
            one_hot(self._state, self.length + 1),
            float(self._state),
            ended and self.end == "terminated",
            ended and self.end == "truncated",
            {},
        )


class Cliffwalk(gymnasium.Env[Picture, Action]):
    """`length` states in a row, in each of which one action leads on and the other one over the cliff, to the end.

    In even states it is action 1 that leads on, in odd ones action 0, so that nothing learnt in one state helps in the
    next. The last right action pays 1, all else 0. The optimum is 1, in `length` steps; a random policy gets it once in
    2^length episodes.

    Source: the blind cliffwalk of Schaul et al. 2016 (arXiv 1511.05952), section 3.1.
    """

    def __init__(self, length: int = 5) -> None:
        self.length = length
        self.observation_space = Box(0.0, 1.0, (length,), np.float32)
        self.action_space = Discrete(2)
        self._state = 0

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[Picture, Information]:
        super().reset(seed=seed)
        self._state = 0
        return one_hot(self._state, self.length), {}

    def step(self, action: Action) -> tuple[Picture, float, bool, bool, Information]:
        is_right = int(action) == self.right_action(self._state)
        arrived = is_right and self._state == self.length - 1
        ended = arrived or not is_right
        self._state += not ended
        return one_hot(self._state, self.length), float(arrived), ended, False, {}

    @staticmethod
    def right_action(state: int) -> int:
        """The action that leads on."""
        return 1 - state % 2


def one_hot(index: int, length: int) -> Picture:
    """A vector that is 1 at `index` and 0 elsewhere.

    >>> one_hot(1, 3).tolist()
    [0.0, 1.0, 0.0]
    """
    vector = np.zeros(length, np.float32)
    vector[index] = 1.0
    return vector


for _kind in (Catch, Corridor, Chain, Cliffwalk):
    gymnasium.register(f"footplate/{_kind.__name__}-v0", f"{__name__}:{_kind.__name__}")
