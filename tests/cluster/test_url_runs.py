"""A run at a URL trains on machines that share no disk: what a worker needs comes from the storage."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from footplate.checkpoint import CheckpointStore
from footplate.folder import RunFolder, create_run, open_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.tracking.metrics_file import read_rows

pytestmark = [pytest.mark.ray, pytest.mark.machines]

COPY = [
    "threads=1", "updates=20", "model.width=16", "model.feed_forward_width=16", "batch_tokens=64", "model.dropout=0",
    "evaluate.every_updates=10", "evaluate.sentences=8", "track.every_updates=1", "precision=fp64",
]  # fmt: skip


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two raylets with room for one worker each, and a cache each; this process has a third."""
    import ray
    from ray.cluster_utils import Cluster

    import footplate_cluster.connection  # noqa: F401 - what Ray reads when it is imported

    caches = tmp_path_factory.mktemp("caches")
    cluster = Cluster()
    for name in ("one", "two"):
        cluster.add_node(num_cpus=1, include_dashboard=False, env_vars={"FOOTPLATE_CACHE": str(caches / name)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOOTPLATE_CACHE", str(caches / "driver"))
        ray.init(address=cluster.address, log_to_driver=False)
        yield caches
        ray.shutdown()
        cluster.shutdown()


def trained(folder: RunFolder, *extra: str) -> RunFolder:
    job = load_job("copy-transformer", [*COPY, *extra])
    folder.write_job(job.to_yaml())
    launch(job, folder)
    return folder.refreshed()


def test_workers_that_share_no_disk_stop_go_on_and_do_what_one_process_does(
    machines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    through = trained(create_run(tmp_path, "through", "copy"))
    runs = f"file://{tmp_path / 'bucket'}"
    two = ["on=ray", "resources.workers=2"]
    capsys.readouterr()
    folder = trained(create_run(runs, "run", "copy"), *two, "stop.hours=1e-9")
    assert folder.read_status()["state"] == "stopped"
    said = capsys.readouterr().out
    assert "update 1/20" in said
    assert "stopping after update" in said

    folder = trained(open_run("run", runs), *two)
    assert folder.read_status()["state"] == "finished"
    assert [row["update"] for row in read_rows(folder.metrics)] == list(range(1, 21))
    checkpoint = CheckpointStore(folder.checkpoints).newest()
    assert checkpoint is not None
    weights = checkpoint.load_module_state("model")
    for name, weight in CheckpointStore(through.checkpoints).at(20).load_module_state("model").items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-9, atol=1e-10)

    # Which machine has rank 0, and with it the run, is Ray's choice at each start; the other one helps.
    used = [{path.name for path in (machines / name).iterdir()} for name in ("one", "two")]
    assert set().union(*used) >= {"runs", "helpers"}
    assert all(kinds & {"runs", "helpers"} for kinds in used)
    assert {path.name for path in (machines / "driver").iterdir()} == {"copies"}
