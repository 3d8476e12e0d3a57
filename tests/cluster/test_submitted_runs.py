"""Which run is meant by a name, a path or a URL, and what becomes of it: states, logs, stopping and going on.

The cluster is a stand-in; tests/cluster/test_submit_to_ray.py has a real one.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dashboard_stand_in import StandIn

from footplate.errors import TrainingError
from footplate.folder import create_run
from footplate_cluster.dashboard import Dashboard
from footplate_cluster.submissions import Submissions
from footplate_cluster.submitted import ENVIRONMENT, record_submission

pytestmark = pytest.mark.usefixtures("here")

LINE_TASK = Path(__file__).parents[1] / "platform" / "line_task.py"
RECIPE = (Path(__file__).parents[2] / "nlp/footplate_nlp/recipes/copy-transformer.yaml").read_text()


def run_folder(path: Path, state: str) -> Path:
    """A run folder as a run leaves it."""
    path.mkdir(parents=True)
    (path / "job.yaml").write_text(RECIPE)
    (path / "status.json").write_text(json.dumps({"state": state, "update": 7, "updates": 9}))
    return path


def record(folder: Path, address: str) -> None:
    """Say in the folder that the run was submitted there."""
    (folder / "submission.json").write_text(json.dumps({"address": address, "submission_id": folder.name}))


@pytest.mark.parametrize("command", ["status", "logs", "stop", "resume"])
def test_a_path_is_never_taken_for_a_run_of_the_same_name_elsewhere(
    head: StandIn, footplate: Any, command: str
) -> None:
    head.add("x", "RUNNING", Path("/shared/b"))
    code, output, errors = footplate(command, "/shared/a/x", "--address", head.address)
    assert (code, output) == (2, "")
    if command == "resume":
        assert errors.startswith("error: /shared/a/x: no such run under /shared/a (and no such folder with a job.yaml)")
    else:
        assert errors == (
            f"error: /shared/a/x: no such run was submitted, says {head.address} or /shared/a; "
            "`footplate jobs` lists those that were\n"
        )
    assert head.sent == []


def test_a_path_means_its_run_however_it_is_written(head: StandIn, footplate: Any, here: Path) -> None:
    for runs in ("/shared/b", "/shared/a", "/shared/c"):
        head.add("x", "STOPPED", Path(runs))
    for path in ("/shared/a/x", "/shared/a/x/", "/shared/b/../a/x"):
        _, output, _ = footplate("status", path, "--address", head.address)
        assert output.splitlines()[1] == "  run folder  /shared/a/x (not seen from here)"


def test_a_run_that_was_never_submitted_is_resumed_and_not_one_of_its_name_elsewhere(
    head: StandIn, footplate: Any, here: Path
) -> None:
    folder = run_folder(here / "A" / "x", "stopped")
    head.add("x", "STOPPED", Path("/shared/b"))
    for given in ([str(folder)], ["A/x"], ["x", "--runs", str(here / "A")]):
        assert footplate("resume", *given, "--address", head.address)[0] == 0
        assert head.submitted[-1]["entrypoint"] == f"python -m footplate resume {folder} --address auto"
        del head.jobs[1:]
    assert footplate("stop", "A/x", "--address", head.address)[2] == (
        f"error: {folder}: no such run was submitted, says {head.address} or {here}/A; "
        "`footplate jobs` lists those that were\n"
    )


def test_a_run_that_the_cluster_forgot_is_found_by_its_path_from_anywhere(
    head: StandIn, footplate: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(here / "A" / "x", "stopped")
    record(folder, head.address)
    (folder / "log.txt").write_text("said\n")
    asked = [["A/x"], ["A/x", "--address", head.address]]
    for given in asked:
        assert footplate("status", *given)[:2] == (0, f"x: stopped, update 7/9\n  run folder  {folder}\n")
    monkeypatch.chdir(folder)
    assert footplate("status", ".")[1].splitlines()[0] == "x: stopped, update 7/9"
    monkeypatch.chdir(here.parent)
    assert footplate("logs", str(folder)) == (0, "said\n", "")
    assert footplate("stop", str(folder))[2] == "error: x: does not run, it is stopped; nothing was stopped\n"
    assert footplate("status", "x", "--address", head.address)[0] == 2


def test_a_name_that_several_runs_have_is_refused_with_their_paths(head: StandIn, footplate: Any, here: Path) -> None:
    head.add("x", "STOPPED", Path("/shared/a"))
    head.add("x", "RUNNING", Path("/shared/b"))
    for command in ("status", "logs", "stop", "resume"):
        assert footplate(command, "x", "--address", head.address) == (
            2,
            "",
            "error: x: is the name of several runs; give the path of one: /shared/a/x, /shared/b/x\n",
        )
    assert footplate("status", "x", "--runs", "/shared/b", "--address", head.address)[1].startswith("x: running\n")
    run_folder(here / "runs" / "x", "stopped")
    assert footplate("resume", "x", "--address", head.address)[0] == 0
    assert head.submitted[0]["entrypoint"] == f"python -m footplate resume {here}/runs/x --address auto"


@pytest.mark.parametrize("driver_node_id", [None, "abc"])
def test_a_run_that_is_stopped_before_it_begins_is_to_be_started_anew(
    head: StandIn, footplate: Any, here: Path, monkeypatch: pytest.MonkeyPatch, driver_node_id: str | None
) -> None:
    at = ["--address", head.address]
    assert footplate("submit", "copy-transformer", "--name", "early", *at)[0] == 0
    ended = {"status": "STOPPED", "driver_node_id": driver_node_id}
    begin = "Running entrypoint for job early: python\n" if driver_node_id else ""
    head.answers["/api/jobs/early/logs"] = (200, json.dumps({"logs": begin}))
    monkeypatch.setattr("footplate_cluster.submission.time.sleep", lambda seconds: head.jobs[0].update(ended))
    anew = f"footplate submit RECIPE --name early --runs {here}/runs --address {head.address}"
    assert footplate("stop", "early", *at)[1].splitlines() == [
        "early: asked to save and end after this update or evaluation",
        "early: stopped before it began",
        f"  start anew  {anew}",
    ]
    refused = "stopped before it began, so that there is nothing to go on from; start it anew with"
    assert footplate("resume", "early", *at) == (2, "", f"error: early: {refused} `{anew}`\n")
    run_folder(here / "runs" / "early", "stopped")  # there was something after all
    assert footplate("resume", "early", *at)[0] == 0


def test_a_run_that_may_have_begun_where_it_is_not_seen_goes_on(
    head: StandIn, footplate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.add("far", "RUNNING", Path("/shared/runs"), entrypoint="python -m footplate train footplate.job.yaml")
    head.answers["/api/jobs/far/logs"] = (200, json.dumps({"logs": "Running entrypoint for job far: python\n"}))
    monkeypatch.setattr(
        "footplate_cluster.submission.time.sleep", lambda seconds: head.jobs[0].update(status="STOPPED")
    )
    assert footplate("stop", "far", "--address", head.address)[1].splitlines()[1:] == [
        "far: stopped",
        f"  go on       footplate resume /shared/runs/far --address {head.address}",
    ]


@pytest.fixture
def far(head: StandIn, footplate: Any, here: Path) -> list[str]:
    """How to resume a run of a task of one's own that was stopped, from a laptop that does not see its folder."""
    shutil.copy(LINE_TASK, here / "own_line.py")
    (here / "line.yaml").write_text("task: own_line.py\n")
    given = ["--address", head.address, "--runs", "/shared/runs"]
    assert footplate("submit", "line.yaml", "--name", "far", *given)[0] == 0
    head.jobs[0] |= {"status": "STOPPED", "driver_node_id": "abc"}
    return ["resume", "far", *given]


