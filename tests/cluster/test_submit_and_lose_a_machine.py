"""The whole way: submit to a cluster of three machines, follow, lose one in the middle, end with the same bytes."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import check_equal, kill_all_of
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

    def ends(self) -> str:
        assert self._process.wait(PATIENCE_SECONDS) == 0, self.printed()
        return self.printed()


def test_a_machine_is_lost_under_a_submitted_run_and_who_follows_sees_it_go_on(tmp_path: Path) -> None:
    shutil.copy(TASK, tmp_path)
    (tmp_path / "held.yaml").write_text(
        "task: held_task.py\nthreads: 1\nsave: {every_updates: 10}\ntrack: {every_updates: 1}\n"
    )
    with ray_head(cpus=0) as head:
        machines = [head.add_machine(cpus=1) for _ in range(2)]
        through = Submission(tmp_path, head.address, "through")
        through.ends()

        run = Submission(tmp_path, head.address, "killed", "hold_before=[14]")
        metrics = run.folder.metrics
        run.waits_until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 13)
        kill_all_of(machines[1])
        run.waits_until(lambda: "going on from update 10, restart 1 of 3" in run.printed())
        head.add_machine(cpus=1)
        (run.folder.path / "go-14").touch()
        printed = run.ends()
    assert re.search(r"\nworker [01] on \S+ .*; going on from update 10, restart 1 of 3\n", printed), printed
    assert "killed: finished after 40 updates" in printed
    assert "Traceback" not in printed
    check_equal(through.folder, run.folder)
