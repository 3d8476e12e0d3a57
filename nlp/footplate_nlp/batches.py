"""Batches by token budget, of sentences of similar length, in an order that is a pure function of seed and epoch.

Axes: B sentences, S source positions, T target positions.

A sentence pair's *width* is the longer of its two sides, the end of sentence included: a batch of B pairs costs
B x (its largest width) tokens, padding and all, and that never exceeds `batch_tokens`. So memory is bounded by the
recipe, not by the luck of the draw. Where segmentations are drawn, batches are cut after the draw.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from footplate.context import Context
from footplate.errors import CheckpointError, FootplateError
from footplate_nlp.segmentation import SAMPLED_BLOCK, Segmenter
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.tokenised import Ints, Pairs, Sentences

BLOCK = 1 << 20
"""Pairs that are shuffled together: bounds the memory. A larger corpus is dealt out into blocks, even samples of it."""


class Batch(NamedTuple):
    """Some sentence pairs, padded on the right with `PAD`; int64."""

    source_BS: Tensor
    """The source and `EOS`."""
    input_BT: Tensor
    """`BOS` and the target: what the decoder is fed."""
    target_BT: Tensor
    """The target and `EOS`: what it should say."""


class GlobalBatch(NamedTuple):
    """The pairs of one update."""

    microbatches: list[Batch]
    """This rank's pieces, one for each accumulation step."""
    source_tokens: int
    """Source tokens over all pieces of all ranks, ends of sentences included, padding not."""
    target_tokens: int
    """Target tokens, likewise."""


