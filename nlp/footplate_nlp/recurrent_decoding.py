"""A recurrent decoder in mid-sentence: its cache is its state.

Axes: B sentences, N rows of hypotheses, S source positions, I width of an embedding, V vocabulary.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from footplate_nlp.recurrent_attention import Source
from footplate_nlp.recurrent_decoder import DecoderState
from footplate_nlp.seq2seq import Memory

if TYPE_CHECKING:
    from footplate_nlp.recurrent import Recurrent


class RecurrentDecoding:
    """The state of each row; the source and its keys once for each sentence, however wide the beam."""

    def __init__(self, model: "Recurrent", memory: Memory, beam: int) -> None:
        self.model = model
        self.memory = memory
        state, self.source = model.begin_with(memory)
        self.state: DecoderState = state.repeat(beam)

    def step(self, tokens_N: Tensor) -> Tensor:
        model, decoder = self.model, self.model.decoder
        x_NI = model.dropout(model.embed(tokens_N))
        hidden_ND, weights_NS, self.state = decoder.step(x_NI, decoder.layers[0].project(x_NI), self.state, self.source)
        return model.logits_of_rows(self.memory, self.memory.states_BSD, hidden_ND, weights_NS, x_NI)

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        self.state = self.state.select(rows_N)
        if sentences_B is not None:
            self.memory = self.memory.select(sentences_B)
            if self.source is not None:
                self.source = Source(*(x[sentences_B] for x in self.source))
