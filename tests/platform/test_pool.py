"""The pool: the same answers here and in processes, one line for what fails, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from footplate.context import Context
from footplate.errors import TrainingError
from footplate.pool import Pool

HERE = Path(__file__).parent
sys.path.append(str(HERE))

from pool_workers import Counter, assert_that_one_computed  # noqa: E402

ADVICE = "mend it, and `footplate resume` goes on from the last checkpoint"


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["thread", "processes"], scope="module")
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with closing(Context().pool(Counter, [(0,), (100,)], processes=request.param)) as opened:
        yield opened


def test_workers_keep_their_state_and_answer_in_order(pool: Pool) -> None:
    assert pool.count == 2
    futures = [pool.submit(worker, "add", amount) for amount in (1, 2, -3) for worker in (0, 1)]
    assert [future.result() for future in futures] == [1, 101, 3, 103, 0, 100]


def test_a_pause_lasts_until_nobody_is_at_work(pool: Pool) -> None:
    futures: list[Future[Any]] = [pool.submit(worker, "nap", 0.1) for worker in (0, 1) for _ in range(2)]
    pool.pause()
    assert all(future.done() for future in futures)
    assert pool.submit(1, "add", 0).result() == 100


@pytest.mark.slow
def test_workers_in_processes_of_their_own_tell_what_they_take() -> None:
    with closing(Context().pool(Counter, [(0,)], processes=False)) as pool:
        pool.submit(0, "add", 1).result()
        assert pool.usage() == {}
    with closing(Context().pool(Counter, [(0,), (1,)], processes=True)) as pool:
        for worker in (0, 1):
            pool.submit(worker, "add", 0).result()
        assert len(pool.usage()) == 4
        pool.submit(1, "compute", 0.2).result()
        assert_that_one_computed(pool.usage())
        assert pool.usage() == {}


def test_what_the_user_can_mend_comes_as_it_was_raised(pool: Pool) -> None:
    with pytest.raises(TrainingError) as error:
        pool.submit(1, "complain").result()
    assert str(error.value) == "environment 3: it is broken; mend it"
    assert pool.submit(1, "add", 0).result() == 100


def test_here_an_exception_keeps_its_traceback() -> None:
    with closing(Context().pool(Counter, [(0,)], processes=False)) as pool:
        failed = pool.submit(0, "divide").exception()
    assert isinstance(failed, ZeroDivisionError)
    assert failed.__traceback__ is not None


@pytest.mark.slow
def test_elsewhere_it_is_one_line_that_says_who_what_and_where() -> None:
    with closing(Context().pool(Counter, [(0,), (-1,)], processes=True)) as pool:
        failed, unmade = pool.submit(0, "divide"), pool.submit(1, "add", 1)
        line = next(
            n for n, text in enumerate((HERE / "pool_workers.py").read_text().split("\n"), 1) if "1 / 0" in text
        )
        assert str(failed.exception()) == (
            f"worker 0: ZeroDivisionError: division by zero (pool_workers.py, line {line}); {ADVICE}"
        )
        assert str(unmade.exception()).startswith("worker 1: ValueError: no such start (pool_workers.py, line ")
        died, left = pool.submit(0, "die"), Context().pool(Counter, [(0,)], processes=True)
        assert str(died.exception()) == f"worker 0: its process died (SIGKILL); {ADVICE}"
        assert str(left.submit(0, "leave").exception()) == f"worker 0: its process died (exit code 3); {ADVICE}"
        left.close()


@pytest.mark.slow
def test_processes_have_one_thread_the_same_switches_and_no_ear_for_ctrl_c_or_sigterm() -> None:
    with torch.autograd.set_detect_anomaly(True), closing(Context().pool(Counter, [(0,)], processes=True)) as pool:
        assert pool.submit(0, "settings").result() == (1, True, True)
        assert pool.submit(0, "process").result() != os.getpid()


@pytest.mark.slow
def test_a_pool_that_is_closed_closes_its_workers_and_does_not_wait_for_one_at_work(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    pool = Context().pool(Counter, [(0, str(diary)), (1, str(diary))], processes=True)
    pids = [pool.submit(worker, "process").result() for worker in (0, 1)]
    pool.close()
    assert diary.read_text() == "closed\nclosed\n"
    busy = Context().pool(Counter, [(0,)], processes=True)
    pids.append(busy.submit(0, "process").result())
    napping = busy.submit(0, "nap", 600)
    busy.close()
    assert "its process died (SIGKILL)" in str(napping.exception())
    assert [pid for pid in pids if is_alive(pid)] == []


PARENT = """
import sys, time
from pool_workers import Counter
from footplate.context import Context
if __name__ == "__main__":
    pool = Context().pool(Counter, [(0,), (1,)], processes=True)
    print(*(pool.submit(worker, "process").result() for worker in (0, 1)), flush=True)
    pool.submit(0, "nap", 600)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed_even_in_the_middle_of_a_call(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    parent = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)


LEFT_OPEN = """
from pool_workers import Counter
from footplate.context import Context
if __name__ == "__main__":
    pool = Context().pool(Counter, [(0,), (1,)], processes=True)
    print(pool.submit(0, "add", 7).result(), flush=True)
"""


@pytest.mark.slow
def test_an_interpreter_that_ends_without_closing_its_pool_does_not_wait_for_it(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(LEFT_OPEN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout) == (0, "7\n")


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended: an orphan's remains may wait for a parent that never asks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
