"""`footplate translate`: prefixes, constraints, ensembles, lines as they come."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from footplate.checkpoint import CheckpointStore
from footplate.cli import build_app
from footplate.context import Context
from footplate.errors import FootplateError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate_nlp.beam import BeamConfig
from footplate_nlp.hypothesis import Length
from footplate_nlp.sampling import SampleConfig
from footplate_nlp.search import GreedyConfig, SearchConfig
from footplate_nlp.search_flags import SearchFlags
from footplate_nlp.seq2seq import Decoding, Searchable
from footplate_nlp.streaming import LineCounter, line_blocks
from footplate_nlp.translation import Config, restore_model
from footplate_nlp.translator import Translator, longest_part, open_translator

TINY = ["corpus.symbols=5", "corpus.longest=5", "corpus.train_pairs=200", "corpus.valid_pairs=20", "model.width=16"]
TINY += ["model.feed_forward_width=16", "batch_tokens=200", "updates=2", "evaluate.every_updates=2", "threads=1"]
TINY += ["save.every_updates=1", "save.keep_last=2"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A tiny run with the checkpoints of its updates 1 and 2."""
    job = load_job("copy-transformer", TINY)
    folder = create_run(tmp_path_factory.mktemp("runs"), "tiny", "tiny")
    folder.job.write_text(job.to_yaml())
    launch(job, folder)
    return folder


def translator(folder: RunFolder, *overrides: str) -> Translator:
    config = load_job(folder.job, overrides).config
    assert isinstance(config, Config)
    return open_translator(config, Context(folder=folder.path, checkpoint=CheckpointStore(folder.checkpoints).at(2)))


def translate(folder: RunFolder, text: bytes, *options: str) -> str:
    """What `footplate translate` prints."""
    arguments = ["translate", str(folder.path), "--checkpoint", "last", *options]
    result = CliRunner().invoke(build_app(), arguments, input=text)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_prefix_begins_every_translation_but_that_of_an_empty_line(run_folder: RunFolder) -> None:
    output = translate(run_folder, b"a b c\n\ne d\n", "--prefix", "d e", "--beam", "2").split("\n")
    assert [line.split()[:2] for line in output] == [["d", "e"], [], ["d", "e"], []]


def test_each_line_may_bring_its_own_prefix_after_a_tab(run_folder: RunFolder) -> None:
    output = translate(run_folder, b"a b c\td e\ne d\nc\tb\n\tb\n", "--prefixes").split("\n")
    assert output[0].startswith("d e")
    assert output[1:3] == [
        translator(run_folder)(["e d"])[0][0].text,
        translator(run_folder)(["c"], ["b"])[0][0].text,
    ]
    assert output[2].startswith("b")
    assert output[3:] == ["", ""]


def test_the_first_part_of_a_very_long_line_gets_the_prefix(run_folder: RunFolder) -> None:
    cut = translator(run_folder)
    cut.longest = 4
    ((found,),) = cut(["a b c d e a b c d e"], ["c c"])
    assert found.parts == 3
    expected = translator(run_folder)(["a b c", "d e a", "b c d e"], ["c c", "", ""])
    assert found.text == " ".join(line[0].text for line in expected)


