"""Vocabularies: text to token ids and back, through sentencepiece, with the model's bytes inside the checkpoint.

Ids: pad 0, unknown 1, begin of sentence 2, end of sentence 3 (`symbols`), then the pieces. Encoding adds no special id.

The default normaliser `nmt_nfkc` is lossy: it applies Unicode NFKC (full-width letters, ligatures and the like become
plain ones), drops control characters and folds runs of white space, so that decoding returns the normalised text. With
`identity` only white space is folded.

Tags are control symbols, `<2de>` for the tag `de`, behind the four: sentencepiece never finds one in text, whatever
is written there.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

import sentencepiece
import torch
from pydantic import Field

from footplate.errors import ConfigError, FootplateError
from footplate.section import Count, Positive, Probability, Section
from footplate_nlp.symbols import BOS, EOS, PAD, UNKNOWN

Normaliser = Literal["nmt_nfkc", "identity"]
SPACE = "\u2581"
"""What sentencepiece writes for a space; a piece has it at most as its first character."""

sentencepiece.set_min_log_level(2)  # its notes on the training of a vocabulary would break the live display


class Subwords(Section):
    """Pieces of words, learned from the training text."""

    size: Count = 8000
    """Pieces in the vocabulary (in each, when they are separate), the special ones and any bytes included."""
    joint: bool = True
    """One vocabulary for both languages, as tied source embeddings need; or one for each."""
    byte_fallback: bool = True
    """Spell unseen characters in UTF-8 bytes (256 pieces of the vocabulary), so that no input is unknown."""
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 1.0
    """The share of the characters of the text that become pieces; the rare rest is spelled in bytes or unknown."""
    normaliser: Normaliser = "nmt_nfkc"
    """`nmt_nfkc` is lossy (Unicode NFKC); `identity` keeps the characters."""
    training_lines: Count = 2_000_000
    """At most this many pairs are read to learn the pieces: the head of the corpus. Bounds the memory."""


class Bpe(Subwords):
    """Pieces that merge frequent pairs (Sennrich et al. 2016)."""

    kind: Literal["bpe"] = "bpe"
    """Byte-pair encoding."""
    bpe_dropout: Probability = 0.0
    """In training each merge is left out with this probability, drawn anew each epoch; 0.1 is usual, 0 is off."""

    @property
    def sampled(self) -> bool:
        """Whether training draws segmentations."""
        return self.bpe_dropout > 0


class Unigram(Subwords):
    """Pieces of a pruned language model (Kudo 2018)."""

    kind: Literal["unigram"] = "unigram"
    """A unigram language model over pieces."""
    sampling_alpha: Positive | None = None
    """In training draw a segmentation x as likely as P(x)^alpha, anew each epoch; 0.1 to 0.5 are usual; null is off."""

    @property
    def sampled(self) -> bool:
        """Whether training draws segmentations."""
        return self.sampling_alpha is not None


class Symbols(Section):
    """Every word, or every character, of the training text; nothing is learned."""

    kind: Literal["word", "char"] = "word"
    """`word` splits at white space."""
    joint: bool = True
    """One vocabulary for both sides, or one for each."""
    normaliser: Normaliser = "identity"
    """`nmt_nfkc` is lossy (Unicode NFKC); `identity` keeps the characters."""
    training_lines: Count = 2_000_000
    """At most this many pairs are read."""

    @property
    def sampled(self) -> bool:
        """Never: a word, or a character, has one segmentation."""
        return False


VocabularyConfig = Annotated[Bpe | Unigram | Symbols, Field(discriminator="kind")]


class Tokenizer:
    """One sentencepiece model."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @property
    def size(self) -> int:
        """How many ids there are."""
        return int(self._processor.get_piece_size())

    def pieces(self) -> list[str]:
        """The pieces by id."""
        return [self._processor.id_to_piece(index) for index in range(self.size)]

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The ids of each line; an empty line has none."""
        ids: list[list[int]] = self._processor.encode(list(lines), out_type=int, num_threads=1)
        return ids

    def normalise(self, lines: Sequence[str]) -> list[str]:
        """The lines as they are cut into pieces, with `SPACE` for each space and before the first word."""
        return [self._processor.normalize(line) for line in lines]

    def scores(self) -> list[float]:
        """The score of each piece by id: of BPE minus its rank, of unigram its log-probability."""
        return [float(self._processor.get_score(index)) for index in range(self.size)]

    def normal_pieces(self) -> dict[str, int]:
        """The ids of the pieces that text is cut into: neither special ones nor bytes nor tags."""
        kinds = (self._processor.is_control, self._processor.is_unknown, self._processor.is_byte)
        return {piece: index for index, piece in enumerate(self.pieces()) if not any(kind(index) for kind in kinds)}

    @property
    def has_bytes(self) -> bool:
        """Whether characters that are no piece are spelled in bytes."""
        return bool(self._processor.is_byte(self._processor.piece_to_id("<0x00>")))

    def spell(self, character: str) -> list[int]:
        """The ids of a character that is no piece."""
        if not self.has_bytes:
            return [UNKNOWN]
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in character.encode()]

    def tags(self) -> dict[str, int]:
        """The id of each tag that was learned."""
        pieces = ((index, piece) for index, piece in enumerate(self.pieces()) if self._processor.is_control(index))
        return {piece[2:-1]: index for index, piece in pieces if piece.startswith("<2")}

    def head(self, tag: str | None) -> list[int]:
        """What stands before a source sentence: the tag's id, or nothing. Raises FootplateError for an unknown tag."""
        if tag is None:
            return []
        tags = self.tags()
        if tag not in tags:
            raise FootplateError(f"tag {tag!r}: the vocabulary was learned without it; it has {_listed(tags)}")
        return [tags[tag]]

    def decode(self, sentences: Iterable[Sequence[int]]) -> list[str]:
        """The text of each sentence, without line breaks (bytes may spell one)."""
        texts: list[str] = self._processor.decode([list(ids) for ids in sentences], num_threads=1)
        return [text.replace("\n", " ").replace("\r", " ") for text in texts]


