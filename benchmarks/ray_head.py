"""A Ray head of one's own on this machine: with a token, free ports and a folder, all gone afterwards."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kills import kill_all_of

from footplate.errors import FootplateError
from footplate_cluster.dashboard import Dashboard

SECONDS_TO_START = 300.0


@contextmanager
def ray_head(cpus: int = 2) -> Iterator[str]:
    """The address of its dashboard; meanwhile RAY_AUTH_TOKEN_PATH names the file with its token.

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
    head, address = _start(folder, cpus)
    try:
        _wait_for(address, head)
        yield address
    finally:
        kill_all_of(head)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(folder: Path, cpus: int) -> tuple["subprocess.Popen[bytes]", str]:
    gcs, dashboard, client = _free_ports(3)
    python = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PATH": f"{python}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    options = {
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": 0,
        "num-cpus": cpus,
        "object-store-memory": 100_000_000,
        "port": gcs,
        "ray-client-server-port": client,
        "temp-dir": folder,
    }
    head = subprocess.Popen(
        [python / "ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return head, f"http://127.0.0.1:{dashboard}"


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


def _wait_for(address: str, head: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and head.poll() is None:
        with suppress(FootplateError):
            if Dashboard(address).nodes():
                return
        time.sleep(0.2)
    raise TimeoutError(f"the head at {address} did not start")
