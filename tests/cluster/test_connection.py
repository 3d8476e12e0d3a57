"""Addresses that cannot be meant, or where nobody answers, are refused before anything is started."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from footplate.errors import FootplateError
from footplate_cluster.connection import connected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "ray://head:10001",
            "--address ray://head:10001: Ray's client protocol is not used here, "
            "a run must outlive a laptop's connection; use host:6379 from a node of the cluster",
        ),
        (
            "http://head:8265",
            "--address http://head:8265: that is the address of Ray's dashboard; to train give host:6379 or auto, "
            "to send the job there use `footplate submit`",
        ),
        ("head:99999", "--address head:99999: is no address of a cluster; give host:6379, auto or local"),
        ("nonsense", "--address nonsense: is no address of a cluster; give host:6379, auto or local"),
        (
            "127.0.0.1:1",
            "--address 127.0.0.1:1: nobody answers there (Connection refused); start a cluster with "
            "`ray start --head`, or give the address that it printed",
        ),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address: str, message: str) -> None:
    with pytest.raises(FootplateError) as raised, connected(address):
        pass
    assert str(raised.value) == message


def test_an_address_where_nobody_answers_is_told_before_ray_is_imported() -> None:
    program = """
import sys
from footplate_cluster import launch, sweep
from footplate_cluster.connection import connected
try:
    with connected("127.0.0.1:1"):
        pass
except Exception as error:
    print(type(error).__name__, "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "FootplateError False\n"


def test_where_ray_is_missing_a_line_says_how_to_get_it() -> None:
    program = """
import sys
sys.modules["ray"] = None
from footplate.job import load_job
from footplate.launch import find_launcher
from footplate.sweeps.launch import find_sweeper
for find in (lambda: find_launcher(load_job("copy-transformer", ["on=ray"])), find_sweeper):
    try:
        find()
    except Exception as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "on: ray: not installed; pip install 'footplate[ray]'",
        "sweep: needs ray; pip install 'footplate[ray]'",
    ]


@pytest.mark.parametrize(
    ("token", "refusal"), [("", "asks for a token"), ("geheim", "refuses the token in RAY_AUTH_TOKEN")]
)
def test_a_cluster_that_lets_nobody_in_is_a_line_that_tells_of_the_token(
    here: Path, monkeypatch: pytest.MonkeyPatch, token: str, refusal: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        message = f"Failed to connect to Ray cluster at {address}"  # what Ray says, whatever the reason is
        assert what_is_said(monkeypatch, address, ConnectionError(f"{message}\nat length")) == (
            f"--address {address}: no Ray cluster answers there, or it {refusal} ({message}); start one with "
            "`ray start --head`, or put its token into ~/.ray/auth_token"
        )


@pytest.mark.parametrize("address", [None, "local"])
def test_where_ray_does_not_start_here_a_line_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    assert what_is_said(monkeypatch, address, Exception("The current node timed out during startup.\n")) == (
        "Ray did not start on this machine (The current node timed out during startup.); "
        "try again when it has memory and processors to spare"
    )
    assert what_is_said(monkeypatch, address, ValueError()) == (
        "Ray did not start on this machine (ValueError); try again when it has memory and processors to spare"
    )


def what_is_said(monkeypatch: pytest.MonkeyPatch, address: str | None, error: Exception) -> str:
    """The message for what `ray.init` raises."""

    def fails(**settings: Any) -> None:
        raise error

    monkeypatch.setattr("ray.init", fails)
    with pytest.raises(FootplateError) as raised, connected(address):
        pass
    return str(raised.value)
