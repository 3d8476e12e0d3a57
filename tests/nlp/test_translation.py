"""The task from recipe to raw text: training, resuming, ranks, evaluation, averaging, translating."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.cli import build_app
from footplate.context import Context
from footplate.errors import CheckpointError, ConfigError, FootplateError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.step import Step
from footplate_nlp import translation
from footplate_nlp.averaging import average_checkpoints, latest_checkpoints
from footplate_nlp.beam import BeamConfig
from footplate_nlp.sampling import SampleConfig
from footplate_nlp.translation import Config
from footplate_nlp.translator import Translator, open_translator

TINY = [
    "corpus.symbols=5",
    "corpus.longest=5",
    "corpus.train_pairs=200",
    "corpus.valid_pairs=20",
    "corpus.test_pairs=10",
    "model.width=16",
    "model.feed_forward_width=16",
    "batch_tokens=200",
    "updates=6",
    "evaluate.every_updates=3",
    "threads=1",
]


def config_of(overrides: Sequence[str] = ()) -> Config:
    config = load_job("copy-transformer", [*TINY, *overrides]).config
    assert isinstance(config, Config)
    return config


def last(config: Config, context: Context) -> Step:
    return list(translation.train(config, context))[-1]


def weights(step: Step) -> dict[str, torch.Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished tiny run with the checkpoints of its updates 2, 4 and 6."""
    job = load_job("copy-transformer", [*TINY, "save.every_updates=2", "save.keep_last=3"])
    folder = create_run(tmp_path_factory.mktemp("runs"), "tiny", "tiny")
    folder.job.write_text(job.to_yaml())
    launch(job, folder)
    return folder


def checkpoints(folder: RunFolder) -> list[Checkpoint]:
    store = CheckpointStore(folder.checkpoints)
    return [store.at(update) for update in store.updates()]


def translate(folder: RunFolder, text: bytes, *options: str) -> str:
    """What `footplate translate` prints."""
    result = CliRunner().invoke(build_app(), ["translate", str(folder.path), *options], input=text)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_there_is_one_step_for_each_update_and_news_of_evaluations_between() -> None:
    steps = list(translation.train(config_of(), Context()))
    updates = [step for step in steps if step.activity is None]
    assert [step.update for step in updates] == [1, 2, 3, 4, 5, 6]
    assert [step.update for step in updates if "eval/bleu" in step.metrics] == [3, 6]
    assert all(step.state is not None and step.work["target_tokens"] > 0 for step in updates)
    progress = [step.activity for step in steps if step.activity is not None]
    assert progress[-1].done == progress[-1].total == 20


def test_the_last_update_is_evaluated_also_out_of_turn() -> None:
    assert "eval/loss" in last(config_of(["updates=2"]), Context()).metrics


def test_samples_show_source_reference_and_output() -> None:
    samples = last(config_of(["evaluate.samples=2"]), Context()).media["samples"]
    assert samples.columns == ("source", "reference", "output")  # type: ignore[union-attr]
    assert [row[0] == row[1] for row in samples.rows] == [True, True]  # type: ignore[union-attr]


def test_a_resumed_run_has_the_same_weights_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    dropout = config_of(["model.dropout=0.1", "update.accumulate=2"])
    whole = weights(last(dropout, Context(folder=tmp_path)))
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in translation.train(dropout, Context(folder=tmp_path)):
        if step.update == 4 and step.state is not None:
            store.save(4, step.state)
            break
    store.close()
    resumed = last(dropout, Context(folder=tmp_path, checkpoint=store.at(4)))
    assert resumed.update == 6
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(resumed).items())


