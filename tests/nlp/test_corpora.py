"""Corpora: what they yield, and what they say about text that cannot be right."""

import gzip
from pathlib import Path

import pytest
from pydantic import ValidationError

from footplate.errors import FootplateError
from footplate.job import load_job
from footplate_nlp.corpora import CopyCorpus, ParallelCorpus, ScanCorpus, read_lines, text_fingerprint


def parallel(folder: Path, source: bytes = b"ein\nzwei\n", target: bytes = b"one\ntwo\n") -> ParallelCorpus:
    (folder / "train.de").write_bytes(source)
    (folder / "train.en").write_bytes(target)
    return ParallelCorpus(folder=str(folder), source="de", target="en")


def message(corpus: ParallelCorpus) -> str:
    with pytest.raises(FootplateError) as error:
        list(corpus.pairs("train"))
    return str(error.value)


def test_line_n_of_one_file_translates_line_n_of_the_other(tmp_path: Path) -> None:
    assert list(parallel(tmp_path).pairs("train")) == [("ein", "one"), ("zwei", "two")]


def test_a_gz_file_reads_like_a_plain_one(tmp_path: Path) -> None:
    corpus = parallel(tmp_path)
    plain = list(corpus.pairs("train"))
    for path in corpus.files():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert [path.suffix for path in corpus.files()] == [".gz", ".gz"]
    assert list(corpus.pairs("train")) == plain


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("\ufeffa\u2028b\x0bc\r\nd\u0085e\rf\ng".encode())
    assert list(read_lines(path)) == ["a\u2028b\x0bc", "d\u0085e\rf", "g"]


def test_different_line_counts_are_refused_with_both_counts(tmp_path: Path) -> None:
    assert message(parallel(tmp_path, b"ein\nzwei\ndrei\nvier\n")) == (
        f"{tmp_path}/train.de: has 4 lines but {tmp_path}/train.en has 2; "
        "line n of one must translate line n of the other"
    )
    assert message(parallel(tmp_path, target=b"one\ntwo\nthree\n")) == (
        f"{tmp_path}/train.de: has 2 lines but {tmp_path}/train.en has 3; "
        "line n of one must translate line n of the other"
    )


def test_invalid_utf8_is_refused_with_file_line_and_byte(tmp_path: Path) -> None:
    assert message(parallel(tmp_path, "ein\nzwölf\n".encode("latin-1"))) == (
        f"{tmp_path}/train.de:2: byte 3 is not valid UTF-8 (0xf6); convert the text to UTF-8"
    )


@pytest.mark.parametrize("empty", [b"one\n\n", b"one\n \t\n"])
def test_an_empty_side_is_refused_with_file_and_line(tmp_path: Path, empty: bytes) -> None:
    assert message(parallel(tmp_path, target=empty)) == (
        f"{tmp_path}/train.en:2: the line is empty; fill it in, or remove it from both files"
    )


def test_empty_files_are_refused(tmp_path: Path) -> None:
    assert message(parallel(tmp_path, b"", b"")) == f"{tmp_path}/train.de: the file is empty; there is nothing to read"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    corpus = parallel(tmp_path)
    (tmp_path / "train.en").unlink()
    assert message(corpus) == (
        f"{tmp_path}/train.en: cannot be opened (No such file or directory); "
        "set corpus.folder, relative to where the command runs"
    )


def test_a_missing_file_of_a_corpus_that_can_be_downloaded_is_told_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = load_job("multi30k-en-de").config.corpus  # type: ignore[attr-defined]
    assert message(corpus) == (
        f"{tmp_path}/data/multi30k/train.en: cannot be opened (No such file or directory); set corpus.folder, relative "
        "to where the command runs, or fetch it: footplate data download multi30k"
    )


def test_a_gz_file_that_was_cut_off_is_refused_with_its_line(tmp_path: Path) -> None:
    corpus = parallel(tmp_path)
    (tmp_path / "train.en").unlink()
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"one\ntwo\n")[:-9])
    assert message(corpus) == (
        f"{tmp_path}/train.en.gz:3: cannot be read "
        "(Compressed file ended before the end-of-stream marker was reached); is the file complete?"
    )


def test_a_folder_is_absolute_once_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ParallelCorpus(folder="data", source="de", target="en").folder == str(tmp_path / "data")


