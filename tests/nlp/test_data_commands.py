"""`footplate data stats`, `footplate data prepare`, and training from what was prepared."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from footplate.checkpoint import CheckpointStore
from footplate.cli import build_app
from footplate.context import Context
from footplate.errors import FootplateError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.step import Step
from footplate_nlp import translation
from footplate_nlp.translation import Config

TRAIN = [("ein haus", "a house"), ("das alte haus", "the old house"), ("ein haus", "a house"), ("haus haus", "house")]
VALID = [("das haus", "the house"), ("ein haus", "the old house")]


def settings(folder: Path) -> list[str]:
    for part, pairs in (("train", TRAIN), ("valid", VALID)):
        for side, suffix in enumerate(("de", "en")):
            (folder / f"{part}.{suffix}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
    return [
        f"corpus={{kind: parallel, folder: '{folder}', source: de, target: en}}",
        "longest=3",
        "model.width=16",
        "model.feed_forward_width=16",
        "updates=2",
        "evaluate.every_updates=2",
        "threads=1",
    ]


def command(*arguments: str | Path) -> tuple[str, str]:
    """What it prints, and what it complains of."""
    result = CliRunner().invoke(build_app(), [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout, result.stderr


def table(text: str) -> dict[str, list[str]]:
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return {row[0]: row[1:] for row in rows}


def test_statistics_by_hand(tmp_path: Path) -> None:
    output, complaint = command("data", "stats", "copy-transformer", *settings(tmp_path))
    rows = table(output)
    assert rows["train pairs"] == ["4"]
    assert rows["train words"] == ["9", "8"]
    assert rows["train tokens"] == ["9", "8"]
    assert rows["train length: 50 90 99 100 %"] == ["2 3 3 3", "2 3 3 3"]
    assert rows["train over longest"] == ["1 (25.00 %)"]  # three words and the end of sentence
    assert "valid over longest" not in rows  # nothing is left out there
    assert rows["train repeated pairs"] == ["1 (25.00 %)"]
    assert rows["train vocabulary used"] == ["8 (66.67 %)", "8 (66.67 %)"]  # all but the special four
    assert rows["valid unknown tokens"] == ["0 (0.00 %)", "0 (0.00 %)"]
    assert rows["valid sentences in train"] == ["1 (50.00 %)", "1 (50.00 %)"]
    assert complaint == (
        f"test: left out: {tmp_path}/test.de: cannot be opened (No such file or directory); "
        "set corpus.folder, relative to where the command runs\n"
    )


def test_statistics_of_a_run_use_its_vocabulary(tmp_path: Path) -> None:
    run = trained(tmp_path, settings(tmp_path))
    (tmp_path / "valid.de").write_text("das haus\nein auto\n")
    rows = table(command("data", "stats", run.path)[0])
    assert rows["valid unknown tokens"] == ["1 (25.00 %)", "0 (0.00 %)"]


def test_a_recipe_is_read_though_a_run_has_its_name(tmp_path: Path) -> None:
    trained(tmp_path, settings(tmp_path)).path.rename(tmp_path / "copy-transformer")
    words = [*settings(tmp_path), "vocabulary={kind: char}"]
    assert command("data", "stats", "copy-transformer", *words, "--runs", tmp_path)[0]


def test_what_changes_no_text_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, settings(tmp_path))
    with pytest.raises(FootplateError) as error:
        command("data", "stats", run.path, "evaluate.search.kind=beam")
    assert str(error.value) == "evaluate.search.kind: changes nothing in this command; leave it out"


def test_a_side_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    words = settings(tmp_path)
    lines = (tmp_path / "train.en").read_text().splitlines()
    (tmp_path / "train.en").write_text("\n".join([*lines[:2], "\u200b", *lines[3:], ""]))
    normalised = "vocabulary={kind: word, normaliser: nmt_nfkc}"
    assert problem_of([*words, normalised]) == (
        "corpus: training pair 3: nothing is left of its target '\\u200b' once it is normalised; mend it or remove the "
        "pair"
    )


def test_a_recipe_without_text_has_no_statistics() -> None:
    with pytest.raises(FootplateError) as error:
        command("data", "stats", "catch-paac")
    assert str(error.value) == "catch-paac: the task paac reads no text; name a recipe of translation"


def trained(folder: Path, overrides: Sequence[str]) -> RunFolder:
    job = load_job("copy-transformer", overrides)
    run = create_run(folder / "runs", None, "run")
    run.job.write_text(job.to_yaml())
    launch(job, run)
    return run


def weights(step: Step) -> dict[str, torch.Tensor]:
    assert step.state is not None
    return dict(step.state["model"].state_dict())


def config_of(overrides: Sequence[str]) -> Config:
    config = load_job("copy-transformer", overrides).config
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize("drawn", [[], ["vocabulary={kind: bpe, size: 280, bpe_dropout: 0.3}"]])
def test_a_run_from_prepared_text_is_the_run_without(drawn: list[str], tmp_path: Path) -> None:
    overrides = [*settings(tmp_path), "longest=50", *drawn]
    folder = tmp_path / "prepared"
    said, _ = command("data", "prepare", "copy-transformer", *overrides, "--to", folder)
    assert said.startswith(f"{folder}: 4 pairs, ")
    assert said.splitlines()[1] == "footplate train " + shlex.join(
        ["copy-transformer", *overrides, f"prepared={folder}"]
    )
    assert [path.name for path in tmp_path.glob(".prepared*")] == []
    run = create_run(tmp_path / "runs", None, "run")
    *_, with_it = translation.train(config_of([*overrides, f"prepared={folder}"]), Context(folder=run.path))
    *_, without = translation.train(config_of(overrides), Context())
    assert not (run.path / "data").exists()
    assert all(torch.equal(tensor, weights(without)[name]) for name, tensor in weights(with_it).items())


def test_a_run_from_prepared_text_goes_on(tmp_path: Path) -> None:
    overrides = [*settings(tmp_path), f"prepared={tmp_path / 'prepared'}"]
    command("data", "prepare", "copy-transformer", *settings(tmp_path), "--to", tmp_path / "prepared")
    run = trained(tmp_path, [*overrides, "save.every_updates=1"])
    checkpoint = CheckpointStore(run.checkpoints).at(1)
    *_, resumed = translation.train(config_of(overrides), Context(checkpoint=checkpoint))
    *_, whole = translation.train(config_of(overrides), Context())
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())


def problem_of(overrides: Sequence[str], context: Context | None = None) -> str:
    with pytest.raises(FootplateError) as error:
        list(translation.train(config_of(overrides), context or Context()))
    return str(error.value)


def test_prepared_text_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    overrides = [*settings(tmp_path), f"prepared={folder}"]
    assert problem_of(overrides) == f"prepared: {folder} holds no corpus.json; make it with `footplate data prepare`"
    bpe = "vocabulary={kind: bpe, size: 280}"
    command("data", "prepare", "copy-transformer", *settings(tmp_path), bpe, "--to", folder)
    assert problem_of(overrides) == (
        f"prepared: {folder} was made with other vocabulary settings; prepare it anew, or leave this key out"
    )
    assert problem_of([*overrides, bpe, "vocabulary.bpe_dropout=0.1", "longest=50"]) == (
        f"prepared: {folder} was made without the text that segmentations are drawn from; "
        "prepare it anew with the recipe as it is now"
    )
    (tmp_path / "dev.de").write_text("das haus\n")
    (tmp_path / "dev.en").write_text("the house\n")
    list(translation.train(config_of([*overrides, bpe, "corpus.valid=dev", "updates=1"]), Context()))
    tokens = folder / "source.tokens"
    tokens.write_bytes(tokens.read_bytes()[:-1] + b"\1")
    assert problem_of([*overrides, bpe]) == (f"prepared: {tokens} is damaged; prepare it anew, or leave this key out")
    (tmp_path / "train.en").write_text("a\nb\nc\nd\n")
    assert problem_of([*overrides, bpe]) == (
        f"prepared: {folder} was made from other text; prepare it anew, or leave this key out"
    )


def test_preparing_over_something_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FootplateError) as error:
        command("data", "prepare", "copy-transformer", *settings(tmp_path), "--to", tmp_path)
    assert str(error.value) == f"{tmp_path}: is there already; remove it, or choose another folder with --to"


def test_preparing_text_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    overrides = settings(tmp_path)
    (tmp_path / "train.en").write_text("one line\n")
    with pytest.raises(FootplateError, match="line n of one must translate line n of the other"):
        command("data", "prepare", "copy-transformer", *overrides, "--to", tmp_path / "new" / "prepared")
    assert [*(tmp_path / "new").iterdir()] == []
