"""A Transformer decoder in mid-sentence: one position at a time, with what was computed before in a cache.

Axes: B sentences, N rows of hypotheses, T target positions, S source positions, D width, L layers, H heads,
E width of a head, V vocabulary, G sentences times heads.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from footplate_nlp.attention import SourceCache
from footplate_nlp.seq2seq import Memory

if TYPE_CHECKING:
    from footplate_nlp.transformer import Transformer

FEWEST_SLOTS = 16
"""Attention looks at no fewer positions, written or not: torch multiplies batches of under 400 numbers slowly."""


class TransformerDecoding:
    """Keys and values of the source once for each sentence, those of the target for each row.

    The target's lie position by position, all layers in one tensor: a step writes one block of it, and a selection is
    one copy into a second such tensor, without an allocation.
    """

    def __init__(self, model: "Transformer", memory: Memory, beam: int) -> None:
        self.model = model
        self.memory = memory
        self.position = 0
        self.rows = len(memory.source_BS) * beam
        self.source_L2BHSE = torch.stack([layer.cross_attention.remember(memory.states_BSD) for layer in model.layers])
        self.heads = self.source_L2BHSE.shape[3]
        nothing = self.source_L2BHSE.new_zeros(())
        self.hidden_BS = torch.where(memory.attend_BS, nothing, float("-inf"))
        self.hidden_G1S = self._for_each_head(self.hidden_BS)
        self.capacity = 0
        self.hidden_T = nothing.new_zeros(0)
        self.past = self.spare = nothing.new_zeros(0)

    def step(self, tokens_N: Tensor) -> Tensor:
        position = self.position
        if position == self.capacity:
            self._grow()
        self.hidden_T[position] = 0
        slots = max(position + 1, FEWEST_SLOTS)
        past_TL2ND, hidden_T = self._slots(self.past)[:slots], self.hidden_T[:slots]
        x_ND = input_ND = self.model.embed(self.model.target_embedding, tokens_N[:, None], position)[:, 0]
        looked: list[Tensor] = []
        last = len(self.model.layers) - 1
        for number, layer in enumerate(self.model.layers):
            source = SourceCache(self.source_L2BHSE[number], self.hidden_BS, self.hidden_G1S)
            tell = looked if self.model.copying and number == last else None
            x_ND = layer.step(x_ND, past_TL2ND[:, number], position, hidden_T, source, tell)
        self.position += 1
        hidden_ND = self.model.decoder_norm(x_ND)
        attention_NS = looked[0] if looked else None
        return self.model.logits_of_rows(self.memory, self.memory.states_BSD, hidden_ND, attention_NS, input_ND)

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        written_TL2ND = self._slots(self.past)[: self.position]
        self.rows = len(rows_N)
        if not len(self.spare):
            self.spare = self._empty()
        torch.index_select(written_TL2ND, 3, rows_N, out=self._slots(self.spare)[: self.position])
        self.past, self.spare = self.spare, self.past
        if sentences_B is not None:
            self.memory = self.memory.select(sentences_B)
            self.source_L2BHSE = self.source_L2BHSE.index_select(2, sentences_B)
            self.hidden_BS = self.hidden_BS.index_select(0, sentences_B)
            self.hidden_G1S = self._for_each_head(self.hidden_BS)

    def _slots(self, storage: Tensor) -> Tensor:
        """The storage, which was measured for all rows, divided among those still there: TL2ND."""
        shape = self.capacity, len(self.source_L2BHSE), 2, self.rows, self.model.width
        return storage[: math.prod(shape)].view(shape)

    def _empty(self) -> Tensor:
        """Storage for `capacity` positions. What is looked at unwritten gets weight 0 and must be finite: it is 0."""
        storage = self.source_L2BHSE.new_empty(
            self.capacity * len(self.source_L2BHSE) * 2 * self.rows * self.model.width
        )
        self._slots(storage)[:FEWEST_SLOTS] = 0
        return storage

    def _grow(self) -> None:
        """Make room for twice as many positions."""
        written_TL2ND = self._slots(self.past)[: self.position]
        self.capacity = max(2 * FEWEST_SLOTS, 2 * self.capacity)
        self.hidden_T = self.hidden_T.new_full((self.capacity,), float("-inf"))
        self.hidden_T[: self.position] = 0
        self.past = self._empty()
        self._slots(self.past)[: self.position] = written_TL2ND
        self.spare = self.past[:0]

    def _for_each_head(self, hidden_BS: Tensor) -> Tensor:
        return hidden_BS.repeat_interleave(self.heads, 0).unsqueeze(1)
