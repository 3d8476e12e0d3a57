"""`footplate tokenize`: text to pieces and back, a block of lines at a time."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from footplate.cli import build_app
from footplate.errors import FootplateError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch

LINES = "the old house\n\nthe hill\nsnow \u2603\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with two vocabularies, whose segmentations are drawn."""
    folder = tmp_path_factory.mktemp("tokenize")
    texts = ["the old house", "the hill", "old hill", "a house on the hill"]
    for part in ("train", "valid"):
        (folder / f"{part}.low").write_text("".join(f"{line}\n" for line in texts))
        (folder / f"{part}.up").write_text("".join(f"{line.upper()}\n" for line in texts))
    job = load_job(
        "copy-transformer",
        [
            f"corpus={{kind: parallel, folder: '{folder}', source: low, target: up}}",
            "vocabulary={kind: bpe, size: 284, joint: false, bpe_dropout: 0.5}",
            "model.tie=none",
            "model.width=16",
            "updates=1",
            "evaluate.every_updates=1",
            "threads=1",
        ],
    )
    created = create_run(folder / "runs", "run", "run")
    created.job.write_text(job.to_yaml())
    launch(job, created)
    return created


def tokenize(run: RunFolder, text: str | bytes, *options: str) -> str:
    result = CliRunner().invoke(build_app(), ["tokenize", str(run.path), *options], input=text)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_text_becomes_pieces_and_pieces_text(run: RunFolder) -> None:
    pieces = tokenize(run, LINES)
    assert pieces.split("\n")[0].split(" ")[0].startswith("\u2581")
    assert pieces.split("\n")[1] == ""
    assert "<0xE2> <0x98> <0x83>" in pieces.split("\n")[3]
    assert tokenize(run, pieces, "--decode") == LINES


def test_text_becomes_ids_and_ids_text(run: RunFolder) -> None:
    ids = tokenize(run, LINES, "--ids")
    assert all(int(index) > 3 for line in ids.split("\n") for index in line.split())
    assert tokenize(run, ids, "--ids", "--decode") == LINES


def test_a_byte_order_mark_is_dropped(run: RunFolder) -> None:
    assert tokenize(run, b"\xef\xbb\xbfhouse\nhouse\n") == tokenize(run, "house\nhouse\n")


def test_each_side_has_its_vocabulary(run: RunFolder) -> None:
    assert tokenize(run, "THE\n", "--side", "target") != tokenize(run, "THE\n")
    assert "<0x" in tokenize(run, "THE\n")
    assert "<0x" not in tokenize(run, "THE\n", "--side", "target")


def test_samples_differ_repeat_with_the_seed_and_spell_the_same(run: RunFolder) -> None:
    text = "the old house\n" * 30
    drawn = tokenize(run, text, "--sample")
    assert len({*drawn.splitlines()}) > 3
    assert tokenize(run, text, "--sample") == drawn != tokenize(run, text, "--sample", "seed=5")
    assert tokenize(run, drawn, "--decode") == text
    assert len({*tokenize(run, text).splitlines()}) == 1


def test_more_lines_than_are_cut_at_once_keep_their_order(run: RunFolder) -> None:
    text = "".join(f"{number} house\n" for number in range(1100))
    assert tokenize(run, tokenize(run, text), "--decode") == text


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        (
            "\nthe\n",
            ["--decode"],
            "standard input:2: 'the' is no piece of this vocabulary; give what `footplate tokenize` writes",
        ),
        (
            "5 284\n",
            ["--decode", "--ids"],
            "standard input:1: '284' is no id of this vocabulary; give what `footplate tokenize --ids` writes",
        ),
        (b"a\n\xff\n", [], "standard input:2: byte 1 is not valid UTF-8 (0xff); convert the text to UTF-8"),
        ("a\n", ["corpus.folder=x"], "corpus.folder: changes nothing in this command; leave it out"),
        ("a\n", ["evaluate.split=test"], "evaluate.split: changes nothing in this command; leave it out"),
        ("a\n", ["--decode", "--sample"], "--sample: there is nothing to draw in --decode; leave one out"),
    ],
)
def test_what_cannot_be_cut_is_refused(run: RunFolder, text: str, options: list[str], problem: str) -> None:
    with pytest.raises(FootplateError) as error:
        tokenize(run, text, *options)
    assert str(error.value) == problem


def test_a_run_that_draws_nothing_has_no_samples(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(run.job.read_text().replace("bpe_dropout: 0.5", "bpe_dropout: 0.0"))
    (tmp_path / "checkpoints").symlink_to(run.checkpoints)
    with pytest.raises(FootplateError) as error:
        tokenize(RunFolder(tmp_path), "a\n", "--sample")
    assert str(error.value) == (
        "--sample: this run draws no segmentations (vocabulary.bpe_dropout or sampling_alpha); leave it out"
    )


def test_a_run_of_another_task_has_no_vocabulary(tmp_path: Path) -> None:
    task = Path(__file__).parents[1] / "platform" / "line_task.py"
    (tmp_path / "job.yaml").write_text(f"task: {task}\n")
    with pytest.raises(FootplateError) as error:
        tokenize(RunFolder(tmp_path), "a\n")
    assert str(error.value) == f"{tmp_path}: a run of the task {task} has no vocabulary; name a run of translation"
