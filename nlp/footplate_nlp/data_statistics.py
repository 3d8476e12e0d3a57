"""What a corpus is like: sizes, lengths, what the vocabulary makes of it, and what its parts share.

Read in blocks; what stays in memory are two hashes of each pair, 16 bytes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice

import numpy as np

from footplate_nlp.corpora import Corpus, Part, single_corpora
from footplate_nlp.symbols import UNKNOWN
from footplate_nlp.tokenised import Sentences, tokenise
from footplate_nlp.vocabulary import Vocabulary

_PAIRS_AT_ONCE = 10_000
SIDES = ("source", "target")
Row = tuple[str, str, str]


@dataclass
class SideStatistics:
    """One side of one part."""

    words: int = 0
    """Between blanks."""
    unknown: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """How many sentences have so many tokens, the end of sentence not counted."""
    used: set[int] = field(default_factory=set)
    """The ids that occur."""

    @property
    def tokens(self) -> int:
        """All tokens, without ends of sentences."""
        return sum(length * count for length, count in self.lengths.items())

    def percentile(self, share: float) -> int:
        """The shortest length that this share of the sentences does not exceed."""
        seen, wanted = 0, share * self.lengths.total()
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= wanted:
                return length
        return 0

    def add(self, texts: list[str], sentences: Sentences) -> None:
        """Count these too."""
        self.words += sum(len(text.split()) for text in texts)
        self.unknown += int((sentences.tokens == UNKNOWN).sum())
        self.lengths.update(np.diff(sentences.offsets).tolist())
        self.used.update(np.unique(sentences.tokens).tolist())


@dataclass
class PartStatistics:
    """One part of a corpus."""

    pairs: int
    over_longest: int
    sides: tuple[SideStatistics, SideStatistics]
    hashes: "tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], ...]"
    """Of the text of each side."""

    @property
    def repeated(self) -> int:
        """Pairs that are there already."""
        return self.pairs - len(np.unique(self.hashes[0] ^ (self.hashes[1] << np.uint64(1))))


def measure(corpus: Corpus, part: Part, vocabulary: Vocabulary, longest: int) -> PartStatistics:
    """Read one part of the corpus. Raises FootplateError where it cannot be read."""
    sides = SideStatistics(), SideStatistics()
    hashes: tuple[bytearray, bytearray] = bytearray(), bytearray()
    over_longest = 0
    for single in single_corpora(corpus):
        pairs = single.corpus.pairs(part)
        while block := list(islice(pairs, _PAIRS_AT_ONCE)):
            tokens = tokenise(block, vocabulary, single.tag)
            for side, sentences in enumerate((tokens.source, tokens.target)):
                texts = [pair[side] for pair in block]
                sides[side].add(texts, sentences)
                hashes[side].extend(b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts))
            lengths = np.maximum(np.diff(tokens.source.offsets), np.diff(tokens.target.offsets))
            over_longest += int((lengths + 1 > longest).sum())
    arrays = tuple(np.frombuffer(each, np.uint64) for each in hashes)
    return PartStatistics(len(arrays[0]), over_longest, sides, arrays)


def rows_of(part: Part, found: PartStatistics, train: PartStatistics, vocabulary: Vocabulary) -> Iterator[Row]:
    """The table: (what, source, target), or what both sides share in the second column alone."""

    def both(what: str, source: object, target: object) -> Row:
        return f"{part} {what}", str(source), str(target)

    source, target = found.sides
    yield both("pairs", f"{found.pairs:,}", "")
    yield both("words", f"{source.words:,}", f"{target.words:,}")
    yield both("tokens", f"{source.tokens:,}", f"{target.tokens:,}")
    lengths = [" ".join(str(side.percentile(share)) for share in (0.5, 0.9, 0.99, 1.0)) for side in found.sides]
    yield both("length: 50 90 99 100 %", *lengths)
    yield both("unknown tokens", *(_share(side.unknown, side.tokens) for side in found.sides))
    if found is train:  # nothing else is left out for its length
        yield both("over longest", _share(found.over_longest, found.pairs), "")
    yield both("repeated pairs", _share(found.repeated, found.pairs), "")
    if found is train:
        sizes = vocabulary.source.size, vocabulary.target.size
        used = [side.used for side in found.sides]
        if vocabulary.joint:
            used = [used[0] | used[1]] * 2
        yield both("vocabulary used", *(_share(len(ids), size) for ids, size in zip(used, sizes, strict=True)))
    else:
        seen = [int(np.isin(here, there).sum()) for here, there in zip(found.hashes, train.hashes, strict=True)]
        yield both("sentences in train", *(_share(count, found.pairs) for count in seen))


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({100 * count / max(1, whole):.2f} %)"