def test_evaluation_forces_the_prefix_too(run_folder: RunFolder) -> None:
    from footplate_nlp import translation

    config = load_job(run_folder.job, ["evaluate.prefix=c c", "evaluate.samples=20"]).config
    assert isinstance(config, Config)
    context = Context(checkpoint=CheckpointStore(run_folder.checkpoints).at(2))
    *_, step = translation.evaluate(config, context)
    assert all(row[2].startswith("c c") for row in step.media["samples"].rows)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        (
            b"a\na b\n",
            ["--prefix", "a b c d", "evaluate.search.length={factor: 1, extra: 2}"],
            "line 1: a forced prefix of 4 tokens and the end of sentence are more than its output may have (4); "
            "shorten the prefix, or raise evaluate.search.length",
        ),
        (
            b"a b\ta\na b\tnever\n",
            ["--prefixes"],
            "line 2: 'never' has what the target vocabulary does not know; begin with words that it knows",
        ),
        (
            b"a\n",
            ["--prefix", "a", "--prefixes"],
            "--prefix: is for all lines, and with --prefixes each has its own; leave one out",
        ),
        (
            b"a\n",
            ["--prefixes", "evaluate.prefix=a"],
            "evaluate.prefix: is for all lines, and with --prefixes each has its own; leave one out",
        ),
        (b"a\n", ["corpus.symbols=4"], "corpus.symbols: changes nothing in this command; leave it out"),
        (
            b"a\n",
            ["--prefix", "\U0001f600"],
            "line 1: '\U0001f600' has what the target vocabulary does not know; begin with words that it knows",
        ),
        (b"a\n", ["--stop", "all"], "--stop: says when a beam is done; add --beam"),
        (
            b"a\n",
            ["--beam", "2", "--stop", "soon"],
            "--stop: 'soon' is no rule; give first, best_ends, k_finished, length_now, all or optimal",
        ),
        (
            b"a\n",
            ["--sample", "--stop", "all"],
            "--sample: draws tokens, so there is no --beam, no --length-penalty and no --stop; leave one out",
        ),
        (b"a\n", ["--no-repeat-ngram", "0"], "--no-repeat-ngram: 0 is out of range; give a whole number above 0"),
        (
            b"a\n",
            ["--repetition-penalty", "0.5"],
            "--repetition-penalty: 0.5 is out of range; give a number from 1 to 1000000",
        ),
        (
            b"a\n",
            ["--minimum-length", "-1"],
            "--minimum-length: -1 is out of range; give a whole number that is not negative",
        ),
        (b"a\n", ["--ensemble", "@7"], "ensemble: @7: tiny has none of update 7; there are: 1, 2"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line(
    run_folder: RunFolder, text: bytes, options: list[str], problem: str
) -> None:
    with pytest.raises(FootplateError) as error:
        translate(run_folder, text, *options)
    assert str(error.value) == problem


def test_flags_are_changes_to_the_recipes_keys() -> None:
    flags = SearchFlags(
        beam=4, stop="first", length_penalty=0.6, minimum_length=3, no_repeat_ngram=2, repetition_penalty=1.2
    )
    search = "evaluate.search."
    assert flags.overrides() == {
        f"{search}kind": "beam",
        f"{search}n_best": 1,
        f"{search}size": 4,
        f"{search}stop": "first",
        f"{search}length.minimum": 3,
        f"{search}constraints.no_repeat_ngram": 2,
        f"{search}constraints.repetition_penalty": 1.2,
        f"{search}length_penalty": '{"kind": "average", "alpha": 0.6}',
    }
    assert SearchFlags().overrides() == {}


@pytest.mark.parametrize("options", [["--beam", "3"], ["--sample"], []])
def test_constraints_hold_for_every_search(run_folder: RunFolder, options: list[str]) -> None:
    output = translate(run_folder, b"a b c d e\nb b b b\n" * 3, "--no-repeat-ngram", "1", *options)
    for line in output.splitlines():
        assert len(set(line.split())) == len(line.split())


def test_ensembles_translate(run_folder: RunFolder) -> None:
    output = translate(run_folder, b"a b c\ne d\n", "--ensemble", "@1", "--ensemble", "tiny")
    expected = translator(run_folder, "ensemble=['@1', tiny]")(["a b c", "e d"])
    assert output.splitlines() == [found[0].text for found in expected]


def test_a_picture_for_each_line_shows_where_the_model_looked(run_folder: RunFolder, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    output = translate(run_folder, b"a b c\n\ne $ d\n", "--attention", str(pictures), "--beam", "2")
    assert output.count("\n") == 3
    assert sorted(path.name for path in pictures.iterdir()) == ["1.png", "3.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures.iterdir())
    looking = translator(run_folder)
    ((found,),) = looking(["a b c"])
    attention = looking.look(found)
    assert attention.source == ["▁a", "▁b", "▁c", "</s>"]
    assert attention.target == [f"▁{word}" for word in found.text.split()] + ["</s>"]
    assert attention.attention_TS.shape == (len(attention.target), 4)
    assert attention.attention_TS.sum(1).tolist() == pytest.approx([1.0] * len(attention.target))


def test_pictures_that_cannot_be_drawn_are_refused(run_folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(FootplateError) as error:
        translate(run_folder, b"a\n", "--attention", str(tmp_path), "--ensemble", "@1")
    assert str(error.value) == "--attention: of several models, each looks elsewhere; leave out the ensemble"
    (tmp_path / "file").touch()
    with pytest.raises(FootplateError) as error:
        translate(run_folder, b"a\n", "--attention", str(tmp_path / "file"))
    assert (
        str(error.value)
        == f"{tmp_path / 'file' / '1.png'}: cannot be written (File exists); choose another --attention"
    )


def test_lines_come_in_full_blocks_from_a_file(tmp_path: Path) -> None:
    text = b"\n".join([b"one", b"", b"x" * 200_000, b"four", b"five"])
    expected = [[b"one", b""], [b"x" * 200_000, b"four"], [b"five"]]
    assert list(line_blocks(io.BytesIO(text), 2)) == expected
    path = tmp_path / "text"
    path.write_bytes(text)
    with path.open("rb") as file:
        assert list(line_blocks(file, 2)) == expected
    assert list(line_blocks(io.BytesIO(b"one\n"), 2)) == [[b"one"]]
    assert list(line_blocks(io.BytesIO(b""), 2)) == []


def test_lines_of_a_pipe_that_stalls_do_not_wait_for_more() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
        blocks = line_blocks(file, 512, patience_seconds=0.01)
        pipe.write(b"one\ntwo\nthr")
        assert next(blocks) == [b"one", b"two"]
        pipe.write(b"ee\n")
        assert next(blocks) == [b"three"]
        pipe.write(b"four")
        pipe.close()
        assert list(blocks) == [[b"four"]]


def test_lines_are_counted_where_somebody_looks() -> None:
    for shown in (True, False):
        screen = io.StringIO()
        with LineCounter(Console(file=screen, force_terminal=True, width=80), shown) as counter:
            counter.add(1_200)
            counter.add(34)
        assert ("1,234 lines" in screen.getvalue()) == shown


def test_a_part_is_no_longer_than_training_and_the_output_allow() -> None:
    assert longest_part(256, Length()) == 229
    assert longest_part(50, Length()) == 49
    assert longest_part(256, Length(maximum=30)) == 15
    assert longest_part(1, Length(maximum=1)) == 1


def test_the_runs_own_keys_say_where_a_line_is_cut_and_how_large_a_batch_is(run_folder: RunFolder) -> None:
    opened = translator(run_folder, "evaluate.batch_tokens=99", "evaluate.search.length={extra: 2, maximum: 9}")
    assert (opened.batch_tokens, opened.longest) == (99, 6)
    (found,) = opened(["a b c d e a b"])
    assert found[0].parts == 2
    # What no batch had room for was never trained on.
    assert translator(run_folder, "batch_tokens=4").longest == translator(run_folder, "longest=4").longest == 3


class Watched:
    """A model that remembers the shapes it is asked to search: sentences, source positions, rows of a sentence."""

    def __init__(self, model: Searchable) -> None:
        self.model = model
        self.shapes: list[tuple[int, ...]] = []

    def begin(self, source_BS: Tensor, beam: int) -> Decoding:
        self.shapes.append((*source_BS.shape, beam))
        return self.model.begin(source_BS, beam)


@pytest.mark.parametrize("search", [BeamConfig(size=4), SampleConfig(samples=4), GreedyConfig()])
def test_a_batch_counts_the_rows_of_each_sentence(run_folder: RunFolder, search: SearchConfig) -> None:
    config = load_job(run_folder.job, ()).config
    assert isinstance(config, Config)
    context = Context(folder=run_folder.path, checkpoint=CheckpointStore(run_folder.checkpoints).at(2))
    model, vocabulary, _ = restore_model(config, context)
    watched = Watched(model)
    Translator(watched, vocabulary, search, context, batch_tokens=32)(["a b c"] * 5)
    assert watched.shapes == ([(5, 4, 1)] if search.kind == "greedy" else [(2, 4, 4), (2, 4, 4), (1, 4, 4)])


def test_an_output_that_reached_its_maximum_is_said_on_standard_error(run_folder: RunFolder) -> None:
    length = ["evaluate.search.length={factor: 0, extra: 3, maximum: 9}", "--minimum-length", "2"]
    arguments = ["translate", str(run_folder.path), "--checkpoint", "last", *length]
    result = CliRunner().invoke(build_app(), arguments, input=b"a b\n\nc\n")
    told = "an output reached its maximum length and was ended there; raise evaluate.search.length"
    assert result.stderr.splitlines() == [f"line 1: {told}", f"line 3: {told}"]


BEAM = "evaluate.search={kind: beam, size: 3, n_best: 3}"
UNEVEN = "evaluate.search.uid={regularizer: variance, strength: 0.5}"


@pytest.mark.parametrize(
    ("options", "the_same"),
    [
        (["--n-best", "3", BEAM], ["--beam", "3", "--n-best", "3"]),
        (["--n-best", "2", BEAM], ["--beam", "3", "--n-best", "2"]),
        (["--length-penalty", "0.6", "evaluate.search.kind=beam"], ["--beam", "5", "--length-penalty", "0.6"]),
        (["--stop", "all", "evaluate.search.kind=beam", UNEVEN], ["--beam", "5", "--stop", "all", UNEVEN]),
        (["--temperature", "2", "evaluate.search.kind=sample"], ["--sample", "--temperature", "2"]),
        (["--n-best", "2", "evaluate.search.kind=sample"], ["--sample", "--n-best", "2"]),
    ],
)
def test_flags_go_with_the_search_of_the_run(run_folder: RunFolder, options: list[str], the_same: list[str]) -> None:
    assert translate(run_folder, b"a b c\ne d\n", *options) == translate(run_folder, b"a b c\ne d\n", *the_same)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ["--n-best", "4", BEAM],
            "--n-best: 4 translations are more than a beam of 3 has; raise --beam to 4 or more",
        ),
        (
            ["--temperature", "2", "evaluate.search.kind=beam"],
            "--temperature: is for sampling; add --sample, or leave it out",
        ),
        (
            ["--length-penalty", "1", "evaluate.search.kind=sample"],
            "--length-penalty: compares the hypotheses of a beam; add --beam",
        ),
        (
            ["--stop", "first", "evaluate.search.kind=beam", "evaluate.search.size=0"],
            "command line: evaluate.search.size: must be at least 1, got 0",
        ),
        (["evaluate.every_updates=3"], "evaluate.every_updates: changes nothing once a run is trained; leave it out"),
        (["evaluate.sentences=3"], "evaluate.sentences: changes nothing in this command; leave it out"),
        (["report.worst=3"], "report.worst: changes nothing in this command; leave it out"),
    ],
)
def test_flags_and_keys_that_the_search_of_the_run_has_no_use_for_are_refused(
    run_folder: RunFolder, options: list[str], problem: str
) -> None:
    with pytest.raises(FootplateError) as error:
        translate(run_folder, b"a\n", *options)
    assert str(error.value) == problem
