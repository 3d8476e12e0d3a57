"""How following a submitted run ends whose cluster has forgotten it."""

from pathlib import Path

import pytest

from footplate.errors import FootplateError, TrainingError
from footplate_cluster.submission import Submission


def test_following_a_run_of_which_nobody_knows_how_it_ended_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as raised:
        Submission("far", str(tmp_path / "runs" / "far"), None, None).follow()
    assert str(raised.value) == (
        f"far: unknown: the cluster does not know it any more; `footplate logs {tmp_path}/runs/far` shows more"
    )
    assert raised.value.exit_code == 1


def test_a_log_that_nobody_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(FootplateError) as raised:
        Submission("far", "/shared/runs/far", None, None).logs()
    assert str(raised.value) == "far: the cluster has no log of it, and /shared/runs/far is not seen from here"