def test_from_where_its_folder_is_not_seen_a_run_goes_on_with_what_was_sent_before(
    head: StandIn, footplate: Any, far: list[str]
) -> None:
    working_dir = head.submitted[0]["runtime_env"]["working_dir"]
    head.answers[f"/api/packages/gcs/{working_dir.removeprefix('gcs://')}"] = (200, "")
    code, output, _ = footplate(*far)
    assert (code, output.splitlines()[0]) == (0, f"sending to {head.address}:")
    assert head.submitted[1]["entrypoint"] == "python -m footplate resume /shared/runs/far --address auto"
    assert head.submitted[1]["runtime_env"]["working_dir"] == working_dir
    assert head.submitted[1]["metadata"] == head.submitted[0]["metadata"]


def test_where_what_was_sent_before_is_gone_a_run_whose_folder_is_not_seen_is_not_resumed(
    head: StandIn, footplate: Any, far: list[str]
) -> None:
    assert footplate(*far) == (
        2,
        "",
        "error: far: the cluster has lost its modules, and /shared/runs/far is not seen from here; "
        "resume it from a machine that sees the run folder\n",
    )
    assert len(head.submitted) == 1


def test_in_a_folder_of_runs_that_is_named_no_run_elsewhere_is_meant(head: StandIn, footplate: Any) -> None:
    head.add("x", "RUNNING", Path("/shared/b"))
    assert footplate("stop", "x", "--runs", "/shared/a", "--address", head.address)[2] == (
        f"error: x: no such run was submitted, says {head.address} or /shared/a; "
        "`footplate jobs` lists those that were\n"
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


def test_a_run_that_does_not_run_is_not_stopped(head: StandIn, footplate: Any) -> None:
    head.add("done", "SUCCEEDED", Path("/shared/runs"))
    code, _, errors = footplate("stop", "done", "--address", head.address)
    assert (code, errors) == (2, "error: done: does not run, it is finished; nothing was stopped\n")


def test_a_run_that_runs_is_not_resumed(head: StandIn, footplate: Any) -> None:
    head.add("busy", "RUNNING", Path("/shared/runs"))
    code, _, errors = footplate("resume", "busy", "--address", head.address)
    follow = f"footplate logs /shared/runs/busy --address {head.address} -f"
    assert (code, errors) == (2, f"error: busy: is running already; `{follow}` follows it\n")


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


def test_a_log_is_followed_until_the_run_ends_or_ctrl_c_which_leaves_it_running(
    head: StandIn, footplate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.add("far", "RUNNING", Path("/shared/runs"))
    head.answers["/api/jobs/far/logs"] = (200, json.dumps({"logs": "Running entrypoint for job far: python\nsaid\n"}))
    follow = ["logs", "far", "-f", "--address", head.address]

    def press(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("footplate_cluster.submission.time.sleep", press)
    with monkeypatch.context() as patch:
        patch.setattr("signal.signal", lambda number, handler: None)  # the tests' own Ctrl-C stays what it is
        assert footplate(*follow)[:2] == (
            130,
            f"said\n\nfar: goes on; `footplate stop /shared/runs/far --address {head.address}` ends it, "
            f"`footplate logs -f /shared/runs/far --address {head.address}` is back here\n",
        )
    assert head.sent == []
    monkeypatch.setattr(
        "footplate_cluster.submission.time.sleep", lambda seconds: head.jobs[0].update(status="SUCCEEDED")
    )
    assert footplate(*follow) == (0, "said\n", "")
    assert footplate(*follow) == (0, "said\n", "")  # what has ended is printed


def test_where_nothing_was_submitted_the_list_says_how_to(head: StandIn, footplate: Any) -> None:
    assert footplate("jobs", "--address", head.address) == (
        0,
        "nothing was submitted; `footplate submit RECIPE --address http://head:8265` does it\n",
        "",
    )


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
    folder.write_job(RECIPE)
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
    assert footplate("resume", f"{runs}/far", *at)[1:] == (
        "",
        "error: far: was submitted with --send data.txt, and there is no such file or folder here; "
        "resume it from the directory where it was submitted\n",
    )


def test_a_resumption_that_the_cluster_has_no_room_for_says_that_alone(
    head: StandIn, footplate: Any, here: Path
) -> None:
    folder = run_folder(here / "runs" / "wide", "stopped")
    (folder / "job.yaml").write_text(f"{RECIPE}\non: ray\nresources: {{workers: 9}}\n")
    assert footplate("resume", "wide", "--address", head.address) == (
        2,
        "",
        "error: resources: 9 x 1 CPU = 9 CPU are needed, the cluster has 2; "
        "ask for fewer with --workers or resources.cpus_per_worker, or let it grow with --wait\n",
    )
    assert head.sent == []


def test_a_run_that_was_only_trained_here_does_not_hide_the_submitted_one_of_its_name(
    head: StandIn, footplate: Any, here: Path
) -> None:
    run_folder(here / "runs" / "x", "finished")
    head.add("x", "RUNNING", Path("/shared/b"))
    at = ["--address", head.address]
    assert footplate("status", "x", *at)[1].splitlines()[1] == "  run folder  /shared/b/x (not seen from here)"
    assert footplate("status", "x", "--runs", "runs", *at)[0] == 0  # the same as by default
    assert footplate("status", "x", "--runs", str(here / "runs"), *at)[0] == 2


def test_one_run_in_two_spellings_is_one(head: StandIn, footplate: Any) -> None:
    head.add("x", "STOPPED", Path("/shared/b"))
    head.add("x", "RUNNING", Path("/shared/a/../b"))
    assert footplate("status", "x", "--address", head.address)[1].startswith("x: running\n")


def test_a_run_that_began_before_its_last_submission_is_resumed(head: StandIn, footplate: Any, far: list[str]) -> None:
    working_dir = head.submitted[0]["runtime_env"]["working_dir"]
    head.answers[f"/api/packages/gcs/{working_dir.removeprefix('gcs://')}"] = (200, "")
    last = dict(head.jobs[0], submission_id="far-2", start_time=9e9, driver_node_id=None)
    head.jobs.append(last | {"entrypoint": "python -m footplate train footplate.job.yaml"})
    assert footplate(*far)[0] == 0
    head.jobs[0]["driver_node_id"] = None
    del head.jobs[2:]
    assert footplate(*far)[2].startswith("error: far: stopped before it began, so that there is nothing to go on from")


def test_what_may_not_be_looked_into_is_not_seen(
    head: StandIn, footplate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def refused(path: Path, **options: Any) -> Any:
        if str(path).startswith("/closed/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    head.add("x", "STOPPED", Path("/closed/runs"))
    assert footplate("status", "/closed/runs/x", "--address", head.address)[0] == 0
    assert footplate("status", "/closed/runs/y")[0] == 2