def test_a_folder_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ParallelCorpus(folder="~/data", source="de", target="en").folder == str(tmp_path / "data")
    nobody = ParallelCorpus(folder="~nobody-of-this-name/data", source="de", target="en")
    assert nobody.folder == str(Path.cwd() / "~nobody-of-this-name" / "data")


def test_the_fingerprint_follows_the_training_text_and_not_its_place(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = parallel(tmp_path / "one"), parallel(tmp_path / "two")
    assert text_fingerprint(first) == text_fingerprint(second)
    (tmp_path / "two" / "train.en").write_bytes(b"one\nthree\n")
    assert text_fingerprint(first) != text_fingerprint(second)


def test_copy_pairs_are_different_everywhere_and_always_the_same() -> None:
    corpus = CopyCorpus(symbols=3, shortest=2, longest=7, train_pairs=300, valid_pairs=20, test_pairs=30)
    parts = {part: list(corpus.pairs(part)) for part in ("train", "valid", "test")}
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 300, "valid": 20, "test": 30}
    every = [pair for pairs in parts.values() for pair in pairs]
    assert len(set(every)) == 350
    assert all(source == target for source, target in every)
    assert {len(source.split()) for source, _ in every} == set(range(2, 8))
    assert list(corpus.pairs("valid")) == parts["valid"]


def test_reversed_pairs_are_the_same_sequences_backwards() -> None:
    forwards = list(CopyCorpus().pairs("test"))
    backwards = list(CopyCorpus(reverse=True).pairs("test"))
    assert [(source, " ".join(reversed(source.split()))) for source, _ in forwards] == backwards


def test_more_sequences_than_there_are_is_refused() -> None:
    with pytest.raises(
        ValidationError,
        match=(
            "10400 different sequences cannot be drawn from 14 \\(at most half\\); "
            "ask for fewer pairs, more symbols or longer sequences"
        ),
    ):
        CopyCorpus(symbols=2, longest=3)
    with pytest.raises(ValidationError, match="shortest 4 is above longest 3; swap them"):
        CopyCorpus(shortest=4, longest=3)
    with pytest.raises(ValidationError, match="12 different sequences cannot be drawn from 10"):
        CopyCorpus(symbols=1, longest=10, train_pairs=10, valid_pairs=1, test_pairs=1)


def test_sequences_too_long_to_be_counted_are_enough() -> None:
    most = 1_000_000
    assert CopyCorpus(shortest=most, longest=most).longest == most
    assert CopyCorpus(symbols=1, longest=most).longest == most


def test_scan_validates_on_training_pairs_that_it_holds_out() -> None:
    corpus = ScanCorpus(split="length", valid_pairs=100)
    train, valid, test = (list(corpus.pairs(part)) for part in ("train", "valid", "test"))
    assert (len(train), len(valid), len(test)) == (16_890, 100, 3_920)
    assert len({*train, *valid, *test}) == 20_910


def test_scan_reads_the_published_format_and_refuses_another(tmp_path: Path) -> None:
    (tmp_path / "tasks_train_simple.txt").write_text("IN: jump OUT: I_JUMP\nIN: run OUT: I_RUN\n")
    (tmp_path / "tasks_test_simple.txt").write_text("IN: walk OUT: I_WALK\n")
    corpus = ScanCorpus(folder=str(tmp_path), valid_pairs=1)
    assert {*corpus.pairs("train"), *corpus.pairs("valid")} == {("jump", "I_JUMP"), ("run", "I_RUN")}
    assert list(corpus.pairs("test")) == [("walk", "I_WALK")]
    (tmp_path / "tasks_test_simple.txt").write_text("IN: walk OUT: I_WALK\nwalk\tI_WALK\n")
    with pytest.raises(FootplateError) as error:
        corpus.pairs("test")
    assert str(error.value) == (
        f"{tmp_path}/tasks_test_simple.txt:2: is not `IN: command OUT: actions`; give the published SCAN file"
    )


def test_holding_out_all_of_scan_is_refused() -> None:
    with pytest.raises(FootplateError) as error:
        ScanCorpus(valid_pairs=16_728).pairs("train")
    assert str(error.value) == "corpus.valid_pairs: 16728 leaves nothing of 16728 pairs to train on; choose fewer"
