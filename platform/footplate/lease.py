"""Who trains a run at a URL: a lease that is renewed, and that passes on when it is not.

    lease/000003.json   the third holder since the run was made: who, where, and a count that grows while it is alive
    lease/stop          a request to save and end, with the reason

The holder is who made the object with the highest number, which an object store lets only one of two make. Clocks are
never compared: a lease is dead when whoever wants it has seen it unchanged for `LEASE_SECONDS`.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from footplate.errors import FootplateError
from footplate.storage import Storage, StorageError

LEASE_SECONDS = 30.0
RENEWAL_SECONDS = 5.0
STOP = "lease/stop"


class Lease:
    """The right to train the run in a storage, held by one session: a folder on one machine."""

    def __init__(self, storage: Storage, session: str | None) -> None:
        self._storage = storage
        self._last_session = session
        self.session = uuid4().hex
        self._generation = 0
        self._beats = 0
        self._renewed = 0.0
        self._taken_by = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_the_end, name="lease", daemon=True)
        self._stop: Callable[[str], None] = lambda reason: None

    def take(self, say: Callable[[str], None]) -> bool:
        """Take the lease, waiting where its holder may be dead; whether nobody else had it since the last session.

        That session is over, as its folder is ours alone now. Raises FootplateError where another holder is alive, or
        somebody else is faster.
        """
        generation, last = newest_lease(self._storage)
        if last.get("state") == "held" and last.get("session") != self._last_session:
            self._wait_for_its_end(generation, last, say)
        goes_on = self._last_session is not None and last.get("session") == self._last_session
        if goes_on:
            self.session = str(self._last_session)
        self._generation = generation + 1
        if not self._storage.create(_name(self._generation), self._content("held")):
            raise self._busy(newest_lease(self._storage)[1])
        self._renewed = time.monotonic()
        self._storage.delete([STOP, *(_name(each) for each in range(max(1, generation - 5), generation + 1))])
        return goes_on

    def keep(self, stop: Callable[[str], None]) -> None:
        """Renew the lease from now on; `stop` is told the reason where the run is asked to stop, or taken over."""
        self._stop = stop
        self._thread.start()

    def require(self) -> None:
        """Return if nobody else can have the lease. Raises StorageError where that is not certain."""
        if self._taken_by:
            raise StorageError(f"{self._storage.url}: {self._taken_by} has taken this run over; stop one of the two")
        if self._ended.is_set():
            raise StorageError(
                f"{self._storage.url}: this process has let go of the run; resume it to bring up the rest"
            )
        if time.monotonic() - self._renewed > LEASE_SECONDS:
            raise StorageError(
                f"{self._storage.url}: the lease could not be renewed; check the address and the network"
            )

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has it."""
        return bool(self._taken_by)

    def release(self) -> None:
        """Let the next one in at once, if the storage can be told."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._taken_by:
            self._write("released")

    def _wait_for_its_end(self, generation: int, last: dict[str, Any], say: Callable[[str], None]) -> None:
        began, said = time.monotonic(), False
        while time.monotonic() - began < LEASE_SECONDS:
            if not said:
                say(
                    f"{self._storage.url}: was being trained on {last.get('host')}; whether it still is "
                    f"shows within {LEASE_SECONDS:g} seconds"
                )
                said = True
            time.sleep(min(1.0, RENEWAL_SECONDS / 5))
            number, now = newest_lease(self._storage)
            if now.get("state") != "held":
                return
            if (number, now) != (generation, last):
                raise self._busy(now)

    def _busy(self, holder: dict[str, Any]) -> FootplateError:
        return FootplateError(
            f"{self._storage.url}: this run is being trained on {holder.get('host')}; stop that one first"
        )

    def _renew_until_the_end(self) -> None:
        while not self._ended.wait(RENEWAL_SECONDS):
            try:
                self._renew()
            except (StorageError, OSError):  # the mirror has the same trouble, and says so
                continue

    def _renew(self) -> None:
        began = time.monotonic()
        if began - self._renewed > LEASE_SECONDS:  # it may have passed on: look before a word is written
            self._look()
        if self._taken_by:
            return
        self._beats += 1
        self._write("held")
        self._look()
        self._renewed = began

    def _look(self) -> None:
        names = self._storage.sizes("lease")
        if max(map(_number, names), default=0) > self._generation:
            self._taken_by = str(newest_lease(self._storage)[1].get("host", "somebody else"))
            self._stop(f"{self._taken_by} has taken this run over")
        elif STOP in names:
            self._stop((self._storage.read(STOP) or b"").decode(errors="replace").strip() or "asked to stop")

    def _write(self, state: str) -> None:
        self._storage.write(_name(self._generation), self._content(state))

    def _content(self, state: str) -> bytes:
        entry = {"session": self.session, "host": socket.gethostname(), "process": os.getpid(), "state": state}
        return json.dumps({**entry, "beats": self._beats, "seen": time.time()}).encode()


def first_lease(storage: Storage) -> bool:
    """Claim a name for a run that nobody trains yet; False where somebody else has."""
    return storage.create(_name(1), json.dumps({"state": "released", "seen": time.time()}).encode())


def newest_lease(storage: Storage) -> tuple[int, dict[str, Any]]:
    """The number of the newest lease and what it says; 0 and nothing where there is none."""
    number = max(map(_number, storage.sizes("lease")), default=0)
    return number, read_lease(storage.read(_name(number)) if number else None)


def read_lease(content: bytes | None) -> dict[str, Any]:
    """What the object of a lease says; nothing where it is none, or half written."""
    try:
        read = json.loads(b"{}" if content is None else content)
    except ValueError:
        return {"state": "held", "host": "another machine"}
    return read if isinstance(read, dict) else {}


def is_alive(content: bytes) -> bool:
    """Whether a lease looks held, by the clocks of two machines: good enough to show, not to act on."""
    lease = read_lease(content)
    return lease.get("state") == "held" and time.time() - float(lease.get("seen", 0.0)) < LEASE_SECONDS


def _name(generation: int) -> str:
    return f"lease/{generation:06d}.json"


def _number(name: str) -> int:
    stem = name.rpartition("/")[2].removesuffix(".json")
    return int(stem) if stem.isdecimal() and stem.isascii() else 0
