"""What training and search ask of a model, and nothing more: each decoder and each loss works with every model.

Axes: B sentences, S source positions, T target positions, D width, V target vocabulary, N rows of hypotheses, K of a
sentence, E width of what is attended to, I width of the embedded input.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from footplate_nlp.copying import Copying, mixture


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
    """Whatever else the decoder of this kind of model starts from, such as final recurrent states; sentences first."""

    def select(self, sentences_B: Tensor) -> "Memory":
        """Only those sentences."""
        source_BS, states_BSD, attend_BS = self.source_BS, self.states_BSD, self.attend_BS
        extra = tuple(tensor[sentences_B] for tensor in self.extra)
        return Memory(source_BS[sentences_B], states_BSD[sentences_B], attend_BS[sentences_B], extra)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the decoder makes of each target position."""

    hidden_BTD: Tensor
    """Its last layer; the output matrix makes logits of it."""
    attention_BTS: Tensor | None = None
    """Where it looked in the source, in sums of 1: only if asked for, or if the model copies."""
    gate_BT: Tensor | None = None
    """Of a model that copies: the log-odds of writing rather than copying."""

    def select(self, sentences_B: Tensor) -> "Decoded":
        """Only those sentences."""
        attention_BTS = None if self.attention_BTS is None else self.attention_BTS[sentences_B]
        gate_BT = None if self.gate_BT is None else self.gate_BT[sentences_B]
        return Decoded(self.hidden_BTD[sentences_B], attention_BTS, gate_BT)


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

    copying: Copying | None
    """The gate of a model that copies; each kind of model sets it."""

    @abstractmethod
    def encode(self, source_BS: Tensor) -> Memory:
        """Read the source (int64 ids, `PAD` where there is nothing)."""

    @abstractmethod
    def decode(self, memory: Memory, input_BT: Tensor, *, attention: bool = False) -> Decoded:
        """All positions, fed with input_BT (`BOS`, then the target without its last token); see `Decoded`."""

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
        return self.logits(memory, self.decode(memory, input_BT))

    def logits(self, memory: Memory, decoded: Decoded) -> Tensor:
        """logits_BTV, with what is copied: all at once, so not for training."""
        logits_BTV = self.project(decoded.hidden_BTD)
        if decoded.gate_BT is None or decoded.attention_BTS is None:
            return logits_BTV
        source_BTS = memory.source_BS[:, None].expand(decoded.attention_BTS.shape)
        return mixture(logits_BTV, decoded.gate_BT, decoded.attention_BTS, source_BTS)

    def logits_of_rows(
        self, memory: Memory, states_BSE: Tensor, hidden_ND: Tensor, attention_NS: Tensor | None, input_NI: Tensor
    ) -> Tensor:
        """logits_NV after a step, with what is copied; `states_BSE` is what the gate reads where attention looks.

        The rows of a sentence are to its source what positions are in training, so nothing of it is repeated for them.
        """
        if self.copying is None or attention_NS is None:
            return self.project(hidden_ND)
        rows = hidden_ND, attention_NS, input_NI
        hidden_BKD, attention_BKS, input_BKI = (x.view(len(states_BSE), -1, x.shape[-1]) for x in rows)
        gate_BK = self.copying(hidden_BKD, attention_BKS, states_BSE, input_BKI)
        return self.logits(memory, Decoded(hidden_BKD, attention_BKS, gate_BK)).flatten(0, 1)

    def begin(self, source_BS: Tensor, beam: int) -> Decoding:
        """`start` on the encoded source: what a search calls."""
        return self.start(self.encode(source_BS), beam)
