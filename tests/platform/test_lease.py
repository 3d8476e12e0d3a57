"""One run at a URL has one trainer: a lease that is renewed, passes on when its holder dies, and is never shared."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from footplate import lease as leases
from footplate.errors import FootplateError
from footplate.lease import STOP, Lease, newest_lease
from footplate.storage import Storage, StorageError

sys.path.append(str(Path(__file__).parent))
from shaky_storage import ShakyFileSystem

URL = "shaky://bucket/runs/run"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(leases, "RENEWAL_SECONDS", 0.05)
    ShakyFileSystem.reset()
    yield Storage(URL)
    ShakyFileSystem.reset()


def wait_for(what: "threading.Event | list[str]") -> None:
    deadline = time.monotonic() + 60
    while not (what.is_set() if isinstance(what, threading.Event) else what) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_second_trainer_is_refused_while_the_first_is_alive(storage: Storage) -> None:
    first, said = Lease(storage, None), []
    assert not first.take(said.append)
    first.keep(said.append)
    with pytest.raises(FootplateError) as raised:
        Lease(storage, None).take(said.append)
    first.release()
    assert str(raised.value) == f"{URL}: this run is being trained on {socket.gethostname()}; stop that one first"
    assert said == [f"{URL}: was being trained on {socket.gethostname()}; whether it still is shows within 1 seconds"]


def test_a_lease_that_was_released_is_taken_at_once(storage: Storage) -> None:
    first, said = Lease(storage, None), []
    first.take(said.append)
    first.release()
    assert not Lease(storage, None).take(said.append)
    assert said == []


def test_the_lease_of_a_dead_holder_passes_on_after_a_while(storage: Storage) -> None:
    Lease(storage, None).take(print)
    second, said = Lease(storage, None), []
    assert not second.take(said.append)
    assert [line.partition("; ")[0] for line in said] == [f"{URL}: was being trained on {socket.gethostname()}"]
    assert newest_lease(storage)[0] == 2
    assert list(storage.sizes("lease")) == ["lease/000002.json"]


def test_the_folder_that_had_it_last_goes_on_at_once(storage: Storage) -> None:
    first, said = Lease(storage, None), []
    first.take(said.append)
    again = Lease(storage, first.session)
    assert again.take(said.append)
    assert again.session == first.session
    other = Lease(storage, None)
    again.release()
    assert not other.take(said.append)
    other.release()
    assert not Lease(storage, first.session).take(said.append)  # somebody else went on with the run
    assert said == []


def test_of_many_who_try_at_once_one_gets_it(storage: Storage) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def attempt() -> None:
        start.wait()
        try:
            Lease(storage, None).take(print)
            outcomes.append("taken")
        except FootplateError:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Whoever looked before the first took it is refused; whoever looked afterwards sees it held, and unchanged.
    assert newest_lease(storage)[0] == outcomes.count("taken")
    assert outcomes.count("taken") in (1, 2)


def test_a_holder_whose_lease_was_taken_over_may_not_write_and_is_told(storage: Storage) -> None:
    first, told = Lease(storage, None), []
    first.take(print)
    first.require()
    second = Lease(storage, None)
    second.take(print)  # the first was not heard of for so long
    first.keep(told.append)
    wait_for(told)
    assert told[0] == f"{socket.gethostname()} has taken this run over"
    with pytest.raises(StorageError) as raised:
        first.require()
    assert str(raised.value) == (f"{URL}: {socket.gethostname()} has taken this run over; stop one of the two")
    first.release()
    assert newest_lease(storage)[1]["state"] == "held"  # that of the second
    second.require()


def test_a_holder_that_cannot_renew_may_not_write_until_it_can(storage: Storage) -> None:
    first = Lease(storage, None)
    first.take(print)
    ShakyFileSystem.calls_left = 0
    first.keep(print)
    deadline = time.monotonic() + 60
    refused = ""
    while not refused and time.monotonic() < deadline:
        time.sleep(0.01)
        try:
            first.require()
        except StorageError as error:
            refused = str(error)
    assert refused == f"{URL}: the lease could not be renewed; check the address and the network"
    ShakyFileSystem.calls_left = None
    while time.monotonic() < deadline:
        try:
            first.require()
            break
        except StorageError:
            time.sleep(0.01)
    first.require()
    first.release()


def test_whoever_has_let_go_may_not_write_any_more(storage: Storage) -> None:
    first = Lease(storage, None)
    first.take(print)
    first.keep(print)
    first.require()
    first.release()
    with pytest.raises(StorageError) as raised:
        first.require()
    assert str(raised.value) == f"{URL}: this process has let go of the run; resume it to bring up the rest"


def test_whoever_trains_is_told_to_stop(storage: Storage) -> None:
    first, told = Lease(storage, None), []
    storage.write(STOP, b"of an earlier day")
    first.take(print)
    first.keep(told.append)
    time.sleep(0.2)
    assert told == []
    storage.write(STOP, b"enough")
    wait_for(told)
    first.release()
    assert told[0] == "enough"


@pytest.mark.parametrize("length", [0, 7])
def test_a_lease_that_is_half_written_is_held(storage: Storage, length: int) -> None:
    storage.write("lease/000003.json", json.dumps({"state": "released"}).encode()[:length])
    assert newest_lease(storage) == (3, {"state": "held", "host": "another machine"})
