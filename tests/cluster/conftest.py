"""What the tests of the cluster share."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from footplate.cli import main

sys.path.append(str(Path(__file__).parent))

from dashboard_stand_in import StandIn, serve

Footplate = tuple[int, str, str]


@pytest.fixture(autouse=True, scope="module")
def debugger_as_before() -> Iterator[None]:
    """`ray.init` makes `breakpoint()` Ray's own, which a module that calls it itself must not leave to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONBREAKPOINT", "")
        patch.delenv("PYTHONBREAKPOINT")
        yield


@pytest.fixture
def head() -> Iterator[StandIn]:
    yield from serve()


@pytest.fixture
def elsewhere() -> Iterator[StandIn]:
    yield from serve()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a user without a token."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


@pytest.fixture
def footplate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command line in this process: its exit code, and what it wrote."""

    def run(*arguments: str) -> Footplate:
        monkeypatch.setattr(sys, "argv", ["footplate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run
