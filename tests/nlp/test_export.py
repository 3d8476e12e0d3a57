"""A trained Transformer in the hands of CTranslate2 and Hugging Face: the same probabilities, the same translations."""

import contextlib
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from typer.testing import CliRunner

from footplate.checkpoint import CheckpointStore
from footplate.cli import build_app
from footplate.context import Context
from footplate.errors import FootplateError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate_nlp.beam import Average, BeamConfig, NoPenalty
from footplate_nlp.export import POSITIONS, Trained, new_folder, padded, require_exportable, write_and_compare
from footplate_nlp.hypothesis import Length
from footplate_nlp.model import build_model
from footplate_nlp.search import GreedyConfig, SearchConfig, search
from footplate_nlp.symbols import BOS, EOS, PAD, UNKNOWN
from footplate_nlp.transformer import Transformer
from footplate_nlp.translation import Config, restore_model
from footplate_nlp.translator import Translator
from footplate_nlp.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

TINY = [
    "corpus.symbols=26",
    "corpus.longest=7",
    "corpus.train_pairs=2000",
    "corpus.valid_pairs=40",
    "model.norm=post",
    "model.width=32",
    "model.feed_forward_width=48",
    "batch_tokens=600",
    "optimizer.learning_rate=0.01",
    "evaluate.every_updates=1000",
    "evaluate.search.length={factor: 0, extra: 40, maximum: 40}",
    "threads=1",
]
BPE = "vocabulary={kind: bpe, size: 295}"
SEPARATE = "vocabulary={kind: word, joint: false}"
LINES = [
    " ".join("qwertzuiopasdfghjklyxcvbnm"[(7 * row + 3 * place) % 26] for place in range(2 + row % 6))
    for row in range(40)
]
ODD_LINES = ["ﬁne  ½ Öl", "a </s> in <unk> <s> text", "日本 naïve", "a\tb!", "x"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run long enough for outputs that differ and end, too short for them to be right."""
    job = load_job("copy-transformer", [*TINY, BPE, "updates=120", "save.every_updates=10", "save.keep_last=2"])
    folder = create_run(tmp_path_factory.mktemp("runs"), "tiny", "tiny")
    folder.job.write_text(job.to_yaml())
    launch(job, folder)
    return folder


def of_run(folder: RunFolder, average: int = 1) -> Trained:
    config = load_job(folder.job, [f"average={average}"]).config
    assert isinstance(config, Config)
    model, vocabulary, _ = restore_model(config, Context(checkpoint=CheckpointStore(folder.checkpoints).newest()))
    assert isinstance(model, Transformer)
    return Trained(config, model, vocabulary, "a run")


def untrained(*overrides: str) -> Trained:
    """Weights of which each is random, biases and norms too; a target vocabulary of its own where it is not joint."""
    config = load_job("copy-transformer", [*TINY, BPE, *overrides]).config
    assert isinstance(config, Config)
    vocabulary = Vocabulary()
    vocabulary.learn(config.vocabulary, lambda: ((line, line[::-1] + " ab") for line in LINES))
    Context(seed=1).seed_torch("initialise")
    model = build_model(config.model, vocabulary.source.size, vocabulary.target.size).eval()
    assert isinstance(model, Transformer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return Trained(config, model, vocabulary, "random weights")


def ours(trained: Trained, config: SearchConfig) -> list[tuple[int, ...]]:
    found = search(trained.model, source_of(trained), config)
    return [hypotheses[0].tokens for hypotheses in found]


def source_of(trained: Trained) -> torch.Tensor:
    head = trained.vocabulary.source.head(trained.tag)
    return padded([[*head, *ids, EOS] for ids in trained.vocabulary.source.encode(LINES)])


def by_ctranslate2(folder: Path, trained: Trained, **settings: Any) -> list[tuple[int, ...]]:
    translator = ctranslate2.Translator(str(folder), intra_threads=1)
    source, target = trained.vocabulary.source.pieces(), trained.vocabulary.target.pieces()
    ids = {piece: index for index, piece in enumerate(target)}
    found = translator.translate_batch(
        [[source[index] for index in ids] for ids in trained.vocabulary.source.encode(LINES)],
        min_decoding_length=0,
        suppress_sequences=[["<pad>"], ["<s>"]],
        **settings,
    )
    return [tuple(ids[piece] for piece in each.hypotheses[0]) for each in found]


def by_hugging_face(folder: Path, trained: Trained, **settings: Any) -> list[tuple[int, ...]]:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    source_BS = source_of(trained)
    found = model.generate(source_BS, attention_mask=(source_BS != PAD).long(), **settings)[:, 1:].tolist()
    return [tuple(row[: row.index(EOS)]) for row in found]


VARIANTS = [
    (),
    ("model.norm=pre",),
    ("model.activation=gelu", "model.tie=target", SEPARATE),
    ("model.tie=none", SEPARATE, "model.decoder_layers=2"),
    ("model.norm=pre", "model.tie=target", "model.encoder_layers=3"),
    ("model.norm=pre", "model.tie=none", "model.activation=gelu"),
]


@pytest.mark.parametrize("overrides", [*VARIANTS, ("model.norm=pre", "model.tie=none", SEPARATE)])
def test_ctranslate2_gives_the_same_probabilities_and_greedy_outputs(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    trained = untrained(*overrides)
    assert write_and_compare(tmp_path, trained, "ctranslate2", None) < 2e-5
    expected = ours(trained, GreedyConfig(length=Length(factor=0, extra=10, maximum=10)))
    found = by_ctranslate2(tmp_path, trained, beam_size=1, max_decoding_length=9)  # it forces no end
    assert found == expected
    assert len(set(expected)) > 2


@pytest.mark.parametrize("overrides", VARIANTS)
def test_hugging_face_gives_the_same_probabilities_and_greedy_outputs(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    trained = untrained(*overrides)
    assert write_and_compare(tmp_path, trained, "huggingface", None) < 2e-5
    expected = ours(trained, GreedyConfig(length=Length(factor=0, extra=10, maximum=10)))
    assert by_hugging_face(tmp_path, trained, num_beams=1, max_length=11) == expected
    assert len(set(expected)) > 2


LONG = Length(factor=0, extra=40, maximum=40)
"""The peers' rule: the same for every sentence."""


def ended(trained: Trained, config: BeamConfig) -> dict[int, tuple[int, ...]]:
    """Our outputs where no hypothesis was cut off: whether an end is then forced, and at what price, differs."""
    found = search(trained.model, source_of(trained), config.model_copy(update={"n_best": config.size}))
    whole = {row: all_[0].tokens for row, all_ in enumerate(found) if not any(each.truncated for each in all_)}
    assert len(whole) >= 25
    assert len(set(whole.values())) > 5
    return whole


def test_ctranslate2_finds_what_our_beam_finds(run_folder: RunFolder, tmp_path: Path) -> None:
    trained = of_run(run_folder)
    write_and_compare(tmp_path, trained, "ctranslate2", None)
    for config, penalty in [
        (BeamConfig(length_penalty=NoPenalty(), stop="best_ends", length=LONG), 0),
        (BeamConfig(length_penalty=Average(), stop="k_finished", length=LONG), 1),
    ]:
        found = by_ctranslate2(tmp_path, trained, beam_size=5, max_decoding_length=40, length_penalty=penalty)
        expected = ended(trained, config)
        assert {row: found[row] for row in expected} == expected


def test_generate_finds_what_our_beam_finds(run_folder: RunFolder, tmp_path: Path) -> None:
    trained = of_run(run_folder)
    write_and_compare(tmp_path, trained, "huggingface", None)
    for config, settings in [
        (
            BeamConfig(length_penalty=NoPenalty(), stop="length_now", length=LONG),
            {"early_stopping": False, "length_penalty": 0.0},
        ),
        (BeamConfig(length_penalty=Average(), stop="length_now", length=LONG), {"early_stopping": False}),
        (BeamConfig(length_penalty=Average(), stop="k_finished", length=LONG), {"early_stopping": True}),
        (BeamConfig(length_penalty=Average(), stop="optimal", n_best=5, length=LONG), {"early_stopping": "never"}),
    ]:
        found = by_hugging_face(tmp_path, trained, max_length=41, **settings)
        expected = ended(trained, config)
        assert {row: found[row] for row in expected} == expected


def export(folder: RunFolder, *options: str) -> str:
    """What `footplate export` prints."""
    result = CliRunner().invoke(build_app(), ["export", str(folder.path), *options])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def refusal(folder: RunFolder, *options: str) -> str:
    with pytest.raises(FootplateError) as error:
        export(folder, *options)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.parametrize(
    ("to", "beam"),
    [("ctranslate2", BeamConfig(stop="k_finished", length=LONG)), ("huggingface", BeamConfig(length=LONG))],
)
def test_the_readme_of_a_folder_translates_as_we_do(
    run_folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, beam: BeamConfig
) -> None:
    output = tmp_path / "served"
    said = export(run_folder, "--to", to, "--output", str(output), "--average", "2").splitlines()
    assert said[0] == (
        f"{output}: run tiny, the mean of 2 checkpoints up to update 120, for {to}; its README.md says how to serve it"
    )
    assert re.fullmatch(
        r"log-probabilities of random sentences differ from the run's by at most \d\.\de[-+]\d\d", said[1]
    )
    trained = of_run(run_folder, average=2)
    expected = ended(trained, beam)
    translated = Translator(trained.model, trained.vocabulary, beam, Context())(LINES)
    lines = run_readme(output, monkeypatch)
    assert {row: lines[row].strip() for row in expected} == {row: translated[row][0].text.strip() for row in expected}


def run_readme(output: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the folder's own program prints for `LINES`."""
    (program,) = re.findall(r"```python\n(.*?)```", (output / "README.md").read_text(), re.DOTALL)
    printed = io.StringIO()
    monkeypatch.chdir(output)
    with contextlib.redirect_stdout(printed):
        exec(program.replace('["A line of text."]', repr(LINES)), {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(LINES)
    return lines


@pytest.fixture(scope="module")
def tagged_folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that learned to write a line as it is, or backwards, as the tag says."""
    texts = tmp_path_factory.mktemp("texts")
    for part in ("train", "valid"):
        for language, step in (("low", 1), ("same", 1), ("back", -1)):
            (texts / f"{part}.{language}").write_text("".join(f"{line[::step]}\n" for line in LINES * 20))
    corpora = ", ".join(
        f"{tag}: {{folder: '{texts}', source: low, target: {tag}, tag: {tag}}}" for tag in ("same", "back")
    )
    settings = [each for each in TINY if not each.startswith("corpus.")]
    corpus = f"corpus={{kind: several, corpora: {{{corpora}}}}}"
    job = load_job("copy-transformer", [*settings, BPE, corpus, "updates=240", "evaluate.sentences=10"])
    folder = create_run(tmp_path_factory.mktemp("runs"), "tagged", "tagged")
    folder.job.write_text(job.to_yaml())
    launch(job, folder)
    return folder


@pytest.mark.parametrize("to", ["ctranslate2", "huggingface"])
def test_the_readme_puts_the_tag_first(
    tagged_folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    trained, greedy = of_run(tagged_folder), GreedyConfig(length=LONG)
    printed, expected = {}, {}
    for tag in ("same", "back"):
        export(tagged_folder, "--to", to, "--output", str(tmp_path / tag), "--tag", tag, "--checkpoint", "last")
        found = search(trained.model, source_of(replace(trained, tag=tag)), greedy)
        rows = [row for row, (best,) in enumerate(found) if not best.truncated]
        assert len(rows) >= 25
        translated = Translator(trained.model, trained.vocabulary, greedy, Context(), tag)(LINES)
        expected[tag] = [translated[row][0].text.strip() for row in rows]
        make_greedy(tmp_path / tag)
        lines = run_readme(tmp_path / tag, monkeypatch)
        printed[tag] = [lines[row].strip() for row in rows]
    assert printed == expected
    assert printed["same"] != printed["back"]


def make_greedy(folder: Path) -> None:
    """Let the README search with a beam of 1."""
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(
        text.replace("beam_size=5", "beam_size=1").replace("generate(**batch", "generate(**batch, num_beams=1")
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "--tag: this run was trained with a tag before every sentence; give one of: same, back"),
        (("--tag", "de"), "--tag: 'de' is none of this run's tags; give one of: same, back"),
    ],
)
def test_a_run_with_tags_is_exported_with_one_of_them(
    tagged_folder: RunFolder, tmp_path: Path, options: tuple[str, ...], problem: str
) -> None:
    assert refusal(tagged_folder, "--to", "ctranslate2", "--output", str(tmp_path), *options) == problem


@pytest.mark.parametrize("to", ["ctranslate2", "huggingface"])
def test_translations_are_never_longer_than_there_are_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    maximum = f"evaluate.search.length={{factor: 0, extra: 2000, maximum: {2 * POSITIONS}}}"
    trained = untrained(maximum, "model.encoder_layers=1", "model.decoder_layers=1")
    write_and_compare(tmp_path, trained, to, None)
    make_greedy(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "LINES", LINES[:1])
    assert len(run_readme(tmp_path, monkeypatch)) == 1


def test_the_folder_lies_in_that_of_the_run_unless_told_otherwise(run_folder: RunFolder) -> None:
    export(run_folder, "--to", "ctranslate2", "--checkpoint", "110")
    output = run_folder.path / "export" / "ctranslate2"
    assert "run tiny, checkpoint of update 110." in (output / "README.md").read_text()
    assert refusal(run_folder, "--to", "ctranslate2") == (
        f"--output: {output} is there already; remove it, or choose another folder"
    )


@pytest.mark.parametrize("overrides", [(), (SEPARATE,)])
def test_the_hugging_face_tokenizer_reads_and_writes_as_ours(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    trained = untrained("model.tie=target", *overrides)
    write_and_compare(tmp_path, trained, "huggingface", None)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    source, target = trained.vocabulary.source, trained.vocabulary.target
    ids = source.encode(ODD_LINES)
    assert theirs(ODD_LINES)["input_ids"] == [[*each, EOS] for each in ids]
    ids = target.encode(ODD_LINES)
    assert theirs(text_target=ODD_LINES)["input_ids"] == [[*each, EOS] for each in ids]
    written = theirs.batch_decode([[BOS, *each, EOS, PAD] for each in ids], skip_special_tokens=True)
    known = [[index for index in each if index != UNKNOWN] for each in ids]  # it leaves unknowns out
    assert written == [text.strip() for text in target.decode(known)]


@pytest.mark.parametrize("quantization", ["int8", "float16"])
def test_rounded_weights_stay_near(tmp_path: Path, quantization: str) -> None:
    whole, rounded = tmp_path / "whole", tmp_path / "rounded"
    trained = untrained()
    for folder, name in ((whole, None), (rounded, quantization)):
        folder.mkdir()
        difference = write_and_compare(folder, trained, "ctranslate2", name)
        assert (difference > 1e-4) == (name is not None)
        assert difference < 2
    assert (rounded / "model.bin").stat().st_size < 0.7 * (whole / "model.bin").stat().st_size


@pytest.mark.parametrize("to", ["ctranslate2", "huggingface"])
def test_a_line_may_be_as_long_as_ours_are_before_they_are_cut(tmp_path: Path, to: str) -> None:
    trained = untrained()
    write_and_compare(tmp_path, trained, to, None)
    longest = [[4 + place % 280 for place in range(POSITIONS - 1)]]
    source_BS = padded([[*longest[0], EOS]])
    expected = search(trained.model, source_BS, GreedyConfig(length=Length(maximum=5)))[0][0].tokens
    if to == "ctranslate2":
        pieces = [[trained.vocabulary.source.pieces()[index] for index in longest[0]]]
        found = ctranslate2.Translator(str(tmp_path)).translate_batch(pieces, beam_size=1, max_decoding_length=4)
        theirs = [trained.vocabulary.target.pieces().index(piece) for piece in found[0].hypotheses[0]]
    else:
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        theirs = model.generate(source_BS, num_beams=1, max_length=6)[0, 1:-1].tolist()
    assert tuple(theirs) == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--to", "onnx"], "--to: 'onnx' is no format to export to; choose ctranslate2 or huggingface"),
        (
            ["--to", "huggingface", "--quantization", "int8"],
            "--quantization: is for ctranslate2; leave it out with --to huggingface",
        ),
        (
            ["--to", "ctranslate2", "--quantization", "int4"],
            "--quantization: 'int4' is none of CTranslate2's; choose one of int8, int8_float32, int8_float16, "
            "int8_bfloat16, int16, float16, bfloat16, float32",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(run_folder: RunFolder, options: list[str], problem: str) -> None:
    assert refusal(run_folder, *options) == problem


@pytest.mark.parametrize(
    ("to", "changes", "problem"),
    [
        (
            "ctranslate2",
            {"kind": "recurrent"},
            "model.kind: recurrent has no place in ctranslate2; only a transformer can be exported",
        ),
        (
            "huggingface",
            {"norm": "rezero"},
            "model.norm: rezero has no place in huggingface; only pre and post can be exported",
        ),
        (
            "ctranslate2",
            {"copying": True},
            "model.copying: has no place in ctranslate2; only a transformer without it can be exported",
        ),
        (
            "huggingface",
            {"norm": "pre"},
            "model.norm: pre with vocabulary.joint: false has no place in huggingface, whose pre-norm model has one "
            "vocabulary; export --to ctranslate2",
        ),
    ],
)
def test_what_a_format_has_no_place_for_is_refused_by_name(to: str, changes: dict[str, object], problem: str) -> None:
    config = load_job("copy-transformer", [*TINY, SEPARATE, "model.tie=none"]).config
    assert isinstance(config, Config)
    with pytest.raises(FootplateError) as error:
        require_exportable(config.model_copy(update={"model": config.model.model_copy(update=changes)}), to)
    assert str(error.value) == problem


@pytest.mark.parametrize("to", ["ctranslate2", "huggingface"])
def test_a_parameter_that_a_format_does_not_know_is_not_dropped(tmp_path: Path, to: str) -> None:
    trained = untrained()
    trained.model.layers[0].register_parameter("alpha", nn.Parameter(torch.zeros(1)))
    with pytest.raises(FootplateError) as error:
        write_and_compare(tmp_path, trained, to, None)
    assert str(error.value) == f"model: its decoder.0.alpha has no place in {to}; only a plain transformer has one"


@pytest.mark.parametrize("to", ["ctranslate2", "huggingface"])
def test_a_folder_that_computes_something_else_is_not_kept(tmp_path: Path, to: str) -> None:
    """As it would if the format counted the heads otherwise."""
    trained = untrained()
    wrong = trained.config.model_copy(update={"model": trained.config.model.model_copy(update={"heads": 8})})
    with pytest.raises(FootplateError) as error, new_folder(tmp_path / "served") as beside:
        write_and_compare(beside, replace(trained, config=wrong), to, None)
    package = {"ctranslate2": "ctranslate2", "huggingface": "transformers"}[to]
    assert re.fullmatch(
        rf"export: read back by {package}, log-probabilities differ from the run's by \S+; "
        r"the folder was not kept: report it",
        str(error.value),
    )
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(run_folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "served"
    assert refusal(run_folder, "--to", "ctranslate2", "--output", str(output)) == (
        f"--output: {output} cannot be written (Not a directory); choose another"
    )
    assert refusal(run_folder, "--to", "ctranslate2", "--output", str(tmp_path / "file")) == (
        f"--output: {tmp_path / 'file'} is there already; remove it, or choose another folder"
    )


def test_an_empty_folder_may_be_filled(run_folder: RunFolder, tmp_path: Path) -> None:
    export(run_folder, "--to", "ctranslate2", "--output", str(tmp_path))
    assert (tmp_path / "model.bin").is_file()
    assert [path.name for path in tmp_path.parent.glob(f".{tmp_path.name}*")] == []


@pytest.mark.parametrize(("to", "package"), [("ctranslate2", "ctranslate2"), ("huggingface", "transformers")])
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch, to: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(run_folder, "--to", to) == f"--to: {to} needs {package}; pip install 'footplate[export]'"


def test_a_run_of_another_task_is_not_exported(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "line", "line")
    task = Path(__file__).parents[1] / "platform" / "line_task.py"
    folder.job.write_text(f"task: {task}\n")
    assert refusal(folder, "--to", "ctranslate2") == (
        f"export: a run of the task {task} is no translator; name a run of translation"
    )


def test_nothing_else_imports_the_other_programs() -> None:
    program = (
        "import sys, footplate_nlp.translator, footplate_nlp.commands, footplate_nlp.export_commands; "
        "import footplate_nlp.export; print({'ctranslate2', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
