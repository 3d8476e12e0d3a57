"""What is sent to a cluster: Footplate, the job, the modules that it needs from here, and never a secret."""

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from footplate.errors import FootplateError
from footplate.job import job_from_yaml, load_job
from footplate_cluster.parcel import JOB_FILE, Parcel, make_parcel
from footplate_cluster.wheel import footplate_wheel, pack, package_files

LINE_TASK = (Path(__file__).parents[1] / "platform" / "line_task.py").read_text()
MAZE = "import gymnasium\nclass Maze(gymnasium.Env):\n    pass\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("footplate_task_", "own_", "mazes")):
            del sys.modules[name]


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def parcel_of_a_task(files: dict[str, str] | None = None, send: list[str] | None = None) -> Parcel:
    """A task in a file, own_line.py, that imports own_geometry.py; `files` are written beside them."""
    write({"own_line.py": f"import own_geometry\n{LINE_TASK}", "own_geometry.py": "", "line.yaml": "task: own_line.py"})
    write(files or {})
    return make_parcel(load_job("line.yaml"), [Path(path) for path in send or []])


def refusal(files: dict[str, str], send: list[str]) -> str:
    with pytest.raises(FootplateError) as raised:
        parcel_of_a_task(files, send)
    return str(raised.value)


def test_a_shipped_task_needs_nothing_from_here(here: Path) -> None:
    write({"data.txt": "much", "script.py": ""})
    assert set(make_parcel(load_job("copy-transformer")).files) == {JOB_FILE}


def test_a_task_goes_with_what_it_imports_and_under_a_name_that_any_node_can_import(here: Path) -> None:
    parcel = parcel_of_a_task({"unrelated.py": "", "platform/__init__.py": ""})
    assert set(parcel.files) == {JOB_FILE, "own_line.py", "own_geometry.py"}
    assert job_from_yaml(parcel.files[JOB_FILE].decode()).task == "own_line"
    assert parcel.lines()[1] == "own_geometry.py (0 B)"


def test_imports_inside_functions_and_of_packages_count(here: Path) -> None:
    files = {"own_geometry.py": "def area():\n    from own_shapes.round import circle\n    import json, torch\n"}
    files |= {"own_shapes/__init__.py": "", "own_shapes/round.py": "import own_last\n", "own_shapes/table.csv": "1,2"}
    parcel = parcel_of_a_task(files | {"own_last.py": "", "json.py": ""})
    modules = {"own_shapes/__init__.py", "own_shapes/round.py", "own_shapes/table.csv", "own_last.py"}
    assert set(parcel.files) == {JOB_FILE, "own_line.py", "own_geometry.py"} | modules


def test_an_environment_by_its_dotted_name_goes_along(here: Path) -> None:
    write({"mazes.py": MAZE})
    job = load_job("catch-paac", ["environment={kind: own, name: mazes.Maze}"])
    assert set(make_parcel(job).files) == {JOB_FILE, "mazes.py"}


def test_a_string_that_only_looks_like_a_module_takes_no_folder_along(here: Path) -> None:
    write({"data/train.txt": "much", "mazes.py": MAZE})
    job = load_job("catch-paac", ["environment={kind: own, name: mazes.Maze, arguments: {file: data.train}}"])
    assert set(make_parcel(job).files) == {JOB_FILE, "mazes.py"}


def test_a_dotted_task_below_the_working_directory_goes_with_its_package(here: Path) -> None:
    write({"own_tasks/__init__.py": "", "own_tasks/line.py": LINE_TASK, "line.yaml": "task: own_tasks.line"})
    job = load_job("line.yaml")
    assert set(make_parcel(job).files) == {JOB_FILE, "own_tasks/__init__.py", "own_tasks/line.py"}


def test_a_missing_module_of_the_user_s_is_a_line(here: Path) -> None:
    write(
        {
            "line.yaml": "task: own_nowhere.line",
            "own_broken.py": "import own_nowhere\n",
            "broken.yaml": "task: own_broken.py",
        }
    )
    with pytest.raises(FootplateError, match=r"task: unknown task 'own_nowhere\.line'; choose one of"):
        load_job("line.yaml")
    with pytest.raises(FootplateError) as raised:
        load_job("broken.yaml")
    assert str(raised.value) == (
        f"broken.yaml:1: task: {here}/own_broken.py needs the module 'own_nowhere', which is not installed; install it"
    )


def test_what_is_named_is_sent_but_for_what_is_ignored(here: Path) -> None:
    files = {"data/a.txt": "a", "data/b.log": "b", "data/deep/c.txt": "c", "data/deep/d.txt": "d", "data/.env": "KEY=1"}
    files |= {".gitignore": "*.log\n.env\n", "data/deep/.rayignore": "d.txt\n", "data/__pycache__/x.pyc": ""}
    sent = set(parcel_of_a_task(files, ["data"]).files)
    assert sent == {JOB_FILE, "own_line.py", "own_geometry.py", "data/a.txt", "data/deep/c.txt", "data/deep/.rayignore"}


def test_what_is_needed_and_ignored_is_told(here: Path) -> None:
    assert refusal({".gitignore": "own_geometry.py\n"}, []) == (
        f"{here}/own_geometry.py: is needed, and .gitignore or .rayignore leaves it out; take it out of there"
    )


