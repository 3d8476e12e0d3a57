"""Ray's token: found where Ray finds it, readable by its owner alone."""

import stat
from pathlib import Path

import pytest

from footplate.errors import FootplateError
from footplate_cluster.authentication import find_token, token_of_this_machine


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_default(home: Path, text: str) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_a_token_is_looked_for_in_ray_s_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token() is None
    default = write_default(home, "third\n")
    found = find_token()
    assert found is not None
    assert (found.secret, found.source) == ("third", str(default))
    (home / "token").write_text("second\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "token"))
    found = find_token()
    assert found is not None
    assert (found.secret, found.source) == ("second", str(home / "token"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "first")
    found = find_token()
    assert found is not None
    assert (found.secret, found.source) == ("first", "RAY_AUTH_TOKEN")
    assert "first" not in repr(found)


def test_a_token_file_that_others_may_read_is_closed(home: Path) -> None:
    path = write_default(home, "secret")
    find_token()
    assert mode(path) == 0o600


def test_a_token_file_that_the_user_names_is_left_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "token").write_text("secret")
    (home / "token").chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "token"))
    find_token()
    assert mode(home / "token") == 0o640


def test_a_token_path_that_names_no_file_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "nothing"))
    with pytest.raises(FootplateError) as raised:
        find_token()
    assert str(raised.value) == (
        f"RAY_AUTH_TOKEN_PATH={home}/nothing: cannot be read (No such file or directory); "
        "name the file that holds the token"
    )


def test_a_cluster_that_starts_here_finds_a_token_of_its_own(home: Path) -> None:
    with token_of_this_machine():
        made = (home / ".ray" / "auth_token").read_text()
    assert len(made) == 64
    assert mode(home / ".ray" / "auth_token") == 0o600
    assert [path.name for path in (home / ".ray").iterdir()] == ["auth_token"]
    with token_of_this_machine():
        assert (home / ".ray" / "auth_token").read_text() == made


def test_where_home_cannot_be_written_the_token_is_this_process_s(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    (home / ".ray").write_text("a file where the folder belongs")
    with token_of_this_machine():
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_who_switched_tokens_off_is_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with token_of_this_machine():
        assert list(home.iterdir()) == []


@pytest.mark.parametrize("secret", ["geheim\nsecond", "geheim second", "geheim\x00", "gehe\u00efm"])
def test_what_can_be_no_token_is_told_by_its_place_alone(home: Path, secret: str) -> None:
    path = write_default(home, secret)
    with pytest.raises(FootplateError) as raised:
        find_token()
    assert str(raised.value) == (
        f"{path}: holds no token: there is white space or a foreign letter in it; "
        "get the one that the cluster was started with"
    )
