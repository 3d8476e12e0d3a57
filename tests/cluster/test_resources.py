"""What workers reserve, and what is refused before any of them starts; no cluster needed."""

import pytest

from footplate.errors import FootplateError
from footplate.job import load_job
from footplate_cluster.resources import share_of_a_worker

NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("device", "share"), [("auto", {"CPU": 1, "GPU": 1}), ("cuda", {"CPU": 1, "GPU": 1}), ("cpu", {"CPU": 1})]
)
def test_a_worker_reserves_what_its_device_needs(device: str, share: dict[str, float]) -> None:
    job = load_job("copy-transformer", ["on=ray", "resources.workers=2", f"device={device}"])
    assert share_of_a_worker(job, NODES) == share


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["device=cpu", "resources.gpus_per_worker=2"],
            "device: cpu, and resources.gpus_per_worker reserves 2 GPUs for each worker; drop one of the two",
        ),
        (["device=mps"], "device: mps: workers on Ray compute on cpu or cuda; drop --on ray, or this"),
    ],
)
def test_a_device_on_which_workers_would_not_compute_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(FootplateError) as raised:
        share_of_a_worker(load_job("copy-transformer", ["on=ray", *overrides]), NODES)
    assert str(raised.value) == message


def test_workers_of_which_none_fits_on_a_node_are_refused() -> None:
    job = load_job("copy-transformer", ["on=ray", "device=cpu", "resources={workers: 2, cpus_per_worker: 3}"])
    with pytest.raises(FootplateError) as raised:
        share_of_a_worker(job, [{"CPU": 5.0}, {"CPU": 2.0}])
    assert str(raised.value) == (
        "resources: the cluster's nodes have room for 1 worker of 3 CPU each, and 2 are needed; "
        "a worker lies on one node: ask for less with resources.cpus_per_worker or --workers"
    )
