"""A job is plain data: it prints, pickles, and repeats itself from its `job.yaml`."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from footplate.errors import ConfigError
from footplate.job import Best, Job, Stop, job_from_yaml, load_job, read_job
from footplate.section import Section

TASK = """
from pathlib import Path
from footplate.section import Every, Section

class Config(Section):
    updates: int = 3
    epsilon: float = 1e-9
    sizes: tuple[int, ...] = (1, 2)
    folder: Path | None = None
    evaluate: Every = Every(every_updates=2)

def train(config, context):
    yield
"""


class Plain(Section):
    updates: int = 3


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(TASK)
    path = tmp_path / "small.yaml"
    path.write_text("task: small.py\nabout: 'on: {no}, é'\nepsilon: 1e-12\nfolder: a/b\nbest: {metric: eval/bleu}\n")
    return path


def test_loading_what_a_job_wrote_gives_an_equal_job(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["sizes=[]", "track.wandb.tags=[on, '1']", "stop.target=1e30"])
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "job.yaml"
    path.write_text(job.to_yaml(), encoding="utf-8")
    assert read_job(path) == job
    assert read_job(str(path)) == job


def test_a_job_is_written_flat_in_order_with_every_default(recipe: Path) -> None:
    assert load_job(recipe).to_yaml() == (
        f"task: {recipe.with_name('small.py').resolve()}\n"
        "about: 'on: {no}, é'\n"
        "seed: 1\n"
        "on: here\n"
        "address: null\n"
        "device: auto\n"
        "precision: fp32\n"
        "threads: null\n"
        "deterministic: false\n"
        "debug: false\n"
        "resources:\n  workers: 1\n  cpus_per_worker: 1\n  gpus_per_worker: 0\n  cpus_per_actor: null\n  wait: false\n"
        "faults:\n  restarts: 3\n  timeout_seconds: 1800.0\n  wait_seconds: 600.0\n"
        "best:\n  metric: eval/bleu\n  better: higher\n"
        "stop:\n  patience_evaluations: null\n  minimum_improvement: 0.0\n  target: null\n  hours: null\n"
        "save:\n  every_updates: null\n  keep_last: 2\n  keep_best: 1\n"
        "track:\n  every_updates: 1\n  tensorboard: false\n  wandb: null\n"
        "updates: 3\n"
        "epsilon: 1.0e-12\n"
        "sizes:\n  - 1\n  - 2\n"
        "folder: a/b\n"
        "evaluate:\n  every_updates: 2\n"
    )


def test_a_later_change_of_a_default_changes_no_old_job(recipe: Path, tmp_path: Path) -> None:
    written = load_job(recipe).to_yaml()
    changed = tmp_path / "changed.py"
    changed.write_text(
        TASK.replace("updates: int = 3", "updates: int = 4").replace("every_updates=2", "every_updates=9")
    )
    job = job_from_yaml(written.replace("small.py", "changed.py"))
    assert job.updates == 3
    assert job.config.model_dump()["evaluate"] == {"every_updates": 2}


def test_a_job_unpickles_in_a_process_that_has_not_seen_its_task(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe)
    assert pickle.loads(pickle.dumps(job)) == job
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))
    program = "import pickle, pathlib; print(pickle.loads(pathlib.Path('job.pickle').read_bytes()).to_yaml(), end='')"
    printed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    assert printed.stdout.decode() == job.to_yaml()


def test_reading_a_recipe_does_not_import_torch(recipe: Path) -> None:
    program = (
        "import sys; from footplate.job import load_job; from footplate.recipes import list_recipes; "
        f"load_job({str(recipe)!r}, ['seed=2']); list_recipes(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_job_cannot_be_changed() -> None:
    job = Job(task="small", config=Plain())
    with pytest.raises(ValidationError, match="frozen"):
        job.seed = 2  # type: ignore[misc]


def test_watching_no_metric_is_refused(recipe: Path) -> None:
    text = (
        "stop: patience_evaluations and target watch the best metric, and none is named; "
        "add best: {metric: NAME}, and better: lower for one such as eval/loss"
    )
    with pytest.raises(ValidationError, match="watch the best metric"):
        Job(task="small", config=Plain(), stop=Stop(target=1.0))
    with pytest.raises(ConfigError) as caught:
        load_job(recipe, ["best=", "stop.patience_evaluations=3"])
    assert caught.value.problems == [f"command line: {text}"]
    assert Job(task="small", config=Plain(), stop=Stop(target=1.0), best=Best(metric="eval/bleu")).updates == 3


def test_a_cluster_on_this_machine_takes_its_threads_and_another_the_reserved_ones(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    on_ray = ["on=ray", "resources.workers=2", "resources.cpus_per_worker=3", "threads="]
    threads = [
        load_job(recipe, [*on_ray, *where]).settled().threads for where in ([], ["address=local"], ["address=auto"])
    ]
    assert threads == [4, 4, 3]
    assert load_job(recipe, ["threads="]).settled().threads == 8
