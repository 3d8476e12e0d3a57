"""A trained translator: raw text in, raw text out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from footplate.context import Context
from footplate.errors import FootplateError
from footplate_nlp.batches import batches_by_width, pad
from footplate_nlp.corpora import Corpus, members
from footplate_nlp.search import SearchConfig, search
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.tokenised import Pairs, Sentences
from footplate_nlp.translation import Config, restore_model
from footplate_nlp.vocabulary import Vocabulary


@dataclass(frozen=True)
class Translation:
    """One translation of a line."""

    text: str
    score: float
    """By which the search ranked it; the sum over the parts of a line that was cut."""
    parts: int = 1
    """Into how many parts the line was cut because it was too long; 0 for an empty line."""


class Translator:
    """Translates lines in batches of similar length; what comes out for a line depends on that line alone.

    A line of more than `longest` tokens is cut into equal parts, which are translated apart and joined by blanks: the
    memory of attention grows with the square of the length. An empty line translates into an empty line.
    """

    def __init__(
        self, model: Seq2Seq, vocabulary: Vocabulary, config: SearchConfig, context: Context, tag: str | None = None
    ) -> None:
        self.batch_tokens = 4096
        self.longest = 512
        self._model = model
        self._vocabulary = vocabulary
        self._search = config
        self._context = context
        self._head = vocabulary.source.head(tag)
        self._parts_seen = 0

    def __call__(self, lines: Sequence[str]) -> list[list[Translation]]:
        """For each line its translations, the best first: as many as the search keeps.

        Sampling goes on from call to call: the parts of all lines so far number its streams.
        """
        parts: list[list[int]] = []
        owned: list[range] = []
        for ids in self._vocabulary.source.encode(lines):
            count = -(-len(ids) // self.longest)
            owned.append(range(len(parts), len(parts) + count))
            cuts = [index * len(ids) // count for index in range(count)] + [len(ids)]
            parts += [self._head + ids[begin:end] for begin, end in pairwise(cuts)]
        found = self._translate(parts)
        return [_joined([found[part] for part in those]) for those in owned]

    def _translate(self, parts: list[list[int]]) -> list[list[Translation]]:
        sentences = Sentences.of(parts)
        found: list[list[Translation]] = [[] for _ in parts]
        rows = np.arange(len(parts))
        for batch_rows in batches_by_width(Pairs(sentences, sentences), rows, self.batch_tokens):
            source_BS = torch.from_numpy(pad(sentences, batch_rows, end=True)).to(self._context.device)
            keys = [self._parts_seen + int(row) for row in batch_rows]
            with torch.inference_mode(), self._context.autocast():
                results = search(self._model, source_BS, self._search, seed=self._context.seed, keys=keys)
            for row, hypotheses in zip(batch_rows, results, strict=True):
                texts = self._vocabulary.target.decode(hypothesis.tokens for hypothesis in hypotheses)
                found[row] = [
                    Translation(text, hypothesis.score) for text, hypothesis in zip(texts, hypotheses, strict=True)
                ]
        self._parts_seen += len(parts)
        return found


def _joined(parts: list[list[Translation]]) -> list[Translation]:
    if not parts:
        return [Translation("", 0.0, parts=0)]
    return [
        Translation(" ".join(part.text for part in ranked), sum(part.score for part in ranked), len(parts))
        for ranked in zip(*parts, strict=False)
    ]


def open_translator(config: Config, context: Context, tag: str | None = None) -> Translator:
    """The translator of a checkpoint (or an average), which searches as `evaluate.search` says.

    Raises FootplateError where the run does not know the tag, or every corpus that it learned from has one and it is
    None.
    """
    model, vocabulary, _ = restore_model(config, context)
    require_tag(tag, vocabulary, config.corpus)
    return Translator(model, vocabulary, config.evaluate.search, context, tag)


def require_tag(tag: str | None, vocabulary: Vocabulary, corpus: Corpus) -> None:
    """Raise FootplateError for a tag that the vocabulary lacks, or where there is none but was one in all training."""
    there = ", ".join(vocabulary.source.tags())
    if tag is None and all(member.tag is not None for member in members(corpus)):
        raise FootplateError(f"--tag: this run was trained with a tag before every sentence; give one of: {there}")
    if tag is not None and not there:
        raise FootplateError(f"--tag: {tag!r}, but this run was trained without tags; leave it out")
    if tag is not None and tag not in vocabulary.source.tags():
        raise FootplateError(f"--tag: {tag!r} is none of this run's tags; give one of: {there}")
