import gzip
import http.server
import json
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from footplate.folder import RunFolder
from footplate.job import Wandb
from footplate.step import Picture, Table, Video
from footplate.tracking import wandb_tracker
from footplate.tracking.wandb_tracker import WandbTracker

KEY = "0123456789abcdef" * 2 + "01234567"
CONFIG = {"task": "translation", "about": "a test", "model": {"layers": 2}}


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    (tmp_path / "home").mkdir()
    (tmp_path / "a-run").mkdir()
    wandb.teardown()
    yield
    wandb.teardown()


def open_tracker(tmp_path: Path, settings: Wandb | None = None) -> tuple[WandbTracker, list[str]]:
    said: list[str] = []
    return WandbTracker(settings or Wandb(), RunFolder(tmp_path / "a-run"), CONFIG, said.append), said


def offline_folder(tmp_path: Path) -> Path:
    [folder] = (tmp_path / "a-run" / "wandb").glob("offline-run-*")
    return folder


def records(folder: Path) -> list[Any]:
    """What an offline file holds: blocks of 32 KiB in LevelDB's log format, behind a header of 7 bytes."""
    wandb.teardown()  # only then is the file whole
    [path] = folder.glob("*.wandb")
    data, position, piece, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        piece += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            found.append(Record.FromString(piece))
            piece = b""
    return found


def rows(found: list[Any]) -> list[dict[str, Any]]:
    histories = [record.history for record in found if record.HasField("history")]
    return [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in history.item}
        for history in histories
    ]


@pytest.mark.slow
def test_offline_needs_no_key_and_keeps_rows_axes_and_media(tmp_path: Path) -> None:
    tracker, said = open_tracker(tmp_path, Wandb(mode="offline", tags=("one",), group="seeds"))
    video = tmp_path / "episode.mp4"
    video.write_bytes(b"not really a film")
    actions = video.with_suffix(".json")
    actions.write_text("[0, 1]")
    for update in (1, 2):
        tracker.row({"update": update, "frames": 80 * update, "train/loss": 1 / update, "rollout/return": 5.0})
    tracker.media(2, {"eval/samples": Table(("a", "b"), [("c", "d")]), "eval/episode": Video(video, "a fall", actions)})
    tracker.media(2, {"eval/picture": Picture(np.zeros((4, 6, 3), dtype=np.uint8))})
    tracker.close("finished")
    assert said == [f"track.wandb: recorded offline; to upload it later: wandb sync {offline_folder(tmp_path)}"]
    found = records(offline_folder(tmp_path))
    own = [{name: value for name, value in row.items() if not name.startswith("_")} for row in rows(found)]
    assert own[:2] == [
        {"update": 1, "frames": 80, "train/loss": 1.0, "rollout/return": 5.0},
        {"update": 2, "frames": 160, "train/loss": 0.5, "rollout/return": 5.0},
    ]
    assert (own[2]["update"], own[2]["eval/samples/_type"], own[2]["eval/episode/_type"]) == (
        2,
        "table-file",
        "video-file",
    )
    assert own[2]["eval/episode/caption"] == "a fall"
    assert (offline_folder(tmp_path) / "files" / "episode.json").read_text() == "[0, 1]"
    assert own[3]["eval/picture/_type"] == "image-file"
    axes = {r.metric.glob_name: r.metric.step_metric for r in found if r.HasField("metric") and r.metric.glob_name}
    assert axes == {
        "train/*": "update",
        "speed/*": "update",
        "system/*": "update",
        "time/*": "update",
        "eval/*": "frames",
        "rollout/*": "frames",
    }
    run = next(record.run for record in found if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["model"] == {"layers": 2}
    assert (run.project, run.run_group, list(run.tags), run.display_name) == ("footplate", "seeds", ["one"], "a-run")
    assert run.run_id == json.loads((tmp_path / "a-run" / "wandb.json").read_text())["id"]


def test_what_is_disabled_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker, said = open_tracker(tmp_path)
    tracker.row({"update": 1, "train/loss": 2.0})
    tracker.close("finished")
    assert said == ["track.wandb: WANDB_MODE is disabled, so nothing is recorded"]
    assert not any(path.name.startswith("wandb") and path.is_dir() for path in (tmp_path / "a-run").iterdir())


@pytest.mark.slow
def test_without_a_key_the_run_is_offline_and_says_how_to_upload_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker, said = open_tracker(tmp_path)
    tracker.row({"update": 1, "train/loss": 2.0})
    tracker.close("finished")
    assert said == [
        "track.wandb: there is no API key (`wandb login` stores one); "
        f"recorded offline, to upload it later: wandb sync {offline_folder(tmp_path)}"
    ]
    assert [row["train/loss"] for row in rows(records(offline_folder(tmp_path)))] == [2.0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [False, True])
def test_a_server_that_refuses_or_hangs_makes_the_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], hangs: bool
) -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if hangs:  # accepts, and never answers
            server.listen(50)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(wandb_tracker, "INIT_SECONDS", 2.0)
        tracker, said = open_tracker(tmp_path)
        tracker.row({"update": 1, "train/loss": 2.0})
        tracker.close("finished")
    assert said == [
        f"track.wandb: {url} did not answer within 2 seconds; "
        f"recorded offline, to upload it later: wandb sync {offline_folder(tmp_path)}"
    ]
    assert [row["train/loss"] for row in rows(records(offline_folder(tmp_path)))] == [2.0]
    assert capfd.readouterr() == ("", "")
    assert_key_is_nowhere(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "refuses the API key (error 401; `wandb login` stores another)"),
        (403, "refuses the API key (error 403; `wandb login` stores another)"),
        (500, "did not answer within 2 seconds"),
    ],
)
def test_a_server_that_answers_with_an_error_makes_the_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], status: int, reason: str
) -> None:
    with Server(status) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(wandb_tracker, "INIT_SECONDS", 2.0)
        tracker, said = open_tracker(tmp_path)
        tracker.row({"update": 1, "train/loss": 2.0})
        tracker.close("finished")
        assert said == [
            f"track.wandb: {server.url} {reason}; "
            f"recorded offline, to upload it later: wandb sync {offline_folder(tmp_path)}"
        ]
        assert [row["train/loss"] for row in rows(records(offline_folder(tmp_path)))] == [2.0]
    assert capfd.readouterr() == ("", "")
    assert_key_is_nowhere(tmp_path)


