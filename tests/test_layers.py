"""The house rules that a tool can hold: import direction, what a run must not import, names and sizes."""

import ast
import platform
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for shelf in ("platform", "nlp", "rl", "cluster", "benchmarks", "tests")
    for path in (ROOT / shelf).rglob("*.py")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]
PACKAGES = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in {"platform", "nlp", "rl", "cluster"}]
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "base", "manager"}


def python(program: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_imports_point_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_cluster_package_names_ray() -> None:
    outside = [
        path
        for path in SOURCES
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in {"platform", "nlp", "rl"}
    ]
    naming = [path for path in outside if "import ray" in path.read_text() or "from ray" in path.read_text()]
    assert len(outside) > 20
    assert naming == []


def test_platform_is_the_standard_library_s_when_python_starts_at_the_root() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert python("import platform; print(platform.python_version())") == platform.python_version()


def test_no_folder_of_tests_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["copy-transformer", "catch-paac"])
def test_a_run_in_this_process_imports_no_ray_wandb_fsspec_or_torchs_compiler(recipe: str, tmp_path: Path) -> None:
    program = f"""
import sys
sys.argv = ["footplate", "train", "{recipe}", "--debug", "--runs", {str(tmp_path)!r}]
from footplate.cli import build_app
build_app()(standalone_mode=False)
heavy = ("ray", "wandb", "tensorboard", "torch._dynamo", "fsspec")
print([name for name in heavy if name in sys.modules])
"""
    assert python(program).splitlines()[-1] == "[]"


def test_help_needs_neither_torch_nor_numpy() -> None:
    program = """
import sys
from footplate.cli import build_app
build_app()
print(sorted(name for name in sys.modules if name in ("torch", "numpy", "pydantic", "rich.console", "ray")))
"""
    assert python(program) == "[]"


def test_files_are_short_enough_to_be_read() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > 500} == {}


def test_functions_are_short_enough_to_be_read() -> None:
    too_long, too_many = [], []
    for path in PACKAGES:
        is_command = path.stem.endswith(("command", "commands"))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = node.body[0].lineno if is_command else node.lineno
            if (node.end_lineno or 0) - first + 1 > (100 if node.name == "train" else 60):
                too_long.append((path.name, node.name))
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len([name for name in names if name not in ("self", "cls")]) > 8 and not is_command:
                too_many.append((path.name, node.name))
    assert (too_long, too_many) == ([], [])


def test_every_package_that_is_imported_is_one_that_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    asked = {normal(re.split(r"[^\w.-]", line)[0]) for line in project["dependencies"] + extras}
    imported = set()
    for path in PACKAGES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    own = {path.relative_to(ROOT).parts[1] for path in PACKAGES}
    owners = packages_distributions()
    others = imported - own - set(sys.stdlib_module_names)
    assert len(others) > 15
    assert {name for name in others if not asked & {normal(owner) for owner in owners.get(name, [name])}} == set()


def normal(distribution: str) -> str:
    return re.sub("[-_.]+", "-", distribution).lower()


def test_files_are_named_after_what_they_hold() -> None:
    assert [path for path in SOURCES if path.stem in EMPTY_NAMES] == []
