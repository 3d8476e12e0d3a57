"""A trained translator: raw text in, raw text out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from footplate.context import Context
from footplate.errors import FootplateError
from footplate_nlp.attention_picture import Attention, look
from footplate_nlp.batches import batches_by_width, pad
from footplate_nlp.corpora import Corpus, single_corpora
from footplate_nlp.forced_prefix import check_prefix, encode_prefix
from footplate_nlp.hypothesis import Length
from footplate_nlp.members import open_ensemble
from footplate_nlp.search import SearchConfig, rows_of_a_sentence, search
from footplate_nlp.seq2seq import Searchable, Seq2Seq
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
    source: tuple[int, ...] = ()
    """What the model read, without the end of sentence; empty where the line was cut."""
    target: tuple[int, ...] = ()
    """What it wrote, likewise."""
    truncated: bool = False
    """Whether it, or one of its parts, is as long as it may be: the end was forced there."""


class Translator:
    """Translates lines in batches of similar length; what comes out for a line depends on that line alone.

    A line of more than `longest` tokens is cut into equal parts, which are translated apart and joined by blanks: see
    `longest_part`. An empty line translates into an empty line. A forced prefix begins the first part.
    """

    def __init__(
        self,
        model: Searchable,
        vocabulary: Vocabulary,
        config: SearchConfig,
        context: Context,
        tag: str | None = None,
        *,
        batch_tokens: int = 4096,
        longest: int = 512,
    ) -> None:
        self.batch_tokens = batch_tokens
        self.longest = longest
        self._model = model
        self._vocabulary = vocabulary
        self._search = config
        self._context = context
        self._head = vocabulary.source.head(tag)
        self._parts_seen = 0
        self._lines_seen = 0

    def __call__(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> list[list[Translation]]:
        """For each line its translations, the best first: as many as the search keeps.

        Sampling goes on from call to call: the parts of all lines so far number its streams. Raises FootplateError,
        with the number of the line, where a prefix cannot be forced.
        """
        parts: list[list[int]] = []
        owned: list[range] = []
        for ids in self._vocabulary.source.encode(lines):
            count = -(-len(ids) // self.longest)
            owned.append(range(len(parts), len(parts) + count))
            cuts = [index * len(ids) // count for index in range(count)] + [len(ids)]
            parts += [self._head + ids[begin:end] for begin, end in pairwise(cuts)]
        forced: list[list[int]] = [[] for _ in parts]
        for index, prefix in enumerate(prefixes or ()):
            if prefix and owned[index]:
                first = owned[index][0]
                where = f"line {self._lines_seen + index + 1}"
                forced[first] = encode_prefix(prefix, self._vocabulary, where)
                check_prefix(forced[first], self._search.length.maximum_for(len(parts[first]) + 1), where)
        self._lines_seen += len(lines)
        found = self._translate(parts, forced)
        return [_joined([found[part] for part in those]) for those in owned]

    def look(self, found: Translation) -> Attention:
        """Where the model looked when it wrote this. Raises FootplateError where there is no one attention to show."""
        if not isinstance(self._model, Seq2Seq):
            raise FootplateError("--attention: of several models, each looks elsewhere; leave out the ensemble")
        return look(self._model, self._vocabulary, found.source, found.target)

    def _translate(self, parts: list[list[int]], forced: list[list[int]]) -> list[list[Translation]]:
        sentences = Sentences.of(parts)
        found: list[list[Translation]] = [[] for _ in parts]
        rows = np.arange(len(parts))
        budget = self.batch_tokens // rows_of_a_sentence(self._search)
        for batch_rows in batches_by_width(Pairs(sentences, sentences), rows, budget):
            source_BS = torch.from_numpy(pad(sentences, batch_rows, end=True)).to(self._context.device)
            keys = [self._parts_seen + int(row) for row in batch_rows]
            prefixes = [forced[row] for row in batch_rows]
            with self._context.autocast():
                results = search(self._model, source_BS, self._search, self._context.seed, keys, prefixes)
            for row, hypotheses in zip(batch_rows, results, strict=True):
                texts = self._vocabulary.target.decode(hypothesis.tokens for hypothesis in hypotheses)
                found[row] = [
                    Translation(text, hypothesis.score, 1, tuple(parts[row]), hypothesis.tokens, hypothesis.truncated)
                    for text, hypothesis in zip(texts, hypotheses, strict=True)
                ]
        self._parts_seen += len(parts)
        return found


def _joined(parts: list[list[Translation]]) -> list[Translation]:
    if not parts:
        return [Translation("", 0.0, parts=0)]
    if len(parts) == 1:
        return parts[0]
    return [
        Translation(
            " ".join(part.text for part in ranked),
            sum(part.score for part in ranked),
            len(parts),
            truncated=any(part.truncated for part in ranked),
        )
        for ranked in zip(*parts, strict=False)
    ]


def open_translator(config: Config, context: Context, tag: str | None = None) -> Translator:
    """The translator of a checkpoint, average or ensemble, which searches as `evaluate.search` says.

    Raises FootplateError where the run does not know the tag, or every corpus that it learned from has one and it is
    None.
    """
    model, vocabulary, _ = open_ensemble(config, context, restore_model)
    require_tag(tag, vocabulary, config.corpus)
    evaluation = config.evaluate
    head = len(vocabulary.source.head(tag))
    longest = longest_part(config.widest - head, evaluation.search.length)
    return Translator(
        model, vocabulary, evaluation.search, context, tag, batch_tokens=evaluation.batch_tokens, longest=longest
    )


def longest_part(trained: int, length: Length) -> int:
    """The most tokens, without the end of sentence, that are translated in one piece.

    No more than in training (`trained` counts the end), where positions beyond were never seen. And no more than leave
    as many target tokens and `extra` besides within the output's `maximum`; where `extra` is most of that, half of it.

    >>> longest_part(256, Length()), longest_part(100, Length()), longest_part(256, Length(maximum=20))
    (229, 99, 10)
    """
    room = max(length.maximum - length.extra - 1, length.maximum // 2)
    return max(1, min(trained - 1, room))


def require_tag(tag: str | None, vocabulary: Vocabulary, corpus: Corpus) -> None:
    """Raise FootplateError for a tag that the vocabulary lacks, or where there is none but was one in all training."""
    there = ", ".join(vocabulary.source.tags())
    if tag is None and all(single.tag is not None for single in single_corpora(corpus)):
        raise FootplateError(f"--tag: this run was trained with a tag before every sentence; give one of: {there}")
    if tag is not None and not there:
        raise FootplateError(f"--tag: {tag!r}, but this run was trained without tags; leave it out")
    if tag is not None and tag not in vocabulary.source.tags():
        raise FootplateError(f"--tag: {tag!r} is none of this run's tags; give one of: {there}")