class BatchOrder:
    """Deals out a corpus, epoch after epoch. Its state is a position; everything else follows from the seed.

    Each update's batch is cut by rows into one piece for each accumulation step of each rank, so that the update is the
    same however it is divided. Pairs wider than `longest` (or than a batch) are left out, and counted in `dropped`.
    `corpus` identifies the text: a position in another one would mean nothing. `segmenter` cuts text anew each epoch.
    """

    def __init__(
        self,
        pairs: Pairs,
        batch_tokens: int,
        longest: int,
        context: Context,
        *,
        accumulate: int = 1,
        corpus: str = "",
        segmenter: Segmenter | None = None,
    ) -> None:
        self.pairs = pairs
        self._segmenter = segmenter
        self.batch_tokens = batch_tokens
        self.longest = min(longest, batch_tokens)
        self.dropped = sum(int((_widths(pairs, _rows(block)) > self.longest).sum()) for block in self._blocks())
        if self.dropped == len(pairs):
            raise FootplateError(
                f"longest: all {len(pairs)} training pairs have more than {self.longest} tokens on a side; "
                "raise longest and batch_tokens"
            )
        self._context = context
        self._accumulate = accumulate
        self._corpus = corpus
        self._epoch, self._block, self._next = 0, 0, 0

    def updates(self) -> Iterator[GlobalBatch]:
        """Batches without end. While it is suspended, the state points behind the batch that was handed out."""
        blocks = self._blocks()
        while True:
            planned = (self._epoch, self._block)
            pairs, batches = self._plan(_rows(blocks[self._block]))
            while planned == (self._epoch, self._block):
                rows = batches[self._next] if batches else None  # none where all of the block's pairs are too wide
                self._next += 1
                if self._next >= len(batches):
                    self._next = 0
                    self._block = (self._block + 1) % len(blocks)
                    self._epoch += self._block == 0
                if rows is not None:
                    yield self._cut(pairs, rows)

    def state_dict(self) -> dict[str, int | str]:
        """The position, and what it is a position in."""
        return {
            "epoch": self._epoch,
            "block": self._block,
            "next": self._next,
            "corpus": self._corpus,
            "batch_tokens": self.batch_tokens,
            "longest": self.longest,
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from there. Raises CheckpointError where the corpus is another one by now, or is cut otherwise."""
        if state["corpus"] != self._corpus:
            raise CheckpointError("corpus: its text has changed since this run began; put it back, or begin a new run")
        for key, now in (("batch_tokens", self.batch_tokens), ("longest", self.longest)):
            if (before := state.get(key, now)) != now:  # earlier versions did not note it
                raise CheckpointError(
                    f"{key}: {now} cuts other batches than the {before} that this run began with; "
                    "put it back, or begin a new run"
                )
        self._epoch, self._block, self._next = state["epoch"], state["block"], state["next"]

    def _blocks(self) -> list[range]:
        """The rows of each block: ranges, as the arrays of all of them would grow with the corpus."""
        count = -(-len(self.pairs) // (BLOCK if self._segmenter is None else SAMPLED_BLOCK))
        return [range(first, len(self.pairs), count) for first in range(count)]

    def _plan(self, block: Ints) -> tuple[Pairs, list[Ints]]:
        """The block's batches, as rows of the pairs that they are rows of."""
        stream = self._context.stream("order", self._epoch, self._block)
        places = stream.permutation(len(block))
        places = places[_widths(self.pairs, block[places]) <= self.longest]
        if not len(places):
            return self.pairs, []
        if self._segmenter is None:
            pairs, rows = self.pairs, block[places]
        else:
            kept = np.sort(places)  # what is read from disk is read in its order
            pairs = self._segmenter(block[kept], self._epoch, self._block, self.longest)
            rows = np.searchsorted(kept, places)
        batches = batches_by_width(pairs, rows, self.batch_tokens)
        return pairs, [batches[index] for index in stream.permutation(len(batches))]

    def _cut(self, pairs: Pairs, rows: Ints) -> GlobalBatch:
        pieces = np.array_split(rows, self._accumulate * self._context.ranks)
        mine = pieces[self._context.rank * self._accumulate :][: self._accumulate]
        return GlobalBatch(
            [to_batch(pairs, piece, self._context.device) for piece in mine],
            int(pairs.source.lengths(rows).sum()) + len(rows),
            int(pairs.target.lengths(rows).sum()) + len(rows),
        )


def batches_by_width(pairs: Pairs, rows: Ints, batch_tokens: int) -> list[Ints]:
    """The rows, sorted by width and cut wherever one more would exceed the budget of padded tokens.

    Equal widths are ordered by target length, then source length, and keep the order of `rows` beyond that. A row that
    is wider than the budget is a batch of its own.
    """
    widths = _widths(pairs, rows)
    order = np.lexsort((pairs.source.lengths(rows), pairs.target.lengths(rows), widths))
    rows, widths = rows[order], widths[order]
    batches = []
    first = 0
    while first < len(rows):
        # The widest row of [first, last) is the last one, so its cost grows with `last`: bisection finds the end.
        most = min(len(rows) - first, batch_tokens // int(widths[first]))
        fits = bisect_right(range(1, most + 1), batch_tokens, key=lambda count: count * int(widths[first + count - 1]))
        last = first + max(1, fits)
        batches.append(rows[first:last])
        first = last
    return batches


def to_batch(pairs: Pairs, rows: Ints, device: torch.device) -> Batch:
    """The rows as padded tensors. No rows at all become one row whose target is all padding: it counts for nothing."""
    if len(rows) == 0:
        source, nothing = torch.tensor([[EOS]]), torch.tensor([[PAD]])
        return Batch(source.to(device), nothing.to(device), nothing.to(device))
    source_BS = pad(pairs.source, rows, end=True)
    target_BT = pad(pairs.target, rows, end=True)
    input_BT = pad(pairs.target, rows, begin=True)
    return Batch(*(torch.from_numpy(array).to(device) for array in (source_BS, input_BT, target_BT)))


def pad(sentences: Sentences, rows: Ints, *, begin: bool = False, end: bool = False) -> Ints:
    """The sentences as rows of int64, with `BOS` before or `EOS` behind each where asked, then `PAD`."""
    tokens, lengths = sentences.gather(rows)
    width = int(lengths.max()) + begin + end
    array = np.full((len(rows), width), PAD, np.int64)
    columns = np.arange(width)
    array[(columns >= begin) & (columns < lengths[:, None] + begin)] = tokens
    if begin:
        array[:, 0] = BOS
    if end:
        array[np.arange(len(rows)), lengths + begin] = EOS
    return array


def _rows(block: range) -> Ints:
    return np.arange(block.start, block.stop, block.step)


def _widths(pairs: Pairs, rows: Ints) -> Ints:
    widths: Ints = np.maximum(pairs.source.lengths(rows), pairs.target.lengths(rows)) + 1
    return widths
