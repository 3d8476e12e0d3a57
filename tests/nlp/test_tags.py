"""Several corpora in one model, told apart by tags that no text can spell."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from footplate.checkpoint import CheckpointStore
from footplate.cli import build_app
from footplate.context import Context
from footplate.errors import ConfigError, FootplateError
from footplate.evaluation import evaluate_run
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate_nlp import translation
from footplate_nlp.corpora import (
    CopyCorpus,
    ParallelCorpus,
    SeveralCorpora,
    learning_pairs,
    tags_of,
    text_fingerprint,
)
from footplate_nlp.tokenised import tokenise
from footplate_nlp.training_pairs import open_corpus
from footplate_nlp.translation import Config
from footplate_nlp.translator import open_translator
from footplate_nlp.vocabulary import Bpe, Symbols, Unigram, Vocabulary, VocabularyConfig

LETTERS = ["a b c", "b c d", "c d e", "d e a", "e a b", "a c e"]


def write(folder: Path) -> None:
    """Three languages: letters, the same in capitals, and the same backwards."""
    texts = {"low": LETTERS, "up": [line.upper() for line in LETTERS], "back": [line[::-1] for line in LETTERS]}
    for part in ("train", "valid", "test"):
        for language, lines in texts.items():
            (folder / f"{part}.{language}").write_text("".join(f"{line}\n" for line in lines))


def several(folder: Path, **tags: str | None) -> SeveralCorpora:
    write(folder)
    corpora = {
        target: ParallelCorpus(folder=str(folder), source="low", target=target, tag=tag) for target, tag in tags.items()
    }
    return SeveralCorpora(corpora=corpora)


def config_of(folder: Path, corpora: str, *overrides: str) -> Config:
    write(folder)
    config = load_job("copy-transformer", [*settings(folder, corpora), *overrides]).config
    assert isinstance(config, Config)
    return config


def settings(folder: Path, corpora: str) -> list[str]:
    return [
        f"corpus={{kind: several, corpora: {corpora.replace('DIR', str(folder))}}}",
        "model.width=16",
        "model.feed_forward_width=16",
        "batch_tokens=100",
        "updates=2",
        "evaluate.every_updates=2",
        "threads=1",
        "best=null",
    ]


BOTH = (
    "{up: {folder: DIR, source: low, target: up, tag: up}, back: {folder: DIR, source: low, target: back, tag: back}}"
)


@pytest.mark.parametrize(
    "config",
    [Bpe(size=300), Unigram(size=300), Symbols(), Symbols(kind="char")],
)
@pytest.mark.parametrize("joint", [True, False])
def test_a_tag_is_a_token_of_the_source_that_no_text_spells(config: VocabularyConfig, joint: bool) -> None:
    vocabulary = Vocabulary()
    lines = [*LETTERS, "the old house on the hill", "the older houses", "hills and houses", "<2up>"]
    pairs = [(line, line.upper()) for line in lines] * 5
    size = {} if joint or not isinstance(config, Unigram) else {"size": 282}
    vocabulary.learn(config.model_copy(update={"joint": joint, **size}), lambda: pairs, ["up", "back"])
    tags = vocabulary.source.tags()
    assert tags == {"up": 4, "back": 5}
    assert vocabulary.target.tags() == (tags if joint else {})
    literal = vocabulary.source.encode(["<2up> a b", "<2back>", "a<2up>"])
    assert not {4, 5} & {index for ids in literal for index in ids}
    (tagged,) = [tokenise([("a b", "A B")], vocabulary, "up").source[0].tolist()]
    assert tagged == [4, *vocabulary.source.encode(["a b"])[0]]
    assert vocabulary.source.decode([tagged]) == ["a b"]
    restored = Vocabulary()
    restored.load_state_dict(vocabulary.state_dict())
    assert restored.source.tags() == tags


def test_a_tag_that_was_not_learned_is_refused() -> None:
    vocabulary = Vocabulary()
    vocabulary.learn(Symbols(), lambda: [("a", "b")], ["up"])
    with pytest.raises(FootplateError) as error:
        tokenise([("a", "b")], vocabulary, "down")
    assert str(error.value) == "tag 'down': the vocabulary was learned without it; it has up"


def test_the_pairs_of_several_corpora_follow_each_other_each_with_its_tag(tmp_path: Path) -> None:
    corpus = several(tmp_path, up="up", back=None)
    assert [target for _, target in corpus.pairs("train")][5:7] == ["A C E", "c b a"]
    assert [path.name for path in corpus.files()] == ["train.low", "train.up", "train.low", "train.back"]
    vocabulary = Vocabulary()
    pairs = open_corpus(corpus, vocabulary, Symbols(), Context(folder=tmp_path), "text")
    heads = [int(pairs.source[row][0]) == vocabulary.source.tags()["up"] for row in range(12)]
    assert heads == [True] * 6 + [False] * 6


def test_a_vocabulary_is_learned_from_the_heads_of_all_corpora(tmp_path: Path) -> None:
    corpus = several(tmp_path, up="up", back="back")
    assert tags_of(corpus) == ["up", "back"]
    assert [target for _, target in learning_pairs(corpus)][:3] == ["A B C", "c b a", "B C D"]
    assert len([*learning_pairs(corpus)]) == 12
    (tmp_path / "train.back").write_text("x\n")
    short = several(tmp_path, up="up", back="back").model_copy()
    assert len([*learning_pairs(short)]) == 12


def test_the_fingerprint_follows_each_corpus_its_name_and_its_tag(tmp_path: Path) -> None:
    first = text_fingerprint(several(tmp_path, up="up", back="back"))
    assert first == text_fingerprint(several(tmp_path, up="up", back="back"))
    assert first != text_fingerprint(several(tmp_path, up="up", back="other"))
    assert first != text_fingerprint(several(tmp_path, back="back", up="up"))


def test_the_fingerprint_of_a_corpus_without_a_tag_is_what_it_was_before_there_were_tags() -> None:
    assert text_fingerprint(CopyCorpus()) == "39eca15df2dfabb332e6bebfae6e175601ed67a1dec88935e3c8d72444cbf8fb"


def test_an_evaluation_scores_all_and_each(tmp_path: Path) -> None:
    *_, last = translation.train(config_of(tmp_path, BOTH, "evaluate.sentences=4"), Context())
    names = {name for name in last.metrics if name.startswith("eval/")}
    assert {"eval/loss", "eval/bleu", "eval/up/bleu", "eval/back/bleu", "eval/up/exact_match"} <= names
    assert not {"eval/up/loss"} & names
    both = [last.metrics[f"eval/{each}/token_accuracy"] for each in ("up", "back")]
    assert last.metrics["eval/token_accuracy"] == pytest.approx(sum(both) / 2)  # type: ignore[arg-type]


def trained(folder: Path, *overrides: str) -> RunFolder:
    write(folder)
    job = load_job("copy-transformer", [*settings(folder, BOTH), *overrides])
    run = create_run(folder / "runs", "tagged", "tagged")
    run.job.write_text(job.to_yaml())
    launch(job, run)
    return run


def test_a_run_that_is_compared_with_reads_its_tags_too(tmp_path: Path) -> None:
    run = trained(tmp_path, "updates=60", "evaluate.every_updates=60")
    evaluate_run(run, ["report.against=tagged@last"], "last")
    tables = json.loads((run.path / "evaluations" / "valid-000060" / "scores.json").read_text())["tables"]
    assert {row[3] for row in tables["against"][1:]} == {"+0.00"}
    assert {row[4] for row in tables["against"][1:]} == {"+0.00 to +0.00"}


def translate(run: RunFolder, *options: str) -> str:
    result = CliRunner().invoke(build_app(), ["translate", str(run.path), *options], input=b"a b c\n\n<2up> a\n")
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_translate_wants_a_tag_of_the_run(tmp_path: Path) -> None:
    run = trained(tmp_path)
    assert translate(run, "--tag", "up").split("\n")[1] == ""
    config = load_job(run.job).config
    assert isinstance(config, Config)
    context = Context(checkpoint=CheckpointStore(run.checkpoints).newest())
    up, back = (open_translator(config, context, tag)(["a b c"])[0][0].score for tag in ("up", "back"))
    assert up != back
    for options, problem in [
        ((), "--tag: this run was trained with a tag before every sentence; give one of: up, back"),
        (("--tag", "de"), "--tag: 'de' is none of this run's tags; give one of: up, back"),
    ]:
        with pytest.raises(FootplateError) as error:
            translate(run, *options)
        assert str(error.value) == problem


def test_a_tag_is_refused_by_a_run_without_any(tmp_path: Path) -> None:
    one = [f"corpus={{kind: parallel, folder: '{tmp_path}', source: low, target: up}}"]
    run = trained(tmp_path, *one)
    assert translate(run).count("\n") == 3
    with pytest.raises(FootplateError) as error:
        translate(run, "--tag", "up")
    assert str(error.value) == "--tag: 'up', but this run was trained without tags; leave it out"


def test_where_only_some_pairs_have_a_tag_translate_goes_without(tmp_path: Path) -> None:
    some = BOTH.replace(", tag: back", "").replace("DIR", str(tmp_path))
    run = trained(tmp_path, f"corpus.corpora={some}")
    assert translate(run) != ""
    assert translate(run, "--tag", "up") != ""


@pytest.mark.parametrize(
    ("corpora", "problem"),
    [
        ("{}", "corpus.corpora: needs at least 1 entries, got 0"),
        (
            "{a: {source: x, target: y, tag: 'd e'}}",
            "corpus.corpora.a.tag: must match the pattern ^[A-Za-z0-9_-]{1,40}$, got the string 'd e'",
        ),
        ("{a: {source: x}}", "corpus.corpora.a.target: missing; add it"),
    ],
)
def test_corpora_that_cannot_be_are_refused(corpora: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_job("multi30k-en-de", [f"corpus={{kind: several, corpora: {corpora}}}"])
    assert str(error.value) == f"command line: {problem}"


def test_a_missing_file_of_one_of_several_corpora_is_named_with_that_ones_key(tmp_path: Path) -> None:
    corpus = several(tmp_path, up="up", back="back")
    _, missing = corpus.corpora["back"].files()
    missing.unlink()
    for read in (lambda: list(corpus.pairs("train")), lambda: text_fingerprint(corpus)):
        with pytest.raises(FootplateError) as error:
            read()
        assert str(error.value) == (
            f"{missing}: cannot be opened (No such file or directory); "
            "set corpus.corpora.back.folder, relative to where the command runs"
        )
