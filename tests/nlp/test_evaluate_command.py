"""`footplate evaluate` on translators: what it keeps in the run folder, and one run against another."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from footplate.checkpoint import CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError
from footplate.evaluation import evaluate_run
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.step import Step
from footplate_nlp import translation
from footplate_nlp.evaluation import Evaluated, hold_out
from footplate_nlp.evaluation import evaluate as evaluate_model
from footplate_nlp.translation import Config, restore_model, train

TINY = [
    "corpus.symbols=5",
    "corpus.longest=5",
    "corpus.train_pairs=200",
    "corpus.valid_pairs=16",
    "corpus.test_pairs=10",
    "model.width=16",
    "model.feed_forward_width=16",
    "evaluate.search.length.factor=1",
    "evaluate.search.length.extra=2",
    "batch_tokens=200",
    "evaluate.every_updates=20",
    "track.every_updates=20",
    "save.keep_last=2",
    "threads=1",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs: `good`, `early` (another vocabulary and a smaller model), `reversed`, on another corpus, and
    `averaged`, with a moving average of its weights.
    """
    runs = tmp_path_factory.mktemp("runs")
    for name, overrides in (
        ("good", ["updates=40"]),
        ("early", ["updates=20", "seed=2", "vocabulary.kind=char", "model.width=8"]),
        ("reversed", ["updates=2", "corpus.reverse=true"]),
        ("averaged", ["updates=2", "ema_decay=0.99"]),
    ):
        job = load_job("copy-transformer", [*TINY, *overrides])
        folder = create_run(runs, name, name)
        folder.write_job(job.to_yaml())
        launch(job, folder)
    return runs


def evaluate(runs: Path, name: str, *overrides: str, checkpoint: str = "last") -> dict[str, float]:
    return evaluate_run(RunFolder(runs / name), overrides, checkpoint)


def kept(runs: Path, name: str, evaluation: str) -> dict[str, list[list[str]]]:
    """The tables of an evaluation that was kept."""
    content = json.loads((runs / name / "evaluations" / evaluation / "scores.json").read_text())
    tables: dict[str, list[list[str]]] = content["tables"]
    return tables


def test_what_is_kept_gives_the_score_again(runs: Path) -> None:
    metrics = evaluate(runs, "good", "evaluate.split=test")
    place = runs / "good" / "evaluations" / "test-000040"
    outputs, references = ((place / f"{name}.txt").read_text().splitlines() for name in ("outputs", "references"))
    assert BLEU(force=True).corpus_score(outputs, [references]).score == metrics["eval/bleu"]
    scores = json.loads((place / "scores.json").read_text())["scores"]
    assert {f"eval/{name}": score["value"] for name, score in scores.items()} | {
        "eval/perplexity": metrics["eval/perplexity"]
    } == metrics


def evaluated(runs: Path, name: str, *overrides: str, training: bool = False) -> Evaluated:
    """What the last checkpoint is found to be in double precision, the model being in training mode or not."""
    config = load_job(runs / name / "job.yaml", overrides).config
    assert isinstance(config, Config)
    store = CheckpointStore(runs / name / "checkpoints")
    context = Context(checkpoint=store.at(max(store.updates())), precision="fp64")
    model, vocabulary, update = restore_model(config, context)
    model.train(training)
    held = hold_out(config.corpus, config.evaluate, vocabulary)
    box: list[Evaluated] = []

    def steps() -> Iterator[Step]:
        box.append((yield from evaluate_model(model, vocabulary, held, config.evaluate, context, update)))

    list(steps())
    assert all(part.training == training for part in model.modules())
    return box[0]


def test_an_evaluation_leaves_the_model_in_the_mode_that_it_found(runs: Path) -> None:
    found = [evaluated(runs, "early", training=training) for training in (False, True)]
    assert found[0].outputs == found[1].outputs
    assert found[0].metrics == found[1].metrics


def test_outputs_that_were_ended_at_their_maximum_length_are_reported(runs: Path) -> None:
    assert evaluated(runs, "good").metrics["eval/truncated"] < 100
    # One token is the end of sentence, so that nothing else is ever written.
    cut = evaluated(runs, "good", "evaluate.search.length.maximum=1")
    assert cut.metrics["eval/truncated"] == 100
    assert set(cut.outputs) == {""}


def test_each_sentence_has_its_own_loss_and_output_whatever_the_batch(runs: Path) -> None:
    def found(batch_tokens: int) -> Evaluated:
        return evaluated(runs, "good", f"evaluate.batch_tokens={batch_tokens}")

    together, alone = found(4096), found(1)
    assert together.outputs == alone.outputs
    assert together.scores["loss"].counts_NC == pytest.approx(alone.scores["loss"].counts_NC, rel=1e-12)
    assert len(np.unique(alone.scores["loss"].counts_NC[:, 0])) > 10


def test_another_search_is_kept_beside_and_another_table_in_the_same_place(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "good", tmp_path / "good")
    for overrides in ([], ["evaluate.search.kind=beam"], ["report.worst=2", "evaluate.search.kind=beam"]):
        evaluate(tmp_path, "good", *overrides)
    names = {path.name for path in (tmp_path / "good" / "evaluations").iterdir()}
    assert names - {"test-000040"} == {"valid-000040", "valid-000040-2"}
    assert len(kept(tmp_path, "good", "valid-000040")["worst"]) == 1 + 5
    assert len(kept(tmp_path, "good", "valid-000040-2")["worst"]) == 1 + 2


