"""BPE-dropout: pairs are merged as always, but each possible merge is left out with some probability.

Ours and not sentencepiece's, whose random numbers differ from process to process whatever the seed (0.2.3): no resumed
run would see the same tokens. Without dropout the pieces are those of sentencepiece (tested).

Axes: N symbols of all words, end to end; W words.
"""

from collections.abc import Sequence

import numpy as np

from footplate_nlp.tokenised import Ints, Sentences
from footplate_nlp.vocabulary import SPACE, Tokenizer

_NO_MERGE = np.iinfo(np.int64).max
_BIG = 1 << 32
"""More than there are symbols: pieces, and behind them the characters that are none."""


class BpeDropout:
    """Draws segmentations of text under a BPE model.

    In each step of a word, each of its possible merges is left out with probability `dropout`, and of those that remain
    the one learned first is made, the leftmost if there are several; the word is done when none remains.
    Source: Provilkov et al. 2020, algorithm 1.
    """

    def __init__(self, tokenizer: Tokenizer, dropout: float) -> None:
        self._tokenizer = tokenizer
        self._dropout = dropout
        pieces = tokenizer.normal_pieces()
        scores = tokenizer.scores()
        self._by_rank = np.array(sorted(pieces.values(), key=lambda index: -scores[index]))
        ranks = {int(index): rank for rank, index in enumerate(self._by_rank)}
        merges = {
            pieces[piece[:cut]] * _BIG + pieces[piece[cut:]]: ranks[index]
            for piece, index in pieces.items()
            for cut in range(1, len(piece))
            if piece[:cut] in pieces and piece[cut:] in pieces
        }
        self._keys = np.array(sorted(merges), np.int64)
        self._ranks = np.array([merges[key] for key in sorted(merges)], np.int64)
        self._characters = {ord(piece): index for piece, index in pieces.items() if len(piece) == 1}

    def __call__(self, lines: Sequence[str], stream: np.random.Generator) -> Sentences:
        """One segmentation of each line: a pure function of the model, the lines and the stream."""
        texts = self._tokenizer.normalise(lines)
        codes_N = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        line_N = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        symbols_N = self._merged(self._symbols(codes_N), _words(codes_N, line_N), stream)
        whole_N = symbols_N >= 0
        return _spelled(symbols_N[whole_N], line_N[whole_N], len(texts), self._tokenizer)

    def _symbols(self, codes_N: Ints) -> Ints:
        codes, place_N = np.unique(codes_N, return_inverse=True)
        return np.array([self._characters.get(code, self._tokenizer.size + code) for code in codes.tolist()])[place_N]

    def _merged(self, symbols_N: Ints, word_N: Ints, stream: np.random.Generator) -> Ints:
        """The symbols with each merged one in the place of its first character, and -1 in the others' places.

        Every round makes one merge in every word that is not done: as many rounds as the longest word has merges.
        """
        found_N = np.full(len(symbols_N), -1)
        place_N = np.arange(len(symbols_N))
        while len(symbols_N):
            first_W = np.flatnonzero(np.diff(word_N, prepend=-1))
            rank_N = self._drawn_ranks(symbols_N, word_N, stream)
            best_W = np.minimum.reduceat(rank_N, first_W)
            best_N = np.repeat(best_W, np.diff(first_W, append=len(symbols_N)))
            done_N = best_N == _NO_MERGE
            found_N[place_N[done_N]] = symbols_N[done_N]
            (left,) = np.nonzero((rank_N == best_N) & ~done_N)
            left = left[np.diff(word_N[left], prepend=-1) != 0]  # the leftmost of each word
            symbols_N[left] = self._by_rank[rank_N[left]]
            done_N[left + 1] = True
            symbols_N, word_N, place_N = symbols_N[~done_N], word_N[~done_N], place_N[~done_N]
        return found_N

    def _drawn_ranks(self, symbols_N: Ints, word_N: Ints, stream: np.random.Generator) -> Ints:
        """The rank of the merge of each symbol with the next one; none across words, and none that is left out."""
        rank_N = np.full(len(symbols_N), _NO_MERGE)
        if len(self._keys):
            keys = symbols_N[:-1] * _BIG + symbols_N[1:]
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            possible = (self._keys[at] == keys) & (word_N[:-1] == word_N[1:])
            (where,) = np.nonzero(possible)
            where = where[stream.random(len(where)) >= self._dropout]
            rank_N[where] = self._ranks[at[where]]
        return rank_N


def _words(codes_N: Ints, line_N: Ints) -> Ints:
    """The number of each character's word; no piece goes beyond one."""
    begins_N = (codes_N == ord(SPACE)) | (np.diff(line_N, prepend=-1) != 0)
    return np.cumsum(begins_N) - 1


def _spelled(symbols_N: Ints, line_N: Ints, lines: int, tokenizer: Tokenizer) -> Sentences:
    """The symbols as ids: characters that are no piece in bytes, or, a run of them, as one unknown."""
    ids: dict[int, list[int]] = {
        int(symbol): tokenizer.spell(chr(int(symbol) - tokenizer.size))
        for symbol in np.unique(symbols_N[symbols_N >= tokenizer.size])
    }
    strange_N = symbols_N >= tokenizer.size
    if not tokenizer.has_bytes:
        again_N = strange_N & np.roll(strange_N, 1) & (np.diff(line_N, prepend=-1) == 0)
        symbols_N, line_N, strange_N = symbols_N[~again_N], line_N[~again_N], strange_N[~again_N]
    counts_N = np.ones(len(symbols_N), np.int64)
    counts_N[strange_N] = [len(ids[symbol]) for symbol in symbols_N[strange_N].tolist()]
    tokens = np.repeat(symbols_N, counts_N)
    if ids:
        tokens[np.repeat(strange_N, counts_N)] = [
            index for symbol in symbols_N[strange_N].tolist() for index in ids[symbol]
        ]
    lengths = np.bincount(line_N, counts_N, lines).astype(np.int64)
    return Sentences(tokens.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))
