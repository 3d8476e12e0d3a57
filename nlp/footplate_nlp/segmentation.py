"""Segmentations drawn anew each epoch: BPE-dropout and subword regularisation.

A sentence is cut differently each time that it is trained on, so that rare pieces are seen in more contexts. Evaluation
and translation never draw.
"""

from collections.abc import Callable, Sequence

import numpy as np

from footplate.context import Context
from footplate_nlp.bpe_dropout import BpeDropout
from footplate_nlp.subword_regularisation import SubwordRegularisation
from footplate_nlp.tokenised import Ints, Pairs, Sentences
from footplate_nlp.vocabulary import Bpe, Tokenizer, Unigram, Vocabulary, VocabularyConfig

SAMPLED_BLOCK = 1 << 15
"""Pairs whose segmentations are drawn before they are trained on, and held in memory till then."""
PAIRS_AT_ONCE = 1 << 12
"""Pairs that are drawn together: bounds what the drawing itself needs."""

Draw = Callable[[Sequence[str], np.random.Generator], Sentences]


def draw_for(config: VocabularyConfig, tokenizer: Tokenizer) -> Draw:
    """How a recipe draws segmentations that does (`sampled`)."""
    if isinstance(config, Bpe):
        return BpeDropout(tokenizer, config.bpe_dropout)
    assert isinstance(config, Unigram)
    assert config.sampling_alpha is not None
    return SubwordRegularisation(tokenizer, config.sampling_alpha)


class Segmenter:
    """Draws segmentations of training pairs: a pure function of seed, epoch, block and the pairs of the block."""

    def __init__(self, pairs: Pairs, vocabulary: Vocabulary, config: VocabularyConfig, context: Context) -> None:
        assert pairs.text is not None, "segmentations are drawn from raw text"
        self._plain = pairs
        self._text = pairs.text
        self._source = draw_for(config, vocabulary.source)
        self._target = draw_for(config, vocabulary.target) if not vocabulary.joint else self._source
        self._tags = np.array([*vocabulary.source.tags().values()], np.int32)
        self._context = context

    def __call__(self, rows: Ints, epoch: int, block: int, widest: int) -> Pairs:
        """These pairs, in this order, as they are cut in this epoch.

        A pair that would be wider than `widest`, its end included, keeps its plain segmentation: none is lost by
        chance.
        """
        chunks = [rows[first : first + PAIRS_AT_ONCE] for first in range(0, len(rows), PAIRS_AT_ONCE)]
        drawn = []
        for number, chunk in enumerate(chunks):
            stream = self._context.stream("segmentation", epoch, block, number)
            drawn.append(self._chunk(chunk, stream, widest))
        return Pairs(
            Sentences.joined([pairs.source for pairs in drawn]), Sentences.joined([pairs.target for pairs in drawn])
        )

    def _chunk(self, rows: Ints, stream: np.random.Generator, widest: int) -> Pairs:
        sources = self._tagged(self._source(_lines(self._text.source, rows), stream), rows)
        targets = self._target(_lines(self._text.target, rows), stream)
        places = np.arange(len(rows))
        wide = np.maximum(sources.lengths(places), targets.lengths(places)) + 1 > widest
        if not wide.any():
            return Pairs(sources, targets)
        kept = [
            Sentences.of([plain[row] if wide[place] else drawn[place] for place, row in enumerate(rows)])
            for drawn, plain in ((sources, self._plain.source), (targets, self._plain.target))
        ]
        return Pairs(kept[0], kept[1])

    def _tagged(self, drawn: Sentences, rows: Ints) -> Sentences:
        """With the tag of each sentence that has one: its first plain token, as text itself never yields a tag."""
        if not len(self._tags):
            return drawn
        plain = [self._plain.source[row][:1] for row in rows]
        heads = [head.tolist() if np.isin(head, self._tags).any() else [] for head in plain]
        return Sentences.of([head + drawn[place].tolist() for place, head in enumerate(heads)])


def _lines(text: Sentences, rows: Ints) -> list[str]:
    return [text[row].tobytes().decode() for row in rows]
