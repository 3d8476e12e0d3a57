"""Where sentence pairs come from: each corpus is a section of the recipe that yields raw text by split.

A pair is (source, target). Nothing is held in memory: files are read line by line, and every problem in them is a
`FootplateError` that names file and line.
"""

import codecs
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from footplate.errors import FootplateError
from footplate.folder import is_seen
from footplate.section import Count, Section
from footplate.streams import numpy_stream
from footplate_nlp.scan import Pair, Split, scan_split

Folder = Annotated[str, AfterValidator(lambda folder: os.path.realpath(os.path.expanduser(folder)))]  # noqa: PTH111
"""Relative to where the command runs, absolute once read: runs are resumed from anywhere, and workers move about.

Not by `Path.resolve`, which raises where links lead in a circle: who opens the files says so in a line.
"""
Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
Tag = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,40}$")]
Length = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,40}$")]


class ScanCorpus(Section):
    """SCAN (Lake & Baroni 2018): made from its grammar, or read from the published files."""

    kind: Literal["scan"] = "scan"
    split: Split = "simple"
    """`simple` holds out a random fifth, `length` long action sequences, `addprim_jump` what `jump` combines with."""
    folder: Folder | None = None
    """Where the published `tasks_{train,test}_<split>.txt` are; null makes the text from the grammar."""
    valid_pairs: Count = 500
    """How many training pairs are held out for validation; test pairs are never looked at in training."""

    def pairs(self, part: Part) -> Iterator[Pair]:
        """The pairs of one part, in a fixed order."""
        if self.folder is None:
            train, test = scan_split(self.split)
        else:
            train, test = (list(_published(path)) for path in self.files())
        if part == "test":
            return iter(test)
        if self.valid_pairs >= len(train):
            raise FootplateError(
                f"corpus.valid_pairs: {self.valid_pairs} leaves nothing of {len(train)} pairs to train on; choose fewer"
            )
        order = numpy_stream(0, "scan/valid", len(train)).permutation(len(train))
        rows = order[: self.valid_pairs] if part == "valid" else order[self.valid_pairs :]
        return (train[row] for row in rows)

    def files(self) -> list[Path]:
        """The files that training reads, if any: the test file too, since one call reads both."""
        folder = self.folder
        return [] if folder is None else [Path(folder) / f"tasks_{part}_{self.split}.txt" for part in ("train", "test")]