def test_the_screen_shows_every_table_and_where_things_are(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(runs, "good", "report.against=early", "report.resamples=20", "evaluate.samples=1")
    lines = capsys.readouterr().out.splitlines()
    titles = [line.partition(" after")[0] for line in lines if " after update 40" in line]
    assert titles == ["scores", "lengths", "against", "worst", "samples"]
    assert any(line.startswith("texts and scores are kept in ") for line in lines)


def against(runs: Path, name: str, other: str) -> dict[str, list[str]]:
    evaluate(runs, name, f"report.against='{other}'")
    update = max(int(path.name) for path in (runs / name / "checkpoints").iterdir() if path.name.isdecimal())
    head, *rows = kept(runs, name, f"valid-{update:06d}")["against"]
    assert head == ["metric", "this run", other, "difference", "95 % interval", "p"]
    return {row[0]: row[1:] for row in rows}


def test_one_run_against_another_and_back(runs: Path) -> None:
    there, back = against(runs, "good", "early@last"), against(runs, "early", "good@last")
    assert list(there) == ["bleu", "chrf", "chrf_plus_plus", "ter", "exact_match", "token_accuracy", "truncated"]
    alone = evaluate(runs, "early")
    for name, (this, other, difference, _, p) in there.items():
        assert back[name][:2] == [other, this]
        assert float(back[name][2]) == -float(difference)
        assert back[name][4] == p
        assert other == f"{alone[f'eval/{name}']:.2f}"


def test_a_run_against_itself_differs_in_nothing_and_against_its_past_in_something(runs: Path) -> None:
    for _, _, difference, interval, p in against(runs, "good", "good@last").values():
        assert (difference, interval, p) == ("+0.00", "+0.00 to +0.00", "1.000")
    past = against(runs, "good", "@20")
    assert float(past["chrf"][2]) != 0


def problem(runs: Path, *overrides: str, name: str = "good") -> str:
    with pytest.raises(FootplateError) as error:
        evaluate(runs, name, *overrides)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("nobody", "nobody: no such run under {runs} (and no such folder with a job.yaml); `footplate runs` lists "
         "them"),
        ("early@40", "early has none of update 40; there are: 20"),
        ("reversed", "its pair 1 is not this run's, and only scores of the same pairs can be compared; name a run with "
         "the same corpus"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_compared_with_is_refused(runs: Path, other: str, said: str) -> None:
    assert problem(runs, f"report.against={other}") == f"report.against: {said.format(runs=runs)}"


def test_resamples_without_another_run_are_refused(runs: Path) -> None:
    assert problem(runs, "report.resamples=20") == (
        "command line: report: resamples: 20 draws compare two runs, and there is no other; set report.against, or "
        "leave this out"
    )


def test_a_run_of_another_task_cannot_be_compared_with(runs: Path) -> None:
    folder = create_run(runs, "line", "line")
    task = Path(__file__).parents[1] / "platform" / "line_task.py"
    folder.write_job(f"task: {task}\n")
    assert problem(runs, "report.against=line") == (
        f"report.against: a run of the task {task} translates nothing; name a run of translation"
    )


def test_an_average_of_the_weights_that_was_not_kept_is_refused(runs: Path) -> None:
    assert problem(runs, "ema_decay=0.5", name="averaged") == (
        "ema_decay: 0.5, but the run was trained with 0.99; leave it out, or set it to 0 for the weights themselves"
    )
    assert problem(runs, "ema_decay=0.5") == (
        "ema_decay: 0.5, but the run was trained without a moving average; leave it out"
    )
    own, plain = (evaluate(runs, "averaged", f"ema_decay={decay}")["eval/loss"] for decay in (0.99, 0))
    assert own == evaluate(runs, "averaged")["eval/loss"] != plain


@pytest.mark.parametrize(
    ("override", "key"), [("ensemble=[nosuch]", "ensemble"), ("report.against=nosuch", "report.against")]
)
def test_what_only_an_evaluation_can_do_is_refused_in_training(override: str, key: str) -> None:
    config = load_job("copy-transformer", [*TINY, override]).config
    assert isinstance(config, Config)
    with pytest.raises(FootplateError) as error:
        next(train(config, Context()))
    assert str(error.value) == (
        f"{key}: other checkpoints play no part in training; leave it out, and name them to footplate evaluate"
    )


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["evaluate.prefix=a b c d", "evaluate.search.length.extra=0"],
            "evaluate.prefix: sentence {row} of valid: a forced prefix of 4 tokens and the end of sentence are more "
            "than its output may have ({words}); shorten the prefix, or raise evaluate.search.length",
        ),
        (
            ["evaluate.prefix=never"],
            "evaluate.prefix: 'never' has what the target vocabulary does not know; begin with words that it knows",
        ),
    ],
)
def test_a_prefix_that_cannot_be_is_refused_before_training(overrides: list[str], problem: str) -> None:
    config = load_job("copy-transformer", [*TINY, *overrides]).config
    assert isinstance(config, Config)
    lengths = [len(source.split()) for source, _ in config.corpus.pairs("valid")]  # type: ignore[union-attr]
    row = next(row for row, words in enumerate(lengths) if words + 1 <= 4)
    with pytest.raises(FootplateError) as error:
        next(translation.train(config, Context()))
    assert str(error.value) == problem.format(row=row + 1, words=lengths[row] + 1)


def test_when_training_evaluates_is_not_asked_of_a_trained_run(runs: Path) -> None:
    with pytest.raises(FootplateError) as error:
        evaluate(runs, "good", "evaluate.every_updates=3")
    assert str(error.value) == "evaluate.every_updates: changes nothing once a run is trained; leave it out"
