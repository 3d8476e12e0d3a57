"""Downloads, from a server on this machine: verified, whole, or not there."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from footplate.cli import build_app
from footplate.errors import FootplateError
from footplate.job import load_job
from footplate_nlp.corpora import ParallelCorpus, ScanCorpus
from footplate_nlp.downloads import CORPORA, Downloadable, Published, download
from footplate_nlp.scan import Split
from footplate_nlp.translation import Config

TEXT = b"ein Haus\n" * 20_000
DIGEST = hashlib.sha256(TEXT).hexdigest()
WRONG = hashlib.sha256(TEXT[:-1] + b"!").hexdigest()


class Server(BaseHTTPRequestHandler):
    """`/whole` has the text, `/wrong` another, `/long` more of it, `/cut` breaks off, `/cut-silently` just ends."""

    def do_GET(self) -> None:
        where = self.path.split("/")[1]
        body = {"wrong": TEXT[:-1] + b"!", "long": TEXT + b"more"}.get(where, TEXT)
        if where == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        if where != "cut-silently":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1000] if where.startswith("cut") else body)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def corpus(digest: str = DIGEST) -> Downloadable:
    return Downloadable("", (Published("raw/train.de", len(TEXT), digest),))


def test_a_file_arrives_whole_and_is_not_fetched_twice(tmp_path: Path, address: str) -> None:
    said: list[str] = []
    folder = tmp_path / "data" / "corpus"
    download(corpus(), f"{address}/whole/", folder, said.append)
    assert [path.name for path in folder.iterdir()] == ["train.de"]
    assert (folder / "train.de").read_bytes() == TEXT
    download(corpus(), "http://127.0.0.1:1", folder, said.append)
    assert said == [f"{folder / 'train.de'}: 180,000 bytes", f"{folder / 'train.de'}: there already"]


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("missing", "cannot be fetched (the server answers 404 (Not Found))"),
        ("wrong", f"is not the published file (its SHA-256 is {WRONG[:16]}..., not {DIGEST[:16]}...)"),
        ("long", "sent 180,001 bytes instead of 180,000"),
        ("cut", "sent 1,000 bytes instead of 180,000"),
        ("cut-silently", "sent 1,000 bytes instead of 180,000"),
    ],
)
def test_what_is_not_the_file_is_told_in_a_line_and_leaves_nothing(
    where: str, problem: str, tmp_path: Path, address: str
) -> None:
    with pytest.raises(FootplateError) as error:
        download(corpus(), f"{address}/{where}", tmp_path, print)
    url = f"{address}/{where}/raw/train.de"
    assert str(error.value) == f"{url}: {problem}; try again, or give another address with --from"
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(FootplateError) as error:
        download(corpus(), "http://127.0.0.1:1", tmp_path, print)
    assert str(error.value) == (
        "http://127.0.0.1:1/raw/train.de: cannot be fetched ([Errno 111] Connection refused); "
        "try again, or give another address with --from"
    )
    assert list(tmp_path.iterdir()) == []


def test_another_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.de").write_text("mine\n")
    with pytest.raises(FootplateError) as error:
        download(corpus(), "http://127.0.0.1:1", tmp_path, print)
    assert str(error.value) == (
        f"{tmp_path / 'train.de'}: is there already and is another file than the published one; "
        "remove it, or choose another folder with --to"
    )
    assert (tmp_path / "train.de").read_text() == "mine\n"


def test_a_folder_that_cannot_be_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FootplateError) as error:
        download(corpus(), "http://127.0.0.1:1", tmp_path / "file" / "corpus", print)
    assert str(error.value) == (
        f"{tmp_path / 'file' / 'corpus'}: cannot be written (Not a directory); "
        "make room, or choose another folder with --to"
    )


def test_the_recipes_find_what_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "multi30k").mkdir(parents=True)
    names = {Path(file.path).name for file in CORPORA["multi30k"].files}
    for name in names:
        (tmp_path / "data" / "multi30k" / name).touch()
    for overrides in ([], ["corpus.source=lc.norm.tok.en", "corpus.target=lc.norm.tok.de"]):
        config = load_job("multi30k-en-de", overrides).config
        assert isinstance(config, Config)
        assert isinstance(config.corpus, ParallelCorpus)
        for part in ("train", "valid", "test"):
            assert {path.name for path in config.corpus._files_of(part)} <= names  # type: ignore[arg-type]


@pytest.mark.parametrize("split", get_args(Split))
def test_scan_is_read_from_what_is_downloaded(split: Split) -> None:
    names = {Path(file.path).name for file in CORPORA["scan"].files}
    assert {path.name for path in ScanCorpus(split=split, folder="data/scan").files()} <= names


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["wmt"], "data download: there is no 'wmt'; choose one of multi30k, scan"),
        (
            ["multi30k", "--from", "file:///etc"],
            f"--from: 'file:///etc' is no http:// or https:// address; give one such as {CORPORA['multi30k'].url}",
        ),
    ],
)
def test_what_cannot_be_downloaded_is_refused(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(build_app(), ["data", "download", *arguments])
    assert isinstance(result.exception, FootplateError)
    assert str(result.exception) == problem


def test_the_command_downloads_from_an_address_of_the_users(tmp_path: Path, address: str) -> None:
    result = CliRunner().invoke(
        build_app(), ["data", "download", "multi30k", "--to", str(tmp_path), "--from", f"{address}/missing"]
    )
    assert str(result.exception) == (
        f"{address}/missing/raw/train.en.gz: cannot be fetched (the server answers 404 (Not Found)); "
        "try again, or give another address with --from"
    )