class Vocabulary:
    """The tokens of both sides, which share one tokenizer where the vocabulary is joint. A part of the checkpoint."""

    def __init__(self) -> None:
        self._source: Tokenizer | None = None
        self._target: Tokenizer | None = None

    @property
    def learned(self) -> bool:
        """Whether there is a vocabulary yet."""
        return self._source is not None

    @property
    def joint(self) -> bool:
        """Whether both sides share one."""
        return self._source is self._target

    @property
    def source(self) -> Tokenizer:
        """Reads source text."""
        assert self._source is not None, "the vocabulary is neither learned nor restored yet"
        return self._source

    @property
    def target(self) -> Tokenizer:
        """Writes target text."""
        assert self._target is not None, "the vocabulary is neither learned nor restored yet"
        return self._target

    def learn(
        self, config: VocabularyConfig, pairs: Callable[[], Iterable[tuple[str, str]]], tags: Sequence[str] = ()
    ) -> None:
        """Learn from training pairs, of which `pairs` begins a new pass at each call, for a source that has `tags`."""
        sides: list[tuple[int, ...]] = [(0, 1)] if config.joint else [(0,), (1,)]
        tokenizers = []
        for these in sides:
            lines = (pair[side] for pair in islice(pairs(), config.training_lines) for side in these)
            tokenizers.append(Tokenizer(_train(config, lines, tags if 0 in these else ())))
        self._source, self._target = tokenizers[0], tokenizers[-1]

    def fingerprint(self) -> str:
        """SHA-256 over the models: equal vocabularies encode equally."""
        digests = (hashlib.sha256(tokenizer.model).hexdigest() for tokenizer in (self.source, self.target))
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def models(self) -> dict[str, bytes]:
        """sentencepiece's model of each side; of the source alone where both share it."""
        return {"source": self.source.model} | ({} if self.joint else {"target": self.target.model})

    def load_models(self, models: Mapping[str, bytes]) -> None:
        """Take over what `models` gave."""
        self._source = Tokenizer(models["source"])
        self._target = Tokenizer(models["target"]) if "target" in models else self._source

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The models as bytes."""
        return {side: torch.frombuffer(bytearray(model), dtype=torch.uint8) for side, model in self.models().items()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take over saved models."""
        self.load_models({side: tensor.numpy().tobytes() for side, tensor in state.items()})


def _listed(tags: Iterable[str]) -> str:
    return ", ".join(tags) or "none"


def _train(config: VocabularyConfig, lines: Iterable[str], tags: Sequence[str]) -> bytes:
    kind: dict[str, Any]
    if isinstance(config, Subwords):
        kind = {
            "vocab_size": config.size,
            "byte_fallback": config.byte_fallback,
            "character_coverage": config.character_coverage,
        }
    else:
        # use_all_vocab: the size is whatever the text has, but a size must be given all the same.
        kind = {"vocab_size": 4 + len(tags), "use_all_vocab": True, "character_coverage": 1.0}
    if tags:
        kind["control_symbols"] = [f"<2{tag}>" for tag in tags]
    model = io.BytesIO()
    unreadable: list[FootplateError] = []

    def readable() -> Iterator[str]:
        try:
            yield from lines
        except FootplateError as error:  # sentencepiece would wrap it into words of its own
            unreadable.append(error)

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=readable(),
            model_writer=model,
            model_type=config.kind,
            normalization_rule_name=config.normaliser,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BOS,
            eos_id=EOS,
            num_threads=1,  # unigram pieces depend on the number of threads
            max_sentence_length=1 << 20,  # the default leaves longer lines out without a word
            minloglevel=2,
            **kind,
        )
    except RuntimeError as error:
        if not unreadable:
            raise _explained(error) from error
    if unreadable:
        raise unreadable[0]
    return model.getvalue()


def _explained(error: RuntimeError) -> FootplateError:
    text = str(error)
    if most := re.search(r"size too high \((\d+)\).*<= (\d+)", text):
        return ConfigError([f"vocabulary.size: {most[1]} is more than the training text yields; set at most {most[2]}"])
    if least := re.search(r"smaller than required_chars. (\d+) vs (\d+)", text):
        return ConfigError(
            [
                f"vocabulary.size: {least[1]} is less than the characters of the training text need; "
                f"set at least {least[2]}, or lower character_coverage"
            ]
        )
    return FootplateError(f"vocabulary: sentencepiece cannot learn from the training text ({' '.join(text.split())})")
