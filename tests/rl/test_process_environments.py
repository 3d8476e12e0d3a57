"""Environments in processes of their own: the same as here, and what becomes of one that fails.

Axes: N environment.
"""

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from footplate.context import Context
from footplate.errors import TrainingError
from footplate.job import job_from_yaml
from footplate.step import Latest
from footplate_rl import dqn, paac
from footplate_rl.environments import Environments, GymnasiumConfig, OwnConfig, Transitions, make_environments

pytestmark = pytest.mark.slow

ADVICE = "mend it, and `footplate resume` goes on from the last checkpoint"
BROKEN = Path(__file__).parent / "broken_environments.py"
RAISED = next(n for n, line in enumerate(BROKEN.read_text().splitlines(), 1) if "ArithmeticError" in line)


@pytest.fixture(autouse=True)
def _broken_environments_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BROKEN.parent))


def countdown(what: str, *, always: bool = False, **settings: Any) -> OwnConfig:
    arguments = {"what": what, "always": always}
    settings = {"kind": "own", "name": "broken_environments.Countdown", "processes": True, **settings}
    return OwnConfig.model_validate({**settings, "arguments": arguments})


def play(environments: Environments, steps: int, action: int = 1) -> list[Transitions]:
    """From a reset: the first environment always takes action 0, which nothing goes wrong with."""
    environments.reset(0)
    return [environments.step(np.array([0, action])) for _ in range(steps)]


def test_they_are_the_same_as_here() -> None:
    for autoreset in ("same_step", "next_step"):
        arguments = {"max_episode_steps": 15}
        config = GymnasiumConfig.model_validate({"id": "CartPole-v1", "arguments": arguments, "autoreset": autoreset})
        with (
            closing(make_environments(config, 2, seed=3)) as here,
            closing(make_environments(config.model_copy(update={"processes": True}), 2, seed=3)) as apart,
        ):
            for number in (0, 1):
                assert (here.reset(number) == apart.reset(number)).all()
                for actions_N in np.random.default_rng(7).integers(2, size=(40, 2)):
                    one, two = here.step(actions_N), apart.step(actions_N)
                    for name in Transitions.__slots__:
                        assert np.array_equal(getattr(one, name), getattr(two, name)), name
            assert apart.restarts == 0


