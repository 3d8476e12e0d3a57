"""Ape-X on Catch, whose optimum is known."""

import pytest

from footplate.execution import run
from footplate.job import load_job

pytestmark = [pytest.mark.learn, pytest.mark.slow]


def test_every_ball_is_caught() -> None:
    """Two actors and two shards, one after another in this thread: the same run each time."""
    *_, last = run(load_job("catch-apex", ["device=cpu", "processes=false", "shards=2"]))
    assert last.metrics["eval/return"] == 1.0