@pytest.mark.parametrize(
    "name", [".env", "deep/.env.local", "id_ed25519", "server.pem", ".aws/config", "auth_token", ".ray-token-17"]
)
def test_a_file_that_looks_like_a_secret_is_refused(here: Path, name: str) -> None:
    assert refusal({f"data/{name}": "x"}, ["data"]) == (
        f"{here}/data/{name}: looks like a secret, which whoever reaches the cluster could read; "
        "name it in .rayignore, or move it elsewhere"
    )


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "key = 'AKIA" + 16 * "A" + "'",
        "token: ghp_" + 36 * "a",
        "export WANDB_API_KEY=" + 40 * "1",
        "aws_secret_access_key = " + 20 * "a/",
        "key: ASIA" + 16 * "A",
        "openai sk-" + 48 * "a",
        "sk-ant-api03-" + 80 * "a-",
    ],
)
def test_a_key_inside_a_file_is_refused(here: Path, text: str) -> None:
    assert refusal({"data/notes.txt": f"first\n{text}\n"}, ["data"]) == (
        f"{here}/data/notes.txt: holds a key, which whoever reaches the cluster could read; "
        "give it to the cluster by a file or its own environment"
    )


def test_a_file_that_holds_the_cluster_s_token_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "dev")
    assert "data/notes.txt" in parcel_of_a_task({"data/notes.txt": "device, dev-0\n"}, ["data"]).files
    monkeypatch.setenv("RAY_AUTH_TOKEN", "auto")  # a word of every job
    assert parcel_of_a_task({}, []).files
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(here / "nowhere"))  # left from another cluster
    assert parcel_of_a_task({}, []).files
    monkeypatch.setenv("RAY_AUTH_TOKEN", "dev")
    assert refusal({"data/start.sh": "export RAY_AUTH_TOKEN=dev\n"}, ["data"]) == (
        f"{here}/data/start.sh: holds a key, which whoever reaches the cluster could read; "
        "give it to the cluster by a file or its own environment"
    )


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("platform/__init__.py", "the standard library's module 'platform'"),
        ("random.py", "the standard library's module 'random'"),
        ("torch/__init__.py", "the installed module 'torch'"),
        ("yaml.py", "the installed module 'yaml'"),
        ("footplate/__init__.py", "the installed module 'footplate'"),
    ],
)
def test_a_name_that_hides_another_module_is_refused(here: Path, name: str, whose: str) -> None:
    assert refusal({name: ""}, [name.partition("/")[0]]) == (
        f"{here}/{name}: would hide {whose} from every worker; rename it"
    )


def test_a_folder_that_is_no_package_hides_nothing(here: Path) -> None:
    assert "platform/notes.txt" in parcel_of_a_task({"platform/notes.txt": "x"}, ["platform"]).files


def test_only_what_lies_below_the_working_directory_can_be_sent(here: Path) -> None:
    assert refusal({}, ["/etc/hostname"]) == (
        "--send /etc/hostname: lies outside of the working directory; start from a folder above it"
    )
    assert refusal({}, ["nothing"]) == (
        "--send nothing: there is no such file or folder; name one below the working directory"
    )
    (here / "data").mkdir()
    (here / "data" / "link").symlink_to("/etc/hostname")
    assert "data/link" not in parcel_of_a_task({}, ["data"]).files


def test_a_task_whose_file_is_no_module_s_name_is_refused(here: Path) -> None:
    write({"my-line.py": LINE_TASK, "line.yaml": "task: my-line.py"})
    with pytest.raises(FootplateError) as raised:
        make_parcel(load_job("line.yaml"))
    assert str(raised.value) == "task: my-line.py: is sent as a module, and 'my-line' is no name for one; rename it"


def test_too_much_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("footplate_cluster.parcel.LARGEST_BYTES", 10_000)
    assert refusal({"data/big": 12_000 * "x"}, ["data"]).endswith(
        "are too much for the cluster's head; put data where every node sees it"
    )


def test_the_same_files_make_the_same_bytes(here: Path) -> None:
    assert pack({"b": b"2", "a": b"1"}) == pack({"a": b"1", "b": b"2"})
    assert pack({"a": b"1"}).package != pack({"a": b"2"}).package


def test_the_wheel_holds_all_that_footplate_is(here: Path) -> None:
    wheel = footplate_wheel()
    assert footplate_wheel() == wheel
    zipfile.ZipFile(io.BytesIO(wheel.content)).extractall("unpacked")
    program = "from footplate.recipes import find_recipe; print(find_recipe('catch-paac'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(here / "unpacked")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(here / "unpacked" / "footplate_rl" / "recipes" / "catch-paac.yaml")


def test_what_is_no_part_of_footplate_stays_here(here: Path) -> None:
    write(dict.fromkeys(["a.py", "recipes/b.yaml", "py.typed", ".env", "key.pem", "notes.txt", "c.pyc", "._a.py"], ""))
    assert [path.as_posix() for path in package_files(Path())] == ["a.py", "py.typed", "recipes/b.yaml"]


@pytest.mark.parametrize(
    "text", ["AWS_SECRET_ACCESS_KEY=$SECRET", "task-" + 48 * "a", "sk-" + 10 * "word-", "AWS_SECRET_ACCESS_KEY:"]
)
def test_what_only_resembles_a_key_is_sent(here: Path, text: str) -> None:
    assert "data/notes.txt" in parcel_of_a_task({"data/notes.txt": text}, ["data"]).files
