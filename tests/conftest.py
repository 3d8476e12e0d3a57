"""What all tests share."""

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny tensors: a second thread costs more than it brings, and sums must not depend on the machine's cores.

    Set before each test: of one that failed, a run that was left in its middle has the threads of its recipe still.
    """
    torch.set_num_threads(1)


@pytest.fixture
def obeying_permissions() -> Iterator[None]:
    """Root writes into any folder; without its capabilities this thread, and those that it starts, obey the modes."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the same of the higher capabilities
    assert libc.capget(header, before) == 0, os.strerror(ctypes.get_errno())
    without = (ctypes.c_uint32 * 6)(*before)
    without[0] = without[3] = 0
    assert libc.capset(header, without) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0, os.strerror(ctypes.get_errno())


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` knows no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What hands tests to the processes of `pytest -n`: a file to one, as its tests may share what is slow to make.

    Files that say `pytest.mark.ray` follow one another in one process. What is learnt shares nothing, so the longest
    tests of all can fill up the end. Groups of tests would say so in fewer words, but pytest 9.2 no longer lets
    pytest-xdist 3.8 name them.
    """
    from xdist.scheduler import LoadFileScheduling

    @cache
    def starts_ray(file: str) -> bool:
        return "pytest.mark.ray" in (config.rootpath / file).read_text()

    class Schedule(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            if starts_ray(file):
                return "ray"
            return nodeid if file.startswith("tests/learn/") else file

    return Schedule(config, log)
