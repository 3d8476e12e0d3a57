"""The whole way: submit to a cluster of three machines, follow, lose a worker, then a machine, and nothing else."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import check_equal, kill_all_of, training_workers
from ray_head import ray_head

from footplate.folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.machines]

TASK = Path(__file__).with_name("held_task.py")
PATIENCE_SECONDS = 300.0


class Submission:
    """`footplate submit ... --follow` in a process of its own, and what it has printed."""

    def __init__(self, here: Path, address: str, name: str, *overrides: str) -> None:
        self.folder = RunFolder(here / "runs" / name)
        self._output = here / f"{name}.txt"
        command = [Path(sys.executable).with_name("footplate"), "submit", "held.yaml", *overrides]
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [*command, "--name", name, "--workers", "2", "--address", address, "--follow"],
                cwd=here,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def printed(self) -> str:
        return self._output.read_text()

    def waits_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self._process.poll() is None, self.printed()
            assert time.monotonic() < end, self.printed()
            time.sleep(0.05)

    def reaches(self, update: int) -> None:
        """Return when so many updates are in the metrics."""
        rows = self.folder.metrics
        self.waits_until(lambda: rows.exists() and rows.read_bytes().count(b"\n") >= update)

    def goes_on(self, update: int) -> None:
        (self.folder.path / f"go-{update}").touch()

    def ends(self) -> str:
        assert self._process.wait(PATIENCE_SECONDS) == 0, self.printed()
        return self.printed()


def test_a_worker_and_a_machine_are_lost_under_a_submitted_run_which_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    shutil.copy(TASK, tmp_path)
    (tmp_path / "held.yaml").write_text(
        "task: held_task.py\nthreads: 1\nsave: {every_updates: 10}\ntrack: {every_updates: 1}\n"
    )
    with ray_head(cpus=0) as head:
        machines = [head.add_machine(cpus=1) for _ in range(2)]
        through = Submission(tmp_path, head.address, "through")
        through.ends()

        run = Submission(tmp_path, head.address, "killed", "hold_before=[14, 27]")
        run.reaches(13)
        os.kill(training_workers(machines[0].pid)[0], signal.SIGKILL)
        run.waits_until(lambda: "died; going on from update 10, restart 1 of 3" in run.printed())
        run.goes_on(14)
        run.reaches(26)
        kill_all_of(machines[1])
        run.waits_until(lambda: "going on from update 20, restart 1 of 3" in run.printed())
        # Ray may still believe in the machine that is gone: then the cluster "is busy", else it "has room for 1".
        run.waits_until(lambda: "waiting: 2 workers of 1 CPU are needed, and" in run.printed())
        head.add_machine(cpus=1)
        run.goes_on(27)
        printed = run.ends()
    assert re.search(r"\nworker [01] on \S+ died; going on from update 10, restart 1 of 3\n", printed), printed
    assert re.search(r"\n.+; going on from update 20, restart 1 of 3\n", printed), printed
    assert "killed: finished after 40 updates" in printed
    assert "Traceback" not in printed
    check_equal(through.folder, run.folder)
