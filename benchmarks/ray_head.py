"""A Ray head of one's own on this machine: with a token, free ports and a folder, all gone afterwards."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kills import kill_all_of

from footplate.errors import FootplateError
from footplate_cluster.dashboard import Dashboard

SECONDS_TO_START = 300.0


class RayHead:
    """A head that runs, and the machines (raylets on this one) that joined it.

    `address` is that of its dashboard, `gcs_address` the one that machines join and `train` takes.
    """

    def __init__(self, folder: Path, cpus: int) -> None:
        gcs, dashboard, client = _free_ports(3)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.gcs_address = f"127.0.0.1:{gcs}"
        self._folder = folder
        options = {
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "port": gcs,
            "ray-client-server-port": client,
        }
        self._processes = [_start("--head", cpus, folder, options)]

    def add_machine(self, cpus: int) -> "subprocess.Popen[bytes]":
        """A machine more. `kill_all_of` it, and it is lost with all that runs there."""
        folder = self._folder / str(len(self._processes))  # what is sent there, each machine unpacks for itself
        self._processes.append(_start(f"--address={self.gcs_address}", cpus, folder, {}))
        self.wait_for(1 + sum(process.poll() is None for process in self._processes[1:]))
        return self._processes[-1]

    def wait_for(self, machines: int) -> None:
        """Return when so many machines are there, the head among them. Raises TimeoutError."""
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline and self._processes[-1].poll() is None:
            with suppress(FootplateError):
                if len(Dashboard(self.address).nodes()) >= machines:
                    return
            time.sleep(0.2)
        raise TimeoutError(f"the cluster at {self.address} did not get {machines} machines")

    def kill(self) -> None:
        """End everything."""
        for process in reversed(self._processes):
            kill_all_of(process)


@contextmanager
def ray_head(cpus: int = 2) -> Iterator[RayHead]:
    """A head; meanwhile RAY_AUTH_TOKEN_PATH names the file with its token.

    Nothing of this process's PYTHONPATH is found there: Footplate comes by submission. Raises TimeoutError where it
    does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="fp-", dir="/tmp"))  # the sockets that Ray makes there need a short path
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(16))
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")}
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    head = RayHead(folder, cpus)
    try:
        head.wait_for(1)
        yield head
    finally:
        head.kill()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(where: str, cpus: int, folder: Path, options: Mapping[str, object]) -> "subprocess.Popen[bytes]":
    python = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PATH": f"{python}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    everywhere = {
        "dashboard-agent-listen-port": 0,
        "num-cpus": cpus,
        "object-store-memory": 100_000_000,
        "temp-dir": folder,
    }
    given = [f"--{name}={value}" for name, value in {**everywhere, **options}.items()]
    return subprocess.Popen(
        [python / "ray", "start", where, "--block", *given],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _free_ports(count: int) -> list[int]:
    """Ports below those from which the system takes its own, and beside those of Ray's workers."""
    found: list[int] = []
    for port in range(23100 + os.getpid() % 4000, 32000):
        with socket.socket() as attempt, suppress(OSError):
            attempt.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found
