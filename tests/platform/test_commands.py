"""The command line as a user meets it: what it prints, and how it exits."""

import subprocess
import sys
from pathlib import Path

import pytest

LINE_TASK = Path(__file__).with_name("line_task.py")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and a finished run of it."""
    folder = tmp_path_factory.mktemp("here")
    best = "best: {metric: eval/error, better: lower}"
    (folder / "line.yaml").write_text(f"task: {LINE_TASK}\nabout: fit a line\nthreads: 1\n{best}\n")
    code, output = footplate(folder, "train", "line.yaml")
    assert code == 0, output
    return folder


def footplate(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code, and all that is printed."""
    command = [sys.executable, "-m", "footplate", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


pytestmark = pytest.mark.slow


def test_a_run_ends_with_what_it_reached_and_what_to_do_next(here: Path) -> None:
    code, output = footplate(here, "train", "line.yaml", "--name", "told")
    assert code == 0
    assert "update 20/20  eval/error 1.187" in output
    assert output.splitlines()[-3:] == [
        "told: finished after 20 updates, best eval/error 1.187",
        "  run folder  runs/told",
        "  curves      footplate show told",
    ]


def test_runs_lists_state_progress_and_best(here: Path) -> None:
    code, output = footplate(here, "runs")
    assert code == 0
    row = next(line for line in output.splitlines() if line.strip().startswith("line "))
    assert row.split()[2:] == ["finished", "20/20", "eval/error", "1.187"]


def test_evaluate_scores_a_checkpoint_and_names_it(here: Path) -> None:
    code, output = footplate(here, "evaluate", "line", "--checkpoint", "15")
    assert code == 0
    assert output.splitlines()[-2] == "line, checkpoint of update 15:"
    assert output.splitlines()[-1].split() == ["eval/error", "1.3908"]


def test_a_finished_run_is_not_trained_again(here: Path) -> None:
    assert footplate(here, "resume", "line") == (0, "line: finished already, nothing to do\n")


def test_debug_shrinks_the_job(here: Path) -> None:
    code, output = footplate(here, "train", "line.yaml", "--debug", "--name", "small")
    assert code == 0
    assert "small: finished after 3 updates" in output


def test_a_failed_run_shows_the_whole_trace_and_exits_with_1(here: Path) -> None:
    code, output = footplate(here, "train", "line.yaml", "fail_at=3", "--name", "failing")
    assert code == 1
    assert f'File "{LINE_TASK}"' in output
    assert output.splitlines()[-1] == "ValueError: the line broke"


def test_a_run_that_fails_in_its_first_update_keeps_its_folder(here: Path) -> None:
    (here / "diverging.py").write_text(
        "from footplate.errors import TrainingError\n"
        "from footplate.section import Section\n"
        "class Config(Section):\n"
        "    updates: int = 1\n"
        "def train(config, context):\n"
        "    raise TrainingError('update 1: not finite')\n"
        "    yield\n"
    )
    (here / "diverging.yaml").write_text("task: diverging.py\n")
    assert footplate(here, "train", "diverging.yaml") == (1, "error: update 1: not finite\n")
    assert "update 1: not finite" in (here / "runs" / "diverging" / "log.txt").read_text()


MISTAKES = {
    "train line.yaml --name line": [
        "runs/line: a run of this name exists; choose another --name, or `footplate resume line`"
    ],
    "resume nothing": [
        "nothing: no such run under runs (and no such folder with a job.yaml); `footplate runs` lists them"
    ],
    "evaluate line --checkpoint 7": ["--checkpoint: line has none of update 7; there are: 15, 20"],
    "evaluate line --checkpoint beast": ["--checkpoint: 'beast' is neither best, last nor the number of an update"],
    "train line.yaml optimzer.kind=adam updates=many": [
        "command line: optimzer: unknown key; did you mean optimizer?",
        "command line: updates: expected a whole number, got the string 'many'",
    ],
    "train line.yaml --workers 2 --name two": ["resources.workers: 2 workers need Ray; add --on ray, or use 1 worker"],
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_each_and_exits_with_2(here: Path, command: str) -> None:
    lines = "".join(f"error: {line}\n" for line in MISTAKES[command])
    assert footplate(here, *command.split()) == (2, lines)


def test_a_job_that_cannot_start_leaves_no_run_behind(here: Path) -> None:
    footplate(here, "train", "line.yaml", "updates=many", "--name", "never")
    footplate(here, "train", "line.yaml", "--workers", "2", "--name", "neither")
    assert not (here / "runs" / "never").exists()
    assert not (here / "runs" / "neither").exists()


def test_the_job_of_a_run_repeats_it(here: Path) -> None:
    code, output = footplate(here, "train", "runs/line/job.yaml", "--name", "again")
    assert code == 0, output
    weights = [
        (here / "runs" / name / "checkpoints" / "000020" / "line.safetensors").read_bytes()
        for name in ("line", "again")
    ]
    assert weights[0] == weights[1]
