"""What stops a submission, in one line each and before anything is sent; and what is sent.

The cluster is a stand-in; tests/cluster/test_submit_to_ray.py has a real one.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from dashboard_stand_in import StandIn

from footplate.errors import FootplateError
from footplate_cluster.dashboard import Dashboard
from footplate_cluster.submissions import Submissions

pytestmark = pytest.mark.usefixtures("here")


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


def test_a_url_with_a_password_reaches_neither_the_cluster_nor_the_screen(head: StandIn, footplate: Any) -> None:
    runs, at = "s3://me:geheim@bucket/runs", ["--address", head.address]
    head.add("x", "RUNNING", Path("/shared/runs"))
    refused = "holds a password, which others see; give it to the storage by the environment, or by a file of its own\n"
    for command in (["submit", "copy-transformer"], ["jobs"], ["status", "x"], ["stop", "x"], ["resume", "x"]):
        assert footplate(*command, "--runs", runs, *at) == (2, "", f"error: s3://...@bucket/runs: {refused}")
    for command in ("status", "logs", "stop", "resume"):
        assert footplate(command, f"{runs}/x", *at) == (2, "", f"error: s3://...@bucket/runs/x: {refused}")
    _, _, errors = footplate("train", "copy-transformer", "--name", "x", "--runs", runs)
    assert errors == f"error: s3://...@bucket/runs/x: {refused}"
    assert footplate("sweep", "copy-rates", "--runs", runs)[2] == f"error: s3://...@bucket/runs: {refused}"
    assert head.sent == []


def test_a_folder_of_runs_must_be_named_for_a_cluster_elsewhere(head: StandIn, footplate: Any) -> None:
    address = f"http://0.0.0.0:{head.server_port}"
    code, _, errors = footplate("submit", "copy-transformer", "--address", address, "--allow-open")
    assert (code, errors) == (
        2,
        "error: --runs: name a folder that every node of the cluster sees, such as --runs /shared/runs\n",
    )


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


def test_a_sweep_is_not_submitted(head: StandIn, footplate: Any, here: Path) -> None:
    (here / "own.yaml").write_text("recipe: copy-transformer\nspace: {seed: [1, 2]}\n")
    for sweep in ("copy-rates", "own.yaml"):
        assert footplate("submit", sweep, "--address", head.address)[2] == (
            f"error: {sweep}: is a sweep; start it on a node of the cluster "
            f"with `footplate sweep {sweep} --address auto`\n"
        )
