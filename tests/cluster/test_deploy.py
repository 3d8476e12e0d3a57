"""The files under cluster/deploy/, as far as they can be checked without the services that they are for."""

import json
import os
import re
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "cluster" / "deploy"
STUBS = {
    "scontrol": "printf 'n1\\nn2\\n'",
    "srun": 'printf "%s\\n" "$@"; stat -c "mode %a" "$RAY_AUTH_TOKEN_PATH"; echo "auth $RAY_AUTH_MODE"',
}


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return document


def slurm(folder: Path, *arguments: str) -> list[str]:
    """What `sbatch slurm.sh ARGUMENTS` asks srun to run on two nodes."""
    stubs = folder / "stubs"
    stubs.mkdir()
    for name, program in STUBS.items():
        (stubs / name).write_text(f"#!/bin/sh\n{program}\n")
        (stubs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{stubs}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "7",
    }
    command = ["bash", str(DEPLOY / "slurm.sh"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_slurm_trains_on_all_nodes_with_a_token_of_the_job_s_own(tmp_path: Path) -> None:
    *command, mode, auth = slurm(tmp_path, "train", "copy-transformer", "about=two words")
    before, after = command[: command.index("--")], command[command.index("--") + 1 :]
    assert before == ["ray", "symmetric-run", "--address", "n1:6379", "--min-nodes", "2"]
    recipe = ["copy-transformer", "about=two words", "--on", "ray", "--address", "auto"]
    assert after == ["python", "-m", "footplate", "train", *recipe]
    assert (mode, auth) == ("mode 600", "auth token")
    assert [path.name for path in tmp_path.iterdir()] == ["stubs"]  # the token is gone


def test_slurm_resumes_on_the_cluster_of_its_own_job(tmp_path: Path) -> None:
    *command, _, _ = slurm(tmp_path, "resume", "mine")
    assert command[command.index("--") + 1 :] == ["python", "-m", "footplate", "resume", "mine", "--address", "auto"]


def test_kubernetes_nodes_share_an_image_a_disk_and_a_token() -> None:
    cluster = read("kuberay.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    for pod, container in zip(pods, containers, strict=True):
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_fleet_is_as_ray_up_wants_it() -> None:
    fleet = read("ray-up-aws.yaml")
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    schema = Path(ray.origin).with_name("autoscaler") / "ray-schema.json"
    jsonschema.validate(fleet, json.loads(schema.read_text()))
    assert fleet["head_node_type"] in fleet["available_node_types"]
    assert "--env=RAY_AUTH_MODE=token" in fleet["docker"]["run_options"]


def test_the_versions_are_those_that_are_tested() -> None:
    (version,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert read("kuberay.yaml")["spec"]["rayVersion"] == version


def test_the_image_is_made_of_what_there_is() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert len(sources) == 8
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("file", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_no_dashboard_is_opened_to_everybody(file: Path) -> None:
    assert "0.0.0.0" not in file.read_text()
    assert not stat.S_IMODE(file.stat().st_mode) & stat.S_IWOTH
