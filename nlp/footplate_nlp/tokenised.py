"""Sentences and pairs of them as token ids, in memory or mapped from disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Optional

import numpy as np

from footplate_nlp.scan import Pair
from footplate_nlp.vocabulary import Vocabulary

Ints = np.ndarray[Any, np.dtype[np.integer[Any]]]


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
    def of(sentences: Sequence[Sequence[int] | Ints], kind: type[np.integer[Any]] = np.int32) -> "Sentences":
        """Sentences that are in memory already."""
        offsets = np.cumsum([0, *map(len, sentences)], dtype=np.int64)
        return Sentences(np.fromiter(chain.from_iterable(sentences), kind, int(offsets[-1])), offsets)

    @staticmethod
    def joined(parts: Sequence["Sentences"]) -> "Sentences":
        """The sentences of one after those of another."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return Sentences(np.concatenate([part.tokens for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))


@dataclass(frozen=True)
class Pairs:
    """Sentence n of the target translates sentence n of the source."""

    source: Sentences
    target: Sentences
    text: Optional["Pairs"] = None
    """The same as raw text, the tokens being UTF-8 bytes, where it is kept."""

    def __len__(self) -> int:
        return len(self.source)


def tokenise(pairs: Iterable[Pair], vocabulary: Vocabulary, tag: str | None = None) -> Pairs:
    """Pairs in memory: for a test set, or a few sentences. Raises FootplateError for a tag that was not learned."""
    both = list(pairs)
    head = vocabulary.source.head(tag)
    sources = vocabulary.source.encode([source for source, _ in both])
    return Pairs(
        Sentences.of([head + ids for ids in sources] if head else sources),
        Sentences.of(vocabulary.target.encode([target for _, target in both])),
    )