@pytest.mark.slow
def test_a_key_that_is_none_makes_the_run_offline_without_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "mistyped")
    tracker, said = open_tracker(tmp_path)
    tracker.close("finished")
    assert len(said) == 1
    assert said[0].endswith(f"; recorded offline, to upload it later: wandb sync {offline_folder(tmp_path)}")
    assert "mistyped" not in said[0]


@pytest.mark.slow
def test_a_resumed_run_continues_the_same_run_on_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        for updates in ((1, 2, 3), (2, 3, 4)):  # killed after 3, the checkpoint was of 1
            tracker, said = open_tracker(tmp_path)
            for update in updates:
                tracker.row({"update": update, "train/loss": 1 / update})
            tracker.close("finished")
            run_id = json.loads((tmp_path / "a-run" / "wandb.json").read_text())["id"]
            assert said == [f"track.wandb: {server.url}/somebody/footplate/runs/{run_id}"]
    assert server.rows == [(run_id, update, 1 / update) for update in (1, 2, 3, 2, 3, 4)], (
        "a row whose update goes back must not be dropped"
    )
    assert capfd.readouterr() == ("", "")
    assert_key_is_nowhere(tmp_path)


@pytest.mark.slow
def test_a_server_that_dies_meanwhile_is_not_waited_for_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_tracker, "FINISH_SECONDS", 2.0)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        tracker, said = open_tracker(tmp_path)
    tracker.row({"update": 1, "train/loss": 2.0})
    tracker.close("finished")
    [folder] = (tmp_path / "a-run" / "wandb").glob("run-*")
    assert said[1:] == [f"track.wandb: the upload did not end within 2 seconds; to complete it: wandb sync {folder}"]
    assert [row["train/loss"] for row in rows(records(folder))] == [2.0]


def assert_key_is_nowhere(tmp_path: Path) -> None:
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


class Server:
    """As much of a W&B server as a run needs: it knows every run that it has seen, and notes the rows."""

    def __init__(self, status: int = 200) -> None:
        self.rows: list[tuple[str, int, float]] = []
        self.known: dict[str, int] = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = json.dumps(server.answer(self.path, body)).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = False  # so that closing it waits for every answer
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> "Server":
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            run_id = path.split("/")[-2]
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl", {"content": []})
            for row in map(json.loads, history["content"]):
                self.rows.append((run_id, row["update"], row["train/loss"]))
                self.known[run_id] = self.known.get(run_id, 0) + 1
            return {"exitcode": None, "limits": {}}
        if path != "/graphql":
            return {}
        request = json.loads(body)
        query, variables = request["query"], request.get("variables") or {}
        if "RunResumeStatus" in query:
            name = variables["name"]
            return {"data": {"model": {"id": "p", "name": "footplate", "entity": ENTITY, "bucket": self.bucket(name)}}}
        if "upsertBucket" in query:
            name = variables["name"]
            bucket = {
                "id": "aWQ=",
                "name": name,
                "displayName": name,
                "description": "",
                "config": "{}",
                "sweepName": None,
            }
            project = {"project": {"id": "p", "name": "footplate", "entity": ENTITY}}
            lines = {"historyLineCount": self.known.get(name, 0)}
            return {"data": {"upsertBucket": {"bucket": bucket | project | lines, "inserted": name not in self.known}}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "aWQ=", "uploadHeaders": [], "files": files}}}
        return {"data": None}

    def bucket(self, name: str) -> dict[str, Any] | None:
        if name not in self.known:
            return None
        tail = json.dumps([json.dumps({"_step": self.known[name] - 1, "_runtime": 1})])
        counts = {"historyLineCount": self.known[name], "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}", "config": "{}"}
        return {"id": "aWQ=", "name": name, "tags": [], "wandbConfig": json.dumps({"t": 1}), **counts, **tails}


ENTITY = {"id": "e", "name": "somebody"}
