"""A convolutional decoder in mid-sentence: one position at a time, with each layer's last inputs in a cache.

Axes: B sentences, K hypotheses of a sentence, N = B K rows, L layers, P cached positions (one less than the kernel's),
D width, E width of embeddings, S source positions, V vocabulary, W numbers in a window.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from footplate_nlp.convolutional_layers import source_of
from footplate_nlp.seq2seq import Memory

if TYPE_CHECKING:
    from footplate_nlp.convolutional import Convolutional


class ConvolutionalDecoding:
    """The source once for each sentence; of each row no more than the positions that a convolution still sees.

    So a step costs the same at every position. The rows of a sentence attend together, as positions do in training.
    """

    def __init__(self, model: "Convolutional", memory: Memory, beam: int) -> None:
        self.model = model
        self.beam = beam
        self.memory = memory
        self.source = source_of(memory)
        self.position = 0
        self.input, self.output = model.decoder_input.affine(), model.decoder_output.affine()
        self.affines = [layer.affines() for layer in model.layers]
        rows, width = len(memory.source_BS) * beam, self.input.bias.numel()
        self.past_LNPD = memory.states_BSD.new_zeros(len(self.affines), rows, model.layers[0].before, width)

    def step(self, tokens_N: Tensor) -> Tensor:
        model, sentences = self.model, len(self.memory.source_BS)
        input_BKE = model.embed_target(tokens_N[:, None], self.position).view(sentences, self.beam, -1)
        x_BKD = self.input(input_BKE)
        pasts: list[Tensor] = []
        for layer, affines, past_NPD in zip(model.layers, self.affines, self.past_LNPD, strict=True):
            seen_NPD = torch.cat([past_NPD, x_BKD.flatten(0, 1)[:, None]], 1)
            pasts.append(seen_NPD[:, 1:])
            windows_BKW = seen_NPD.view(sentences, self.beam, -1)
            x_BKD, weights_BKS = layer.look(x_BKD, windows_BKW, input_BKE, self.source, affines)
        self.past_LNPD = torch.stack(pasts)
        self.position += 1
        hidden_NE, weights_NS, input_NE = (x.flatten(0, 1) for x in (self.output(x_BKD), weights_BKS, input_BKE))
        return model.logits_of_rows(self.memory, self.source.value_BSE, hidden_NE, weights_NS, input_NE)

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        self.past_LNPD = self.past_LNPD.index_select(1, rows_N)
        if sentences_B is not None:
            self.memory = self.memory.select(sentences_B)
            self.source = source_of(self.memory)