@pytest.mark.parametrize(
    ("what", "problem", "autoreset"),
    [
        ("raise", f"step raised ArithmeticError: it broke (broken_environments.py, line {RAISED})", "same_step"),
        ("die", "its process died (SIGKILL)", "next_step"),
        ("hang", "it has not answered for 2 s", "same_step"),
        ("nan observation", "its observation is not finite", "next_step"),
    ],
)
def test_one_that_fails_is_started_anew_and_its_episode_is_no_statistic(
    what: str, problem: str, autoreset: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = countdown(what, autoreset=autoreset, timeout_seconds=2.0)
    with closing(make_environments(config, 2, first_index=4)) as environments:
        steps = play(environments, 12)
        first_failure = 6 + (autoreset == "next_step")
        lost = steps[first_failure]
        # The step is no transition, and what is seen begins the first episode of a new process.
        assert lost.valid_N[1] == False  # noqa: E712
        assert (lost.rewards_N[1], lost.terminated_N[1], lost.truncated_N[1], lost.begins_N[1]) == (0, 0, 0, 1)
        assert lost.observations_NO[1].tolist() == [1, 0]
        assert steps[first_failure - 1].observations_NO[1].tolist() == [2, 2]
        # Whole episodes only, from both; the second has lost one.
        episodes = [episode for step in steps for episode in step.episodes]
        assert {(episode.total_reward, episode.steps) for episode in episodes} == {(10.0, 4)}
        assert [step.valid_N[0] for step in steps].count(False) == (2 if autoreset == "next_step" else 0)
        assert environments.restarts == 1
    assert caplog.messages == [f"environment 5: {problem}; started anew, its episode of 2 steps is dropped"]


def test_one_that_fails_again_and_again_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    config = countdown("raise", always=True, restarts_in_a_row=1)
    with closing(make_environments(config, 2, first_index=4)) as environments, pytest.raises(TrainingError) as failed:
        play(environments, 20)
    problem = f"environment 5: step raised ArithmeticError: it broke (broken_environments.py, line {RAISED})"
    assert str(failed.value) == f"{problem} (restarts in a row: 1); {ADVICE}"
    assert len(caplog.messages) == 1


def test_without_restarts_the_first_failure_ends_the_run() -> None:
    config = countdown("die", restarts_in_a_row=0)
    with closing(make_environments(config, 2, first_index=4)) as environments, pytest.raises(TrainingError) as failed:
        play(environments, 20)
    assert str(failed.value) == f"environment 5: its process died (SIGKILL); {ADVICE}"


def test_an_episode_after_a_restart_has_a_seed_of_its_own() -> None:
    with closing(make_environments(GymnasiumConfig(id="CartPole-v1", processes=True), 2)) as environments:
        first = environments.reset(0)
        processes = environments._processes  # type: ignore[attr-defined]
        processes[0]._process.kill()
        again = environments.step(np.array([0, 0]))
        assert again.valid_N.tolist() == [False, True]
        assert not (again.observations_NO[0] == first[0]).any()
        assert (np.abs(again.observations_NO[0]) <= 0.05).all()  # where CartPole starts
        assert (environments.reset(0) == first).all()  # from here on all is a function of seed and number again


def test_a_signal_to_all_processes_leaves_them_to_the_trainer() -> None:
    with closing(make_environments(GymnasiumConfig(id="CartPole-v1", processes=True), 2)) as environments:
        environments.reset(0)
        processes = [one._process for one in environments._processes]  # type: ignore[attr-defined]
        for number in (signal.SIGINT, signal.SIGTERM):
            for process in processes:
                os.kill(process.pid, number)
            assert environments.step(np.array([0, 0])).valid_N.all()
        assert environments.restarts == 0
    assert not any(process.is_alive() for process in processes)


def test_an_interpreter_that_ends_without_closing_them_does_not_wait_for_them() -> None:
    program = """
from footplate_rl.environments import GymnasiumConfig, make_environments

if __name__ == "__main__":
    environments = make_environments(GymnasiumConfig(id="CartPole-v1", processes=True), 2)
    environments.reset(0)
    print(*(one._process.pid for one in environments._processes))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    for pid in ended.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_a_process_that_only_runs_an_environment_never_imports_torch() -> None:
    arguments = {"what": "look for torch"}
    config = OwnConfig(kind="own", name="broken_environments.Misbehaving", arguments=arguments, processes=True)
    with closing(make_environments(config, 1)) as environments:
        environments.reset(0)
        assert environments.step(np.array([0])).rewards_N.tolist() == [0.0]


PLAYED = (
    "environment: {kind: own, name: broken_environments.Countdown, arguments: {what: die, on: [0, 1]}, "
    "processes: true}\nenvironments: 2\nreset_every_updates: 10\nrollout_steps: 4\n"
    "network: {kind: mlp, hidden: [4]}\nevaluate: {every_updates: 10, episodes: 1, environments: 1}\n"
)


@pytest.mark.parametrize("task", [paac, dqn])
def test_training_goes_on_and_counts_the_restarts(task: Any) -> None:
    settings = "learning_starts_steps: 8\nbatch_size: 4\nsteps: 48\n" if task is dqn else "steps: 40\n"
    job = job_from_yaml(f"task: {task.__name__.rpartition('.')[2]}\n{PLAYED}{settings}")
    steps = [step for step in task.train(job.config, Context(seed=2)) if step.activity is None]
    counts = [step.metrics["rollout/restarts"] for step in steps]
    assert all(isinstance(count, Latest) for count in counts)
    numbers = [count.value for count in counts]
    assert len(numbers) == 5
    assert numbers == sorted(numbers)
    assert numbers[-1] >= 2
    # A row that is no transition is not counted as one.
    assert sum(step.work["steps"] for step in steps) <= job.config.steps - numbers[-1]  # type: ignore[attr-defined]