class CopyCorpus(Section):
    """Random sequences of letters to be copied, or reversed: a toy that any correct model learns at once."""

    kind: Literal["copy"] = "copy"
    reverse: bool = False
    """Whether the target is the source backwards."""
    symbols: Annotated[int, Field(ge=1, le=26)] = 10
    """How many different letters there are."""
    shortest: Length = 1
    """Letters in the shortest sequence."""
    longest: Length = 10
    """Letters in the longest sequence; lengths are equally frequent where there are enough sequences."""
    train_pairs: Count = 10_000
    """Training pairs; no sequence occurs twice, in training or outside."""
    valid_pairs: Count = 200
    """Validation pairs."""
    test_pairs: Count = 200
    """Test pairs."""

    @model_validator(mode="after")
    def _enough_sequences(self) -> "CopyCorpus":
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is above longest {self.longest}; swap them")
        wanted = self.train_pairs + self.valid_pairs + self.test_pairs
        # Nobody wants 2 ** 70 of them, and to compute 26 ** 1_000_000 takes long.
        lengths = range(self.shortest, min(self.longest, self.shortest + 70) + 1)
        possible = max(self.longest - self.shortest + 1, sum(self.symbols ** min(length, 70) for length in lengths))
        if wanted * 2 > possible:
            raise ValueError(
                f"{wanted} different sequences cannot be drawn from {possible} (at most half); "
                "ask for fewer pairs, more symbols or longer sequences"
            )
        return self

    def pairs(self, part: Part) -> Iterator[Pair]:
        """The pairs of one part: a pure function of this section."""
        held_out = self.valid_pairs + self.test_pairs
        first, last = {
            "valid": (0, self.valid_pairs),
            "test": (self.valid_pairs, held_out),
            "train": (held_out, held_out + self.train_pairs),
        }[part]
        for number, letters in enumerate(self._sequences()):
            if number >= last:
                return
            if number >= first:
                yield " ".join(letters), " ".join(reversed(letters) if self.reverse else letters)

    def files(self) -> list[Path]:
        """None: the corpus is drawn, not read."""
        return []

    def _sequences(self) -> Iterator[str]:
        stream = numpy_stream(0, "copy", self.symbols, self.shortest, self.longest)
        drawn_at_once = max(1, 4096 // self.longest)  # a draw for each sequence would take most of the time
        seen: set[str] = set()
        while True:
            ends = stream.integers(self.shortest, self.longest + 1, size=drawn_at_once).cumsum()
            letters = (ord("a") + stream.integers(self.symbols, size=ends[-1])).astype(np.uint8).tobytes().decode()
            for start, end in pairwise([0, *ends]):
                sequence = letters[start:end]
                if sequence not in seen:
                    seen.add(sequence)
                    yield sequence


class ParallelCorpus(Section):
    """Parallel text: two files a part, one sentence a line, UTF-8, plain or .gz; line n translates line n.

    The files of a part are `<folder>/<part's stem>.<language>`, or the same with `.gz`.
    """

    kind: Literal["parallel"] = "parallel"
    folder: Folder = "."
    """Where the files are, relative to where the command runs."""
    source: str
    """The suffix of the source files, such as `en`."""
    target: str
    """The suffix of the target files, such as `de`."""
    train: str = "train"
    """What the training files are called before their suffix."""
    valid: str = "valid"
    """The same of the validation files."""
    test: str = "test"
    """The same of the test files; they are read only when an evaluation asks for them."""
    tag: Tag | None = None
    """Stands before every source sentence as a token that no text has, such as the target language; null is none."""

    _folder_key: str = "corpus.folder"
    """What a recipe calls the folder."""

    def pairs(self, part: Part) -> Iterator[Pair]:
        """The pairs of one part, in the order of the files."""
        source, target = self._files_of(part)
        return _side_by_side(source, target, self._folder_key)

    def named(self, name: str) -> Self:
        """The same as one of several, which has this name among them."""
        one = self.model_copy()
        one._folder_key = f"corpus.corpora.{name}.folder"
        return one

    def files(self) -> list[Path]:
        """The files that training reads."""
        return list(self._files_of("train"))

    def _files_of(self, part: Part) -> tuple[Path, Path]:
        stem = {"train": self.train, "valid": self.valid, "test": self.test}[part]
        return self._find(f"{stem}.{self.source}"), self._find(f"{stem}.{self.target}")

    def _find(self, name: str) -> Path:
        plain = Path(self.folder) / name
        packed = plain.with_name(f"{plain.name}.gz")
        if is_seen(plain) or not is_seen(packed):
            return plain
        return packed


class SeveralCorpora(Section):
    """Several parallel corpora in one model, told apart by their tags (Johnson et al. 2017)."""

    kind: Literal["several"] = "several"
    corpora: Annotated[dict[Name, ParallelCorpus], Field(min_length=1)]
    """Each under a name of yours, under which it is evaluated too; their training pairs are shuffled together."""

    @field_validator("corpora")
    @classmethod
    def _each_knows_its_name(cls, corpora: dict[str, ParallelCorpus]) -> dict[str, ParallelCorpus]:
        return {name: corpus.named(name) for name, corpus in corpora.items()}

    def pairs(self, part: Part) -> Iterator[Pair]:
        """The pairs of one part, corpus after corpus."""
        return chain.from_iterable(corpus.pairs(part) for corpus in self.corpora.values())

    def files(self) -> list[Path]:
        """The files that training reads."""
        return [path for corpus in self.corpora.values() for path in corpus.files()]


Corpus = Annotated[ScanCorpus | CopyCorpus | ParallelCorpus | SeveralCorpora, Field(discriminator="kind")]


class SingleCorpus(NamedTuple):
    """One of the corpora that a corpus is made of."""

    name: str | None
    """Among several."""
    tag: str | None
    corpus: ScanCorpus | CopyCorpus | ParallelCorpus


def single_corpora(corpus: Corpus) -> list[SingleCorpus]:
    """What the corpus is made of, in the order of its pairs."""
    if isinstance(corpus, SeveralCorpora):
        return [SingleCorpus(name, each.tag, each) for name, each in corpus.corpora.items()]
    return [SingleCorpus(None, corpus.tag if isinstance(corpus, ParallelCorpus) else None, corpus)]


def tags_of(corpus: Corpus) -> list[str]:
    """The tags of its corpora, each once, in their order."""
    return list(dict.fromkeys(single.tag for single in single_corpora(corpus) if single.tag is not None))


def learning_pairs(corpus: Corpus) -> Iterator[Pair]:
    """The training pairs in the order in which a vocabulary reads them: in turns from each corpus, as only the head
    of them may be read."""
    for row in zip_longest(*(single.corpus.pairs("train") for single in single_corpora(corpus))):
        yield from (pair for pair in row if pair is not None)


def text_fingerprint(corpus: Corpus) -> str:
    """SHA-256 over the section and the bytes of every file it trains from: equal where the training text is equal."""
    if isinstance(corpus, SeveralCorpora):
        each = (f"{name} {text_fingerprint(single)}" for name, single in corpus.corpora.items())
        return hashlib.sha256("\n".join(each).encode()).hexdigest()
    # No tag leaves no trace: runs from before there were tags go on.
    elsewhere = {"folder", "valid", "test"} if isinstance(corpus, ParallelCorpus) else {"folder"}
    digest = hashlib.sha256(corpus.model_dump_json(exclude=elsewhere, exclude_none=True).encode())
    if isinstance(corpus, CopyCorpus):
        digest.update(b"drawn in blocks")  # earlier ones of the same section had other sequences
    folder_key = corpus._folder_key if isinstance(corpus, ParallelCorpus) else "corpus.folder"
    for path in corpus.files():
        with _opened(path, folder_key) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]
    return digest.hexdigest()


