"""What stops a submission, in one line each and before anything is sent; and what runs are known by name.

The cluster is a stand-in that answers as Ray 2.60's dashboard does; tests/cluster/test_submit_to_ray.py has a real one.
"""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from footplate.cli import main
from footplate.errors import FootplateError, TrainingError
from footplate.folder import create_run
from footplate_cluster.dashboard import Dashboard
from footplate_cluster.submissions import Submissions
from footplate_cluster.submitted import ENVIRONMENT, record_submission

NODE = {"state": "ALIVE", "resources_total": {"CPU": 2.0, "memory": 1e9}}
VERSION = {"ray_version": "2.60.0"}


class StandIn(ThreadingHTTPServer):
    """A dashboard with this table of jobs; what it is sent, and with which token, is noted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = "disabled"
        self.token = ""
        self.jobs: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[int, str]] = {}
        self.redirects_to = ""
        self.sent: list[str] = []
        self.tokens: list[str | None] = []
        self.submitted: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, run: str, status: str, runs: Path, **more: Any) -> None:
        metadata = {"footplate_run": run, "footplate_runs": str(runs)}
        started = 1000 * (1 + len(self.jobs))
        self.jobs.append({"submission_id": run, "status": status, "metadata": metadata, "start_time": started} | more)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        if path in self.answers:
            return self.answers[path]
        if path == "/api/authentication_mode":
            return 200, json.dumps({"authentication_mode": self.mode})
        if self.mode == "token" and self.tokens[-1] != f"Bearer {self.token}":
            return (403 if self.tokens[-1] else 401), "no"
        if method == "GET" and path.startswith("/api/jobs/"):
            name = path.removeprefix("/api/jobs/")
            named = [job for job in self.jobs if job["submission_id"] == name]
            return (200, json.dumps(named[0] if name else self.jobs)) if named or not name else (404, "no such")
        if method != "GET":
            self.sent.append(f"{method} {path}")
            if path == "/api/jobs/":
                self.submitted.append(json.loads(body))
                made = self.submitted[-1]
                runs = made["metadata"]["footplate_runs"]
                self.add(made["metadata"]["footplate_run"], "PENDING", Path(runs), runtime_env=made["runtime_env"])
            return 200, "{}"
        nodes = {"data": {"result": {"result": [NODE]}}}
        known = {"/api/version": VERSION, "/api/v0/nodes?limit=10000&timeout=10": nodes}
        return (200, json.dumps(known[path])) if path in known else (404, "no such")


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.append(self.headers.get("Authorization"))
        if self.server.redirects_to:
            self.send_response(302)
            self.send_header("Location", self.server.redirects_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        code, text = self.server.answer(self.command, self.path, body)
        self.send_response(code)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_PUT = do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the screen."""


def serve() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def head() -> Iterator[StandIn]:
    yield from serve()


@pytest.fixture
def elsewhere() -> Iterator[StandIn]:
    yield from serve()


@pytest.fixture(autouse=True)
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


Footplate = tuple[int, str, str]


@pytest.fixture
def footplate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Footplate:
        monkeypatch.setattr(sys, "argv", ["footplate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_an_address_where_nobody_answers_is_told_in_a_line(footplate: Any) -> None:
    for command in (["submit", "copy-transformer"], ["jobs"], ["status", "x"], ["logs", "x"], ["stop", "x"]):
        assert footplate(*command, "--address", "http://127.0.0.1:1") == (
            2,
            "",
            "error: --address http://127.0.0.1:1: nobody answers there (Connection refused); "
            "start a cluster with `ray start --head`, or give the address of its dashboard\n",
        )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "head:6379",
            "--address head:6379: is not a dashboard's; give http://head:8265, "
            "or train from a node of the cluster with --on ray",
        ),
        (
            "http://[::1",
            "--address http://[::1: is not a dashboard's; give http://head:8265, "
            "or train from a node of the cluster with --on ray",
        ),
        (
            "http://me:geheim@head:8265",
            "--address http://...@head: holds a password, which others see; "
            "the cluster's token belongs into ~/.ray/auth_token",
        ),
        (
            "http://nowhere.invalid:8265",
            "--address http://nowhere.invalid:8265: nobody answers there (Name or service not known); "
            "start a cluster with `ray start --head`, or give the address of its dashboard",
        ),
    ],
)
def test_an_address_that_is_no_dashboard_s_is_refused(address: str, message: str) -> None:
    with pytest.raises(FootplateError) as raised:
        Dashboard(address)
    assert str(raised.value).replace("Temporary failure in name resolution", "Name or service not known") == message


