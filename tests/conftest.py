"""What all tests share."""

import os
from typing import Any

import pytest
import torch

STARTS_RAY = tuple(f"tests/{file}.py::" for file in ("cluster/test_ray", "cluster/test_actors", "test_demo"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny tensors: a second thread costs more than it brings, and sums must not depend on the machine's cores.

    Set before each test: of one that failed, a run that was left in its middle has the threads of its recipe still.
    """
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` knows no such hook
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: tests that kill, wait and start others leave theirs idle."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What hands tests to the processes of `pytest -n`: those that start Ray follow one another, in one process.

    Groups of tests would say so in fewer words, but pytest 9.2 no longer lets pytest-xdist 3.8 name them.
    """
    from xdist.scheduler import LoadScopeScheduling

    class RayInOneProcess(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith(STARTS_RAY) else nodeid

    return RayInOneProcess(config, log)