def read_lines(path: Path, folder_key: str = "corpus.folder") -> Iterator[str]:
    """The lines of a UTF-8 text file without their ends; a byte-order mark is dropped. The key says where it is.

    Only a line feed ends a line: other characters that Unicode calls line breaks stay, since they would shift one side
    of a parallel text against the other.
    """
    with _opened(path, folder_key) as raw:
        file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                yield decode_line(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, f"{path}:{number}")
        except (gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
            raise FootplateError(f"{path}:{number + 1}: cannot be read ({error}); is the file complete?") from error


def decode_line(line: bytes, where: str) -> str:
    """A line's text, without its end."""
    try:
        return line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        raise FootplateError(
            f"{where}: byte {error.start + 1} is not valid UTF-8 (0x{line[error.start]:02x}); convert the text to UTF-8"
        ) from error


def _opened(path: Path, folder_key: str) -> IO[bytes]:
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        from footplate_nlp.downloads import CORPORA

        reason = error.strerror if isinstance(error, OSError) else str(error)
        fetching = f", or fetch it: footplate data download {path.parent.name}" if path.parent.name in CORPORA else ""
        raise FootplateError(
            f"{path}: cannot be opened ({reason}); set {folder_key}, relative to where the command runs{fetching}"
        ) from error


def _side_by_side(source: Path, target: Path, folder_key: str) -> Iterator[Pair]:
    sources, targets = read_lines(source, folder_key), read_lines(target, folder_key)
    number = 0
    for number, (left, right) in enumerate(zip_longest(sources, targets), start=1):
        if left is None or right is None:
            longer = number + sum(1 for _ in (targets if left is None else sources))
            counts = (number - 1, longer) if left is None else (longer, number - 1)
            raise FootplateError(
                f"{source}: has {counts[0]} lines but {target} has {counts[1]}; "
                "line n of one must translate line n of the other"
            )
        for path, text in ((source, left), (target, right)):
            if not text.strip():
                raise FootplateError(f"{path}:{number}: the line is empty; fill it in, or remove it from both files")
        yield left, right
    if number == 0:
        raise FootplateError(f"{source}: the file is empty; there is nothing to read")


def _published(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(read_lines(path), start=1):
        command, marker, actions = line.removeprefix("IN: ").partition(" OUT: ")
        if not (line.startswith("IN: ") and marker and command and actions):
            raise FootplateError(f"{path}:{number}: is not `IN: command OUT: actions`; give the published SCAN file")
        yield command, actions