def test_without_an_address_the_command_says_how_to_give_one(footplate: Any) -> None:
    assert footplate("jobs") == (
        2,
        "",
        "error: --address: which cluster? give the address of its dashboard, such as http://head:8265, "
        "or set RAY_ADDRESS\n",
    )


def test_ray_address_is_honoured(head: StandIn, footplate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    head.add("first", "RUNNING", Path("/shared/runs"))
    code, output, _ = footplate("status", "first")
    assert code == 0
    assert output.splitlines()[0] == "first: running"


@pytest.mark.parametrize("answer", [(200, "<html>"), (200, "[]"), (200, "{}"), (404, "no"), (418, "")])
def test_what_is_no_dashboard_is_told_apart(head: StandIn, answer: tuple[int, str]) -> None:
    head.answers = {"/api/authentication_mode": answer, "/api/version": answer}
    with pytest.raises(FootplateError) as raised:
        Dashboard(head.address)
    assert str(raised.value) == (
        f"--address {head.address}: what answers there is no dashboard of Ray; "
        "give the address that `ray start --head` printed, such as http://head:8265"
    )


def test_a_redirect_does_not_take_the_token_along(
    head: StandIn, elsewhere: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    head.mode, head.token = "token", "secret"
    dashboard = Dashboard(head.address)
    head.redirects_to = elsewhere.address
    with pytest.raises(FootplateError, match="no dashboard of Ray"):
        dashboard.jobs()
    assert elsewhere.tokens == []


def test_a_wrong_token_is_told_with_its_place_and_never_shown(
    head: StandIn, footplate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim")
    head.mode, head.token = "token", "another"
    assert footplate("jobs", "--address", head.address) == (
        2,
        "",
        f"error: --address {head.address}: the cluster refuses the token in RAY_AUTH_TOKEN; "
        "get the one that it was started with\n",
    )


def test_a_missing_token_is_told_with_where_it_belongs(head: StandIn) -> None:
    head.mode = "token"
    with pytest.raises(FootplateError) as raised:
        Dashboard(head.address)
    assert str(raised.value) == (
        f"--address {head.address}: the cluster asks for a token, and there is none here; "
        "put it into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
    )


def test_a_cluster_that_asks_for_no_token_gets_none(head: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    Dashboard(head.address).jobs()
    assert set(head.tokens) == {None}


def test_an_open_cluster_elsewhere_is_refused_unless_allowed(head: StandIn) -> None:
    address = f"http://0.0.0.0:{head.server_port}"  # not a loopback address, though it leads here
    with pytest.raises(FootplateError) as raised:
        Dashboard(address)
    assert str(raised.value) == (
        f"--address {address}: whoever reaches this cluster can run code on it, for it asks for no token; "
        "start it with RAY_AUTH_MODE=token, or give --allow-open where its network is closed"
    )
    assert Dashboard(address, allow_open=True).jobs() == []


def test_a_failing_head_is_a_line_and_not_its_traceback(head: StandIn) -> None:
    head.answers["/api/jobs/"] = (500, "Traceback (most recent call last):\n  File ...\nKeyError: 'node'\n")
    with pytest.raises(FootplateError) as raised:
        Dashboard(head.address).jobs()
    assert (
        str(raised.value) == f"--address {head.address}: the cluster failed (KeyError: 'node'); see its dashboard.log"
    )


def test_an_id_that_is_taken_is_a_line(head: StandIn) -> None:
    dashboard = Dashboard(head.address)
    head.answers["/api/jobs/"] = (500, "Traceback\nValueError: Job with submission_id x already exists. Please ...\n")
    with pytest.raises(FootplateError) as raised:
        dashboard.submit("x", "true", {}, {})
    assert str(raised.value) == f"--name: x is taken by another submission to {head.address}; choose another name"


def test_a_name_that_is_taken_is_refused_before_anything_is_sent(head: StandIn, footplate: Any, here: Path) -> None:
    head.add("mine", "RUNNING", here / "runs")
    (here / "runs" / "old").mkdir(parents=True)
    for name in ("mine", "old"):
        code, _, errors = footplate("submit", "copy-transformer", "--name", name, "--address", head.address)
        assert code == 2
        assert errors == (
            f"error: {here}/runs/{name}: a run of this name exists; choose another --name, or "
            f"`footplate resume {name} --address {head.address}`\n"
        )
    assert head.sent == []


def test_a_name_whose_run_never_began_is_free_again(head: StandIn, here: Path) -> None:
    head.add("mine", "FAILED", here / "runs")
    head.add("copy", "SUCCEEDED", here / "runs")
    cluster = Submissions(Dashboard(head.address))
    assert (cluster.free_name("mine"), cluster.free_name("copy")) == ("mine", "copy-2")


def test_resources_that_the_cluster_lacks_are_refused_before_anything_is_sent(head: StandIn, footplate: Any) -> None:
    code, _, errors = footplate("submit", "copy-transformer", "--workers", "3", "--address", head.address)
    assert code == 2
    assert errors == (
        "error: resources: 3 x 1 CPU = 3 CPU are needed, the cluster has 2; "
        "ask for fewer with --workers or resources.cpus_per_worker, or let it grow with --wait\n"
    )
    assert head.sent == []


def test_an_unknown_run_is_told(head: StandIn, footplate: Any, here: Path) -> None:
    for command in ("status", "logs", "stop"):
        assert footplate(command, "nobody", "--address", head.address) == (
            2,
            "",
            f"error: nobody: no such run was submitted, says {head.address} or {here}/runs; "
            "`footplate jobs` lists those that were\n",
        )


def test_a_folder_of_runs_must_be_named_for_a_cluster_elsewhere(head: StandIn, footplate: Any) -> None:
    address = f"http://0.0.0.0:{head.server_port}"
    code, _, errors = footplate("submit", "copy-transformer", "--address", address, "--allow-open")
    assert (code, errors) == (
        2,
        "error: --runs: name a folder that every node of the cluster sees, such as --runs /shared/runs\n",
    )


def test_a_run_that_does_not_run_is_not_stopped(head: StandIn, footplate: Any) -> None:
    head.add("done", "SUCCEEDED", Path("/shared/runs"))
    code, _, errors = footplate("stop", "done", "--address", head.address)
    assert (code, errors) == (2, "error: done: does not run, it is finished; nothing was stopped\n")


def test_a_run_that_runs_is_not_resumed(head: StandIn, footplate: Any) -> None:
    head.add("busy", "RUNNING", Path("/shared/runs"))
    code, _, errors = footplate("resume", "busy", "--address", head.address)
    assert (code, errors) == (2, "error: busy: is running already; `footplate logs busy -f` follows it\n")


def test_what_is_submitted_holds_the_job_and_no_key(
    head: StandIn, footplate: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim")
    monkeypatch.setenv("WANDB_API_KEY", "geheim" * 7)
    head.mode, head.token = "token", "geheim"
    code, output, _ = footplate("submit", "copy-transformer", "seed=2", "--name", "it's", "--address", head.address)
    assert code == 0
    assert output.splitlines()[-5] == "it's: submitted"
    (request,) = head.submitted
    assert request["entrypoint"] == (
        f"""python -m footplate train footplate.job.yaml --name 'it'"'"'s' --runs {here}/runs"""
    )
    assert request["submission_id"] == "it's"
    assert int(request["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 600
    assert "geheim" not in json.dumps(request) + output


def test_the_same_footplate_is_uploaded_once(head: StandIn, footplate: Any) -> None:
    footplate("submit", "copy-transformer", "--address", head.address)
    uploads = [line.removeprefix("PUT ") for line in head.sent if line.startswith("PUT")]
    assert len(uploads) == 2
    head.answers |= dict.fromkeys(uploads, (200, ""))
    _, output, _ = footplate("submit", "copy-transformer", "--name", "again", "--address", head.address)
    assert ", there already)" in output
    assert [line.removeprefix("PUT ") for line in head.sent if line.startswith("PUT")] == uploads


def test_a_run_that_the_cluster_forgot_is_known_by_its_folder(head: StandIn, footplate: Any, here: Path) -> None:
    folder = here / "runs" / "old"
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text("task: translation\n")
    (folder / "status.json").write_text('{"state": "stopped", "update": 7, "updates": 9}\n')
    (folder / "log.txt").write_text("2026-01-31 12:00:00 said\n")
    record = {"address": head.address, "submission_id": "old"}
    (folder / "submission.json").write_text(json.dumps(record))
    code, output, _ = footplate("status", "old")  # the folder tells the address too
    assert (code, output.splitlines()) == (0, ["old: stopped, update 7/9", f"  run folder  {folder}"])
    assert footplate("logs", "old")[1] == "2026-01-31 12:00:00 said\n"
    assert "old" in footplate("jobs", "--address", head.address)[1]

    (folder / "submission.json").write_text(json.dumps(record | {"address": "http://evil.example"}))
    code, output, errors = footplate("status", "old")  # who gets the token is for the user to say
    assert (code, output.splitlines()[0]) == (0, "old: stopped, update 7/9")
    assert errors == (
        "warning: --address: old says http://evil.example; if you trust that, give it or set RAY_ADDRESS\n"
    )

    (folder / "submission.json").write_text(json.dumps(record | {"address": "http://127.0.0.1:1"}))
    code, output, errors = footplate("status", "old")  # the head is gone altogether
    assert (code, output.splitlines()[0]) == (0, "old: stopped, update 7/9")
    assert errors.startswith("warning: --address http://127.0.0.1:1: nobody answers there")


def test_a_run_that_failed_says_what_its_driver_said(head: StandIn, footplate: Any) -> None:
    head.add("odd", "FAILED", Path("/shared/runs"), message="Job entrypoint command failed with exit code 2, ...")
    log = "ray's own\nRunning entrypoint for job odd: python ...\nerror: corpus: is empty; fill it\n"
    head.answers["/api/jobs/odd/logs"] = (200, json.dumps({"logs": log}))
    assert footplate("logs", "odd", "--address", head.address)[1] == "error: corpus: is empty; fill it\n"
    _, output, _ = footplate("status", "odd", "--address", head.address)
    assert output.splitlines()[-1] == "  because     corpus: is empty; fill it"


def test_following_a_run_that_fails_ends_with_its_driver_s_mistake(head: StandIn, footplate: Any) -> None:
    head.add("odd", "FAILED", Path("/shared/runs"))
    log = "Running entrypoint for job odd: python ...\n10 pairs\nerror: corpus: is empty; fill it\n"
    head.answers["/api/jobs/odd/logs"] = (200, json.dumps({"logs": log}))
    run = Submissions(Dashboard(head.address)).find("odd")
    with pytest.raises(TrainingError) as raised:
        run.follow()
    assert str(raised.value) == "corpus: is empty; fill it"


def test_what_is_not_seen_from_here_is_followed_by_its_log(
    head: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = "Runtime env is setting up.\nRunning entrypoint for job far: python\n"
    silence = "it starts anew"
    seen = iter([("RUNNING", begin + "first\nsec"), (silence, ""), ("SUCCEEDED", begin + "first\nsecond\n")])

    def show(status: str, logs: str) -> None:
        head.answers = {f"/api/jobs/far{what}": (503, silence) for what in ("", "/logs") if status == silence}
        if status == silence:
            return
        head.jobs[0]["status"] = status
        head.answers["/api/jobs/far/logs"] = (200, json.dumps({"logs": logs}))

    head.add("far", "PENDING", Path("/shared/runs"))
    show("PENDING", "Runtime env is setting up.\n")
    monkeypatch.setattr("footplate_cluster.submission.time.sleep", lambda seconds: show(*next(seen)))
    assert Submissions(Dashboard(head.address)).find("far").follow() == "finished"
    assert capsys.readouterr().out == "first\nsecond\n"


def test_what_is_for_submitted_runs_alone_is_refused_otherwise(footplate: Any) -> None:
    assert footplate("resume", "x", "--follow") == (
        2,
        "",
        "error: resume: --follow and --allow-open are for a run that is submitted; add --address http://...\n",
    )


def test_a_run_at_a_url_is_refused_found_and_resumed_by_its_url(
    head: StandIn, footplate: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, at = f"file://{here}/bucket", ("--address", head.address)
    (here / "data.txt").write_text("1")
    sending = ("submit", "copy-transformer", "--name", "far", "--runs", runs, "--send", "data.txt", *at)
    assert footplate(*sending)[0] == 0
    variables = head.submitted[0]["runtime_env"]["env_vars"]
    monkeypatch.setenv(ENVIRONMENT, variables[ENVIRONMENT])
    folder = create_run(runs, "far", "copy-transformer")  # as the driver does it, on the head
    folder.write_job((Path(__file__).parents[2] / "nlp/footplate_nlp/recipes/copy-transformer.yaml").read_text())
    record_submission(folder)
    bucket = here / "bucket" / "far"
    (bucket / "status.json").write_text('{"state": "stopped", "update": 7, "updates": 9}')
    head.jobs.clear()  # the head starts anew

    head.sent.clear()
    code, _, errors = footplate(*sending)
    assert (code, errors.partition(";")[0]) == (2, f"error: {runs}/far: a run of this name exists")
    nowhere = footplate("submit", "copy-transformer", "--runs", "nowhere://bucket/runs", *at)
    assert nowhere[2].startswith("error: nowhere://bucket/runs: nowhere:// is no protocol")
    assert head.sent == []
    assert footplate("status", f"{runs}/far")[1].splitlines()[0] == "far: stopped, update 7/9"
    assert footplate("status", "far", "--runs", runs, *at)[1].splitlines()[1] == f"  run folder  {runs}/far"
    assert "7/9" in footplate("jobs", "--runs", runs, *at)[1]

    code, output, _ = footplate("resume", f"{runs}/far", *at)
    assert (code, "data.txt (1 B)" in output) == (0, True)
    request = head.submitted[1]
    assert request["entrypoint"] == f"python -m footplate resume {runs}/far --address auto"
    assert request["metadata"]["footplate_runs"] == runs
    assert json.loads(request["runtime_env"]["env_vars"][ENVIRONMENT])["send"] == ["data.txt"]
    # Its driver may fail before it writes: what an earlier submission left is not its state.
    assert request["submission_id"] != "far"
    head.jobs[0] |= {"submission_id": request["submission_id"], "status": "FAILED"}
    assert footplate("jobs", "--runs", runs, *at)[1].count("failed") == 1

    (here / "data.txt").unlink()
    assert footplate("resume", f"{runs}/far", *at)[2] == (
        "error: far: was submitted with --send data.txt, and there is no such file or folder here; "
        "resume it from the directory where it was submitted\n"
    )


def test_a_sweep_is_not_submitted(head: StandIn, footplate: Any, here: Path) -> None:
    (here / "own.yaml").write_text("recipe: copy-transformer\nspace: {seed: [1, 2]}\n")
    for sweep in ("copy-rates", "own.yaml"):
        assert footplate("submit", sweep, "--address", head.address)[2] == (
            f"error: {sweep}: is a sweep; start it on a node of the cluster "
            f"with `footplate sweep {sweep} --address auto`\n"
        )
