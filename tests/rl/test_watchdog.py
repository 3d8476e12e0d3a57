"""What waits for an environment counts the seconds in which that could have answered."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from footplate.errors import TrainingError
from footplate_rl.watchdog import Watchdog


def test_what_does_not_answer_within_the_limit_is_given_up() -> None:
    watchdog = Watchdog(0.2, "it hangs")
    with pytest.raises(TrainingError, match="it hangs"):
        watchdog(lambda: time.sleep(60))


def test_an_answer_comes_and_a_problem_too_also_after_more_than_one_look() -> None:
    watchdog = Watchdog(60, "it hangs")
    assert watchdog(lambda: subprocess.run(["sleep", "1.2"], check=True).returncode) == 0
    with pytest.raises(ZeroDivisionError):
        watchdog(lambda: 1 // 0)
    watchdog.close()


SLOW = """
import time
from pathlib import Path
import gymnasium, numpy as np
from footplate_rl.environments import OwnConfig, make_environments
from footplate_rl.watchdog import Watchdog

class Slow(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,), np.float32), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        while not Path("go").exists():
            time.sleep(0.01)
        return np.zeros(1, np.float32), 1.0, False, False, {}

if __name__ == "__main__":
    config = OwnConfig(kind="own", name="slow.Slow", processes=True, timeout_seconds=4.0, restarts_in_a_row=0)
    environments, watchdog = make_environments(config, 2), Watchdog(4.0, "the watchdog gave up")
    environments.reset(0)
    environments.send(np.zeros(2, np.int64))
    print("at work", flush=True)
    print(watchdog(environments.recv).rewards_N.tolist(), environments.restarts)
    environments.close()
"""


def test_who_was_stopped_meanwhile_is_not_taken_for_hung(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "slow.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "at work\n"
        os.killpg(run.pid, signal.SIGSTOP)  # as Ctrl-Z does, for longer than the limit
        time.sleep(4.2)
        (tmp_path / "go").touch()
        os.killpg(run.pid, signal.SIGCONT)
        assert run.communicate(timeout=60)[0] == "[1.0, 1.0] 0\n"
