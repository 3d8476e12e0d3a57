"""The corpus as token ids: tokenised once, memory-mapped ever after, so that memory does not grow with the corpus.

data/corpus.json    what it was made from; written last, so that a half-written folder is never taken for a whole one
data/<part>.<side>.tokens     int32, all sentences end to end, without special ids
data/<part>.<side>.offsets    int64, sentence n is tokens[offsets[n]:offsets[n + 1]]
"""

import errno
import json
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from footplate.context import Context
from footplate.errors import FootplateError
from footplate_nlp.corpora import Corpus
from footplate_nlp.scan import Pair
from footplate_nlp.vocabulary import Vocabulary, VocabularyConfig

Ints = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]
LINES_AT_ONCE = 10_000
MANIFEST = "corpus.json"
FORMAT = 1
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Sentences:
    """Token sequences by number, read from disk as they are asked for."""

    def __init__(self, tokens: Ints, offsets: Ints) -> None:
        self.tokens = tokens
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, rows: Ints) -> Ints:
        """How many tokens each of these sentences has."""
        lengths: Ints = self.offsets[rows + 1] - self.offsets[rows]
        return lengths

    def __getitem__(self, row: int) -> Ints:
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def gather(self, rows: Ints) -> tuple[Ints, Ints]:
        """(tokens, lengths): these sentences end to end."""
        lengths = self.lengths(rows)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        places = np.repeat(self.offsets[rows] - starts, lengths) + np.arange(lengths.sum())
        return self.tokens[places], lengths

    @staticmethod
    def of(sentences: list[list[int]]) -> "Sentences":
        """Sentences that are in memory already."""
        offsets = np.cumsum([0, *map(len, sentences)], dtype=np.int64)
        return Sentences(np.fromiter(chain.from_iterable(sentences), np.int32, int(offsets[-1])), offsets)


@dataclass(frozen=True)
class Pairs:
    """Sentence n of the target translates sentence n of the source."""

    source: Sentences
    target: Sentences

    def __len__(self) -> int:
        return len(self.source)


def open_corpus(
    corpus: Corpus, vocabulary: Vocabulary, config: VocabularyConfig, context: Context, fingerprint: str
) -> Pairs:
    """The training pairs as token ids: from the run folder where they fit, else made there (unnamed without a folder).

    A vocabulary that is not learned or restored yet is learned here. Rank 0 does the work and the others wait; one that
    does not see rank 0's disk does it again for itself.
    """
    pairs: Pairs | None = None
    if context.rank == 0:
        if not vocabulary.learned:
            vocabulary.learn(config, lambda: corpus.pairs("train"))
        pairs = _open(corpus, vocabulary, context.folder, fingerprint)
    state = context.broadcast(vocabulary.state_dict() if context.rank == 0 else None)  # also keeps the others waiting
    if pairs is None:
        vocabulary.load_state_dict(state)
        pairs = _open(corpus, vocabulary, context.folder, fingerprint)
    return pairs


def tokenise(pairs: Iterable[Pair], vocabulary: Vocabulary) -> Pairs:
    """Pairs in memory: for a test set, or a few sentences."""
    both = list(pairs)
    return Pairs(
        Sentences.of(vocabulary.source.encode([source for source, _ in both])),
        Sentences.of(vocabulary.target.encode([target for _, target in both])),
    )


def _open(corpus: Corpus, vocabulary: Vocabulary, run_folder: Path | None, fingerprint: str) -> Pairs:
    if run_folder is None:
        with tempfile.TemporaryDirectory(prefix="footplate-data-") as name:
            _write(Path(name), corpus, vocabulary)
            return _read(Path(name))  # what is mapped stays readable when its name is gone
    folder = run_folder / "data"
    origin = {"format": FORMAT, "text": fingerprint, "vocabulary": vocabulary.fingerprint()}
    if not _is_whole(folder, origin):
        beside = Path(tempfile.mkdtemp(prefix=".data-", dir=run_folder))
        try:
            _write(beside, corpus, vocabulary)
            sizes = {path.name: path.stat().st_size for path in beside.iterdir()}
            (beside / MANIFEST).write_text(json.dumps({"origin": origin, "bytes": sizes}))
        except OSError as error:
            shutil.rmtree(beside)
            if error.errno not in _FULL:
                raise
            raise FootplateError(
                f"{folder}: the tokenised corpus cannot be written ({error.strerror}); "
                "make room, or use --runs on another disk"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        try:
            beside.rename(folder)
        except OSError:
            shutil.rmtree(beside)
            if not _is_whole(folder, origin):  # else another rank on this machine was faster
                raise
    return _read(folder)


def _is_whole(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether the folder was made from this; one that is absent, damaged or outdated is made anew."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes = {name: (folder / name).stat().st_size for name in manifest["bytes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    # To map a file that was cut off, and to read beyond its end, would kill the process.
    return bool(manifest["origin"] == origin and manifest["bytes"] == sizes)


def _write(folder: Path, corpus: Corpus, vocabulary: Vocabulary) -> None:
    with ExitStack() as files:
        sides = []
        for name, tokenizer in (("source", vocabulary.source), ("target", vocabulary.target)):
            tokens, offsets = (
                files.enter_context((folder / f"{name}.{kind}").open("wb")) for kind in ("tokens", "offsets")
            )
            offsets.write(np.zeros(1, np.int64).tobytes())
            sides.append((tokenizer, tokens, offsets))
        ends = [0, 0]
        pairs = corpus.pairs("train")
        while block := list(islice(pairs, LINES_AT_ONCE)):
            for side, (tokenizer, tokens, offsets) in enumerate(sides):
                sentences = Sentences.of(tokenizer.encode([pair[side] for pair in block]))
                tokens.write(sentences.tokens.tobytes())
                offsets.write((sentences.offsets[1:] + ends[side]).tobytes())
                ends[side] += len(sentences.tokens)


def _read(folder: Path) -> Pairs:
    def mapped(name: str, kind: type[np.signedinteger[Any]]) -> Ints:
        path = folder / name
        # An empty file cannot be mapped.
        return np.asarray(np.memmap(path, kind, "r")) if path.stat().st_size else np.empty(0, kind)

    source, target = (
        Sentences(mapped(f"{side}.tokens", np.int32), mapped(f"{side}.offsets", np.int64))
        for side in ("source", "target")
    )
    return Pairs(source, target)
