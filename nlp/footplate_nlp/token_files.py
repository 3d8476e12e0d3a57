"""Token arrays on disk, written once and memory-mapped ever after, so that memory does not grow with the corpus.

corpus.json           what it was made from and the digest of each file; written last, so that a half-written folder is
                      never taken for a whole one
<side>.tokens         int32, all sentences end to end, without special ids but for tags
<side>.offsets        int64, sentence n is tokens[offsets[n]:offsets[n + 1]]
<side>.text           uint8, the raw sentences in UTF-8, only where segmentations are drawn from them
<side>.text.offsets   int64, likewise
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from footplate.errors import FootplateError
from footplate_nlp.corpora import Corpus, single_corpora
from footplate_nlp.scan import Pair
from footplate_nlp.tokenised import Ints, Pairs, Sentences, tokenise
from footplate_nlp.vocabulary import Vocabulary

LINES_AT_ONCE = 10_000
MANIFEST = "corpus.json"
FORMAT = 2
SIDES = ("source", "target")


def write_corpus(folder: Path, corpus: Corpus, vocabulary: Vocabulary, *, text: bool) -> None:
    """Tokenise the training pairs into the folder, and with `text` keep the raw sentences beside them."""
    with ExitStack() as files:
        tokens = [_Writer(folder, f"{side}.tokens", f"{side}.offsets", files) for side in SIDES]
        texts = [_Writer(folder, f"{side}.text", f"{side}.text.offsets", files) for side in SIDES] if text else []
        for single in single_corpora(corpus):
            pairs, done = single.corpus.pairs("train"), 0
            while block := list(islice(pairs, LINES_AT_ONCE)):
                both = tokenise(block, vocabulary, single.tag)
                _require_tokens(both, block, done, least=(single.tag is not None, 0))
                done += len(block)
                for writer, sentences in zip(tokens, (both.source, both.target), strict=True):
                    writer.add(sentences)
                for side, writer in enumerate(texts):
                    writer.add(Sentences.of([pair[side].encode() for pair in block], np.uint8))


def _require_tokens(both: Pairs, block: Sequence[Pair], before: int, least: tuple[int, int]) -> None:
    """Raise FootplateError for a side that has no more than its `least` tokens: it was all characters that go."""
    for number, sentences in enumerate((both.source, both.target)):
        lengths = np.diff(sentences.offsets)
        row = int(lengths.argmin())
        if lengths[row] <= least[number]:
            raise FootplateError(
                f"corpus: training pair {before + row + 1}: nothing is left of its {SIDES[number]} "
                f"{block[row][number]!r} once it is normalised; mend it or remove the pair"
            )


class _Writer:
    def __init__(self, folder: Path, values: str, offsets: str, files: ExitStack) -> None:
        self._values = files.enter_context((folder / values).open("wb"))
        self._offsets: IO[bytes] = files.enter_context((folder / offsets).open("wb"))
        self._offsets.write(np.zeros(1, np.int64).tobytes())
        self._end = 0

    def add(self, sentences: Sentences) -> None:
        self._values.write(sentences.tokens.tobytes())
        self._offsets.write((sentences.offsets[1:] + self._end).tobytes())
        self._end += len(sentences.tokens)


def seal(folder: Path, origin: Mapping[str, Any]) -> None:
    """Write the manifest: what is in the folder is whole."""
    files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"origin": origin, "files": files}))


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What the folder says that it was made from; None where there is no manifest that can be read."""
    try:
        origin = json.loads((folder / MANIFEST).read_text())["origin"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return origin if isinstance(origin, dict) else None


def find_damage(folder: Path) -> str | None:
    """The first file that is not as the manifest of the folder says, of those that there must be; else None.

    Reads every byte, at some 0.5 GB/s: a flipped one would be trained on, and to map a file that was cut off and read
    beyond its end would kill the process.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        for name, digest in files.items():
            if not (folder / name).is_file() or _digest(folder / name) != digest:
                return str(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return MANIFEST
    needed = {f"{side}.{kind}" for side in SIDES for kind in ("tokens", "offsets")}
    return min(needed - set(files), default=None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_corpus(folder: Path) -> Pairs:
    """The pairs in the folder, mapped; what is mapped stays readable when its name is gone."""
    source, target = (_map(folder, f"{side}.tokens", f"{side}.offsets", np.int32) for side in SIDES)
    if not (folder / "source.text").exists():
        return Pairs(source, target)
    raw_source, raw_target = (_map(folder, f"{side}.text", f"{side}.text.offsets", np.uint8) for side in SIDES)
    return Pairs(source, target, Pairs(raw_source, raw_target))


def _map(folder: Path, values: str, offsets: str, kind: type[np.integer[Any]]) -> Sentences:
    def mapped(name: str, kind: type[np.integer[Any]]) -> Ints:
        path = folder / name
        # An empty file cannot be mapped.
        return np.asarray(np.memmap(path, kind, "r")) if path.stat().st_size else np.empty(0, kind)

    return Sentences(mapped(values, kind), mapped(offsets, np.int64))
