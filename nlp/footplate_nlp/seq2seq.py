"""What training and search ask of a model, and nothing more: each decoder and each loss works with every model.

Axes: B sentences, S source positions, T target positions, D width, V target vocabulary, N rows of hypotheses.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Memory:
    """What the decoder knows of the source."""

    source_BS: Tensor
    """The ids that were encoded; a model that copies needs them."""
    states_BSD: Tensor
    """What the decoder attends to."""
    attend_BS: Tensor
    """True where there is something to attend to: False where the source is padding."""
    extra: tuple[Tensor, ...] = ()
    """Whatever else the decoder of this kind of model starts from, such as final recurrent states."""


class Decoding(Protocol):
    """A decoder in mid-sentence, with its cache: rows of hypotheses, `beam` neighbouring ones for each sentence."""

    def step(self, tokens_N: Tensor) -> Tensor:
        """Feed each row its next token (`BOS` at first); logits_NV of what follows, which depend on that row alone.

        The caller may overwrite them.
        """
        ...

    def select(self, rows_N: Tensor, sentences_B: Tensor | None = None) -> None:
        """Row n goes on from what row rows_N[n] has been. With `sentences_B` (ascending) only those sentences remain.

        The rows of a sentence come from rows of that same sentence; they are numbered as they were before the call.
        """
        ...


class Searchable(Protocol):
    """All that a search needs: one model, or several that decode together."""

    def begin(self, source_BS: Tensor, beam: int) -> Decoding:
        """A decoder for these sentences before its first step, with `beam` rows for each."""
        ...


class Seq2Seq(nn.Module, ABC):
    """A model of target given source. Ids are those of `symbols`; padding is on the right and changes nothing."""

    @abstractmethod
    def encode(self, source_BS: Tensor) -> Memory:
        """Read the source (int64 ids, `PAD` where there is nothing)."""

    @abstractmethod
    def hidden(self, memory: Memory, input_BT: Tensor) -> Tensor:
        """hidden_BTD: the decoder's last layer, fed with input_BT (`BOS`, then the target without its last token)."""

    @property
    @abstractmethod
    def output_matrix(self) -> Tensor:
        """output_VD, which makes logits of hidden states."""

    @abstractmethod
    def start(self, memory: Memory, beam: int) -> Decoding:
        """A decoder before its first step, with `beam` rows for each sentence of the memory."""

    def project(self, hidden_ND: Tensor) -> Tensor:
        """logits_NV (any leading axes) of hidden states."""
        return F.linear(hidden_ND, self.output_matrix)

    def forced(self, memory: Memory, input_BT: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the token that follows each position of the input: logits_BTV."""
        return self.project(self.hidden(memory, input_BT))

    def begin(self, source_BS: Tensor, beam: int) -> Decoding:
        """`start` on the encoded source: what a search calls."""
        return self.start(self.encode(source_BS), beam)
