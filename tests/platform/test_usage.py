"""What a process takes of its machine is what the system says it takes."""

import resource
import time

import pytest
import torch

from footplate.ledger import Ledger
from footplate.step import Step
from footplate.usage import GIB, Lap, Usage, UsageOfWorkers, resident_bytes


def test_a_busy_process_uses_a_core_and_an_idle_one_none() -> None:
    usage = Usage(torch.device("cpu"))
    began, computed = time.perf_counter(), time.process_time()
    while time.process_time() < computed + 0.1:
        pass
    busy = usage.measure()["cores"]
    assert busy == pytest.approx((time.process_time() - computed) / (time.perf_counter() - began), rel=0.2)
    time.sleep(0.2)
    assert usage.measure()["cores"] < busy / 2


def test_memory_is_what_is_resident_in_gibibytes() -> None:
    usage = Usage(torch.device("cpu"))
    before = usage.measure()["memory_gib"]
    assert 0 < before * GIB <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * 1.01
    held = torch.ones(2**26)
    assert usage.measure()["memory_gib"] - before == pytest.approx(held.nbytes / GIB, rel=0.2)


def test_without_proc_the_peak_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("footplate.usage.STATM", "/nowhere")
    assert resident_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_gpu_that_does_not_tell_its_load_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def utilization(device: torch.device) -> int:
        asked.append(device)
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * GIB)
    usage = Usage(torch.device("cuda:0"))
    for _ in range(2):
        assert set(found := usage.measure()) == {"cores", "memory_gib", "gpu_memory_gib"}
        assert found["gpu_memory_gib"] == 3
    assert asked == [torch.device("cuda:0")]


def test_the_load_of_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
    assert Usage(torch.device("cuda:0")).measure()["gpu_percent"] == 87


def test_a_row_has_the_cores_of_a_worker_over_all_its_laps_and_the_memory_of_the_last() -> None:
    usage, ledger = UsageOfWorkers(), Ledger()
    usage.add(1, Lap(busy_seconds=2.0, seconds=2.0, memory_gib=3.0))
    usage.add(1, Lap(busy_seconds=0.0, seconds=1.0, memory_gib=4.0))
    ledger.add(Step(1, usage.metrics()))
    usage.add(1, Lap(busy_seconds=1.0, seconds=1.0, memory_gib=2.0))
    usage.add(0, Lap(busy_seconds=0.5, seconds=1.0, memory_gib=1.0))
    ledger.add(Step(2, usage.metrics()))
    assert usage.metrics() == {}
    assert {name: value for name, value in ledger.row().items() if name.startswith("system/")} == {
        "system/actor-0/cores": 0.5,
        "system/actor-0/memory_gib": 1.0,
        "system/actor-1/cores": 0.75,
        "system/actor-1/memory_gib": 2.0,
    }
