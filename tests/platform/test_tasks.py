"""Finding a task by name, by module and by file; a task that is wrong says what and where."""

import sys
from pathlib import Path

import pytest

from footplate.errors import ConfigError
from footplate.job import load_job
from footplate.tasks import TaskError, load_task, task_names

SOUND = """
from footplate.section import Section

class Config(Section):
    updates: int = 3

def train(config, context):
    yield
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def refusal(source: str | None, name: str = "mine.py") -> TaskError:
    if source is not None:
        Path(name).write_text(source)
    with pytest.raises(TaskError) as caught:
        load_task(name)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_file_is_found_beside_the_recipe_first_and_then_in_the_working_directory() -> None:
    Path("recipes").mkdir()
    Path("both.py").write_text(SOUND)
    Path("recipes/both.py").write_text(SOUND.replace("= 3", "= 4"))
    Path("only_here.py").write_text(SOUND.replace("= 3", "= 5"))
    for name, updates in (("both.py", 4), ("only_here.py", 5)):
        Path("recipes/r.yaml").write_text(f"task: {name}\n")
        assert load_job("recipes/r.yaml").updates == updates


def test_a_job_names_its_file_from_anywhere() -> None:
    Path("mine.py").write_text(SOUND)
    Path("r.yaml").write_text("task: mine.py\n")
    assert load_job("r.yaml").task == str(Path("mine.py").resolve())
    assert load_job("r.yaml", ["task=./mine.py"]).task == str(Path("mine.py").resolve())


def test_the_working_directory_of_two_tasks_of_one_name_does_not_mix_them_up() -> None:
    for folder, updates in (("a", 7), ("b", 8)):
        Path(folder).mkdir()
        Path(folder, "mine.py").write_text(SOUND.replace("= 3", f"= {updates}"))
    assert [load_task(f"{folder}/mine.py").Config.model_fields["updates"].default for folder in "ab"] == [7, 8]


def test_a_file_may_import_its_neighbours() -> None:
    Path("neighbour_of_mine.py").write_text("UPDATES = 9\n")
    Path("mine.py").write_text("from neighbour_of_mine import UPDATES\n" + SOUND.replace("= 3", "= UPDATES"))
    assert load_task("mine.py").Config.model_fields["updates"].default == 9


def test_a_dotted_module_is_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_package_of_tasks").mkdir()
    Path("my_package_of_tasks/line.py").write_text(SOUND)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert load_task("my_package_of_tasks.line").Config.model_fields["updates"].default == 3


def test_the_installed_tasks_are_known_by_name() -> None:
    assert {"paac", "translation"} <= set(task_names())


def test_an_unknown_task_is_told_with_the_nearest_name() -> None:
    known = ", ".join(task_names())
    choose = f"choose one of {known}, or give a dotted module or a path to a .py file"
    assert str(refusal(None, "tranlation")) == f"unknown task 'tranlation'; {choose}; did you mean translation?"
    assert str(refusal(None, "no.such.module")) == f"unknown task 'no.such.module'; {choose}"
    assert str(refusal(None, "")) == f"unknown task ''; {choose}"
    assert str(refusal(None, "..")) == f"unknown task '..'; {choose}"


def test_a_missing_file_is_told() -> None:
    text = "no such file 'mine.py'; paths are relative to the recipe or to the working directory"
    assert str(refusal(None, "mine.py")) == text
    assert str(refusal(None, "x" * 300 + ".py")).startswith("no such file 'xxx")


def test_a_task_that_lacks_something_is_told_what() -> None:
    path = Path("mine.py").resolve()
    for number, (source, text) in enumerate(
        [
            ("", f"{path} has no class Config; a task defines `class Config(Section)`"),
            ("class Config: pass", f"{path} has no class Config; a task defines `class Config(Section)`"),
            (
                SOUND.replace("def train", "def trian"),
                f"{path} has no function train; a task defines `train(config, context)`, which yields steps",
            ),
            (
                SOUND.replace("updates: int = 3", "steps: int = 3"),
                f"Config of {path} has no `updates`; add the number of updates that a run makes",
            ),
            (
                SOUND.replace("updates: int = 3", "updates: int = 3\n    seed: int = 1\n    device: str = ''"),
                f"Config of {path} defines device, seed, which each job has already; choose another name",
            ),
        ]
    ):
        name = f"mine{number}.py"
        assert str(refusal(source, name)) == text.replace("mine.py", name)


def test_updates_may_be_a_property() -> None:
    Path("mine.py").write_text(
        SOUND.replace(
            "updates: int = 3", "batches: int = 3\n    @property\n    def updates(self): return 2 * self.batches"
        )
    )
    Path("r.yaml").write_text("task: mine.py\n")
    assert load_job("r.yaml").updates == 6


def test_a_module_that_the_task_misses_is_named_and_the_cause_is_kept() -> None:
    error = refusal("import no_such_dependency.part\n")
    path = Path("mine.py").resolve()
    assert str(error) == f"{path} needs the module 'no_such_dependency', which is not installed; install it"
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_module_that_a_dotted_task_misses_is_not_taken_for_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("task_with_a_gap.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    with pytest.raises(TaskError) as caught:
        load_task("task_with_a_gap")
    assert str(caught.value) == (
        "task_with_a_gap needs the module 'no_such_dependency', which is not installed; install it"
    )


def test_an_error_inside_a_task_keeps_its_place_and_its_cause() -> None:
    path = Path("mine.py").resolve()
    error = refusal("x = 1\ny = undefined\n")
    assert str(error) == f"importing {path} failed: NameError: name 'undefined' is not defined ({path}:2)"
    assert isinstance(error.__cause__, NameError)
    assert load_again_after_mending("mine.py") == 3
    error = refusal("x = (\n", "broken.py")
    path = path.with_name("broken.py")
    assert str(error) == f"importing {path} failed: SyntaxError: '(' was never closed ({path}:1)"


def load_again_after_mending(name: str) -> int:
    Path(name).write_text(SOUND)
    updates = load_task(name).Config.model_fields["updates"].default
    assert isinstance(updates, int)
    return updates


def test_a_recipe_with_a_wrong_task_is_told_its_line_and_what_else_is_wrong() -> None:
    Path("r.yaml").write_text("seed: 1.5\ntask: tranlation\nanything: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_job("r.yaml", ["threads=0"])
    known = ", ".join(task_names())
    choose = f"choose one of {known}, or give a dotted module or a path to a .py file"
    assert caught.value.problems == [
        "r.yaml:1: seed: expected a whole number, got 1.5",
        f"r.yaml:2: task: unknown task 'tranlation'; {choose}; did you mean translation?",
    ]
    Path("r.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_job("r.yaml")
    assert caught.value.problems == [f"r.yaml: task: missing; {choose}"]
    Path("r.yaml").write_text("task: [a]\n")
    with pytest.raises(ConfigError) as caught:
        load_job("r.yaml")
    assert caught.value.problems == ["r.yaml:1: task: expected the name of a task, got a list"]


def test_a_failing_task_leaves_its_traceback_to_the_reader_of_the_error() -> None:
    Path("mine.py").write_text("raise RuntimeError('no')\n")
    Path("r.yaml").write_text("task: mine.py\n")
    with pytest.raises(ConfigError) as caught:
        load_job("r.yaml")
    assert isinstance(caught.value.__cause__, TaskError)
    assert isinstance(caught.value.__cause__.__cause__, RuntimeError)