RANK = """
import sys
from datetime import timedelta
import torch
from torch import distributed
from footplate.context import Context
from footplate.job import load_job
from footplate_nlp import translation

torch.set_num_threads(1)
rank, ranks, folder, *overrides = sys.argv[1:]
store = f"file://{folder}/store"
distributed.init_process_group("gloo", store, timedelta(seconds=60), world_size=int(ranks), rank=int(rank))
config = load_job("copy-transformer", overrides).config
*_, last = translation.train(config, Context(precision="fp64", rank=int(rank), ranks=int(ranks)))
weights = {name: tensor.clone() for name, tensor in last.state["model"].state_dict().items()}
metrics = {name: value for name, value in last.metrics.items() if name.startswith("eval/")}
torch.save({"weights": weights, "metrics": metrics}, f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("switches", [[], ["model.copying=true", "coverage_loss=1.0", "ema_decay=0.9"]])
def test_two_ranks_train_and_evaluate_as_one_does(switches: list[str], tmp_path: Path) -> None:
    overrides = [*TINY, "update.accumulate=2", "evaluate.search.kind=beam", *switches]
    processes = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), "2", str(tmp_path), *overrides]) for rank in (0, 1)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    whole = last(config_of(["evaluate.search.kind=beam", *switches]), Context(precision="fp64"))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, tensor in weights(whole).items():
            assert torch.allclose(tensor, found["weights"][name], rtol=1e-9, atol=1e-12)
        for name, value in found["metrics"].items():
            assert value == pytest.approx(whole.metrics[name], rel=1e-9)


def test_accumulation_does_not_change_the_result() -> None:
    context = Context(precision="fp64")
    once = weights(last(config_of(), context))
    thrice = weights(last(config_of(["update.accumulate=3"]), context))
    for name, tensor in once.items():
        assert torch.allclose(tensor, thrice[name], rtol=1e-9, atol=1e-12)


def test_evaluation_of_a_checkpoint_repeats_what_training_saw(run_folder: RunFolder) -> None:
    config = load_job(run_folder.job).config
    assert isinstance(config, Config)
    *_, seen = translation.train(config, Context())
    context = Context(checkpoint=checkpoints(run_folder)[-1])
    *_, found = translation.evaluate(config, context)
    assert found.update == 6
    seen_metrics = {name: value for name, value in seen.metrics.items() if name.startswith("eval/")}
    assert {*seen_metrics} == translation.evaluated_metrics(config)
    assert {name: found.metrics[name] for name in seen_metrics} == seen_metrics
    assert {*found.metrics} - {*seen_metrics} == {"eval/chrf_plus_plus", "eval/ter"}


def test_the_test_split_is_other_text(run_folder: RunFolder) -> None:
    config = load_job(run_folder.job, ["evaluate.split=test"]).config
    assert isinstance(config, Config)
    *progress, _ = translation.evaluate(config, Context(checkpoint=checkpoints(run_folder)[-1]))
    assert progress[-1].activity is not None
    assert progress[-1].activity.total == 10


def test_evaluating_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError) as error:
        list(translation.evaluate(config_of(), Context()))
    assert str(error.value) == "evaluate: there is no checkpoint to restore; name one of a trained run"


def test_an_average_is_the_mean_of_each_weight(run_folder: RunFolder) -> None:
    three = checkpoints(run_folder)
    assert [checkpoint.update for checkpoint in three] == [2, 4, 6]
    average = average_checkpoints(three)
    for name, tensor in average.items():
        stack = torch.stack([checkpoint.load_module_state("model")[name].double() for checkpoint in three])
        assert torch.equal(tensor, stack.mean(0).to(tensor.dtype))


def test_an_average_of_one_is_that_one(run_folder: RunFolder) -> None:
    checkpoint = checkpoints(run_folder)[1]
    assert latest_checkpoints(checkpoint, 1)[0].update == 4
    one = average_checkpoints([checkpoint])
    assert all(torch.equal(tensor, one[name]) for name, tensor in checkpoint.load_module_state("model").items())


def test_an_average_of_more_than_there_are_is_refused(run_folder: RunFolder) -> None:
    with pytest.raises(CheckpointError) as error:
        latest_checkpoints(checkpoints(run_folder)[1], 3)
    assert str(error.value) == (
        f"average: 3 checkpoints in a row are wanted up to update 4, but {run_folder.checkpoints} has 2; "
        "add --checkpoint last, or average fewer"
    )
    with pytest.raises(CheckpointError) as error:
        latest_checkpoints(checkpoints(run_folder)[2], 4)
    assert str(error.value) == (
        f"average: 4 checkpoints in a row are wanted up to update 6, but {run_folder.checkpoints} has 3; "
        "train with save.keep_last=4, or average fewer"
    )


def translator_of(folder: RunFolder, search: BeamConfig | SampleConfig, average: int = 1) -> Translator:
    config = load_job(folder.job, [f"average={average}"]).config
    assert isinstance(config, Config)
    model, vocabulary, _ = translation.restore_model(config, Context(checkpoint=checkpoints(folder)[-1]))
    return Translator(model, vocabulary, search, Context())


LINES = ["a b c", "", "e d", "a a a a b", "c", "b c d e"]


@pytest.mark.parametrize("search", [BeamConfig(size=3, n_best=2), SampleConfig(samples=2)])
def test_lines_keep_their_order_and_do_not_depend_on_how_they_are_handed_over(
    run_folder: RunFolder, search: BeamConfig | SampleConfig
) -> None:
    together = translator_of(run_folder, search)(LINES)
    one_by_one = translator_of(run_folder, search)
    alone = [one_by_one([line])[0] for line in LINES]
    assert [[found.text for found in line] for line in together] == [[found.text for found in line] for line in alone]
    assert [len(line) for line in together] == [2, 1, 2, 2, 2, 2]
    for line in together:
        assert [found.score for found in line] == sorted((found.score for found in line), reverse=True)


def test_an_empty_line_is_translated_by_an_empty_line(run_folder: RunFolder) -> None:
    ((found,),) = translator_of(run_folder, BeamConfig())(["  "])
    assert (found.text, found.score, found.parts) == ("", 0.0, 0)


def test_a_very_long_line_is_translated_in_parts(run_folder: RunFolder) -> None:
    translator = translator_of(run_folder, BeamConfig(size=2))
    translator.longest = 4
    (whole,), *parts = translator(["a b c d e a b c d e", "a b c", "d e a", "b c d e"])
    assert whole.parts == 3
    assert whole.text == " ".join(found[0].text for found in parts)
    assert whole.score == pytest.approx(sum(found[0].score for found in parts))


def test_translate_reads_raw_text_and_writes_raw_text(run_folder: RunFolder) -> None:
    lines = translate(run_folder, b"a b c\n\ne d", "--beam", "2", "--average", "3").split("\n")
    expected = translator_of(run_folder, BeamConfig(size=2), average=3)(["a b c", "", "e d"])
    assert lines == [*(found[0].text for found in expected), ""]


def test_translate_lists_the_best_few_with_scores(run_folder: RunFolder) -> None:
    output = translate(run_folder, b"a b c\ne d\n", "--beam", "3", "--n-best", "2", "--length-penalty", "0.5")
    rows = [line.split("\t") for line in output.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "2", "2"]
    assert float(rows[0][1]) >= float(rows[1][1])


@pytest.mark.parametrize("several", [("kind=beam", "n_best=3"), ("kind=sample", "samples=3")])
def test_translate_prints_one_line_for_each_though_the_recipe_keeps_several(
    run_folder: RunFolder, several: tuple[str, str]
) -> None:
    overrides = [f"evaluate.search.{each}" for each in several]
    config = load_job(run_folder.job, overrides).config
    assert isinstance(config, Config)
    expected = open_translator(config, Context(checkpoint=checkpoints(run_folder)[-1]))(["a b c", "", "e d"])
    assert [len(found) for found in expected] == [3, 1, 3]
    lines = translate(run_folder, b"a b c\n\ne d\n", "--checkpoint", "last", *overrides).split("\n")
    assert lines == [*(found[0].text for found in expected), ""]


@pytest.mark.parametrize("options", [(), ("--beam", "2")])
def test_a_run_of_another_task_translates_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    folder = create_run(tmp_path, "line", "line")
    task = Path(__file__).parents[1] / "platform" / "line_task.py"
    folder.job.write_text(f"task: {task}\n")
    with pytest.raises(FootplateError) as error:
        translate(folder, b"a\n", *options)
    assert str(error.value) == f"translate: a run of the task {task} translates nothing; name a run of translation"
    assert error.value.exit_code == 2


def test_samples_repeat_with_the_seed_and_differ_with_another(run_folder: RunFolder) -> None:
    options = ["--sample", "--temperature", "2", "--top-p", "0.9", "--top-k", "7"]
    first, again, other = (translate(run_folder, b"a b c\n" * 20, *options, f"seed={seed}") for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first.splitlines())) > 1


def test_bad_bytes_on_standard_input_are_refused_with_their_line(run_folder: RunFolder) -> None:
    with pytest.raises(FootplateError) as error:
        translate(run_folder, b"a b\nc \xff d\n")
    assert str(error.value) == "standard input:2: byte 3 is not valid UTF-8 (0xff); convert the text to UTF-8"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ["--sample", "--beam", "2"],
            "--sample: draws tokens, so there is no --beam, no --length-penalty and no --stop; leave one out",
        ),
        (["--top-k", "3"], "--top-k: is for sampling; add --sample, or leave it out"),
        (["--n-best", "2"], "--n-best: 2 translations need a beam; add --beam 2 or more, or --sample"),
        (
            ["--beam", "2", "--n-best", "3"],
            "--n-best: 3 translations are more than a beam of 2 has; raise --beam to 3 or more",
        ),
        (
            ["--sample", "--temperature", "0"],
            "--temperature: 0 is out of range; give a number from 0.000001 to 1000000",
        ),
        (
            ["--sample", "--temperature", "inf"],
            "--temperature: inf is out of range; give a number from 0.000001 to 1000000",
        ),
        (["--sample", "--top-p", "0"], "--top-p: 0 is out of range; give a number above 0 and at most 1"),
        (["--sample", "--top-p", "1.5"], "--top-p: 1.5 is out of range; give a number above 0 and at most 1"),
        (["--sample", "--top-p", "nan"], "--top-p: nan is out of range; give a number above 0 and at most 1"),
        (["--sample", "--top-k", "0"], "--top-k: 0 is out of range; give a whole number above 0"),
        (
            ["--beam", "2", "--length-penalty", "-1"],
            "--length-penalty: -1 is out of range; give a number from 0 to 10",
        ),
        (
            ["--beam", "3", "--length-penalty", "400"],
            "--length-penalty: 400 is out of range; give a number from 0 to 10",
        ),
        (
            ["--sample", "--temperature", "1e-40"],
            "--temperature: 1e-40 is out of range; give a number from 0.000001 to 1000000",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_by_their_own_names(
    run_folder: RunFolder, options: list[str], problem: str
) -> None:
    with pytest.raises(FootplateError) as error:
        translate(run_folder, b"a\n", *options)
    assert str(error.value) == problem


def test_combinations_that_cannot_work_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"model\.tie: all shares one matrix between source and target, but"):
        config_of(["vocabulary.joint=false"])
    assert config_of(["vocabulary.joint=false", "model.tie=target"]).vocabulary.joint is False
    for better, metric, mend in [("higher", "loss", "lower"), ("lower", "bleu", "higher")]:
        with pytest.raises(ConfigError) as error:
            config_of(["schedule.kind=plateau", f"schedule.better={better}", f"plateau_metric={metric}"])
        assert str(error.value).endswith(
            f"schedule.better: {better} does not suit plateau_metric {metric}; set it to {mend}, or leave it out"
        )


def test_a_plateau_takes_its_direction_from_the_metric_that_it_watches() -> None:
    every = ["schedule.kind=plateau", "schedule.warmup_updates=0", "evaluate.every_updates=1"]
    config = config_of([*every, "schedule.patience_evaluations=1", "optimizer.learning_rate=0.002"])
    steps = [step for step in translation.train(config, Context()) if step.activity is None]
    losses = [step.metrics["eval/loss"] for step in steps]
    assert losses == sorted(losses, reverse=True)  # type: ignore[type-var]
    assert {step.metrics["train/learning_rate"] for step in steps} == {0.002}
    assert config_of([*every, "plateau_metric=bleu"]).plateau_better == "higher"
