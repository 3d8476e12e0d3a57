"""Segmentations drawn anew each epoch: BPE-dropout and subword regularisation.

One sentence is cut in other ways each time that it is trained on, so that a model sees rare pieces in more contexts.
Evaluation and translation never draw.

Sources: Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization"; Kudo 2018, "Subword
Regularization: Improving Neural Network Translation Models with Multiple Subword Candidates".
"""

from collections.abc import Sequence

from footplate.context import Context
from footplate.streams import stream_key
from footplate_nlp.tokenised import Ints, Pairs, Sentences
from footplate_nlp.vocabulary import Sampling, Tokenizer, Vocabulary

SAMPLED_BLOCK = 1 << 15
"""Pairs whose segmentations are drawn together, and held in memory until they are trained on."""
PAIRS_AT_ONCE = 1 << 13
"""Pairs that the library is handed at once: as lists of Python's integers they take ten times the memory."""


class Segmenter:
    """Draws segmentations of training pairs: a pure function of seed, epoch, block and the pairs of the block."""

    def __init__(self, pairs: Pairs, vocabulary: Vocabulary, sampling: Sampling, context: Context) -> None:
        assert pairs.text is not None, "segmentations are drawn from raw text"
        self._plain = pairs
        self._text = pairs.text
        self._vocabulary = vocabulary
        self._tags = {*vocabulary.source.tags().values()}
        self._sampling = sampling
        self._seed = context.seed

    def __call__(self, rows: Ints, epoch: int, block: int, widest: int) -> Pairs:
        """These pairs, in this order, as they are cut in this epoch.

        A pair that would be wider than `widest`, its end included, keeps its plain segmentation: none is lost by
        chance.
        """
        chunks = [rows[first : first + PAIRS_AT_ONCE] for first in range(0, len(rows), PAIRS_AT_ONCE)]
        drawn = [self._chunk(chunk, (epoch, block, number), widest) for number, chunk in enumerate(chunks)]
        return Pairs(
            Sentences.joined([pairs.source for pairs in drawn]), Sentences.joined([pairs.target for pairs in drawn])
        )

    def _chunk(self, rows: Ints, counters: tuple[int, int, int], widest: int) -> Pairs:
        sources = self._drawn(self._text.source, rows, self._vocabulary.source, (*counters, 0))
        targets = self._drawn(self._text.target, rows, self._vocabulary.target, (*counters, 1))
        for place, row in enumerate(rows):
            plain = self._plain.source[row]
            if len(plain) and int(plain[0]) in self._tags:  # the text itself never yields one
                sources[place] = [int(plain[0]), *sources[place]]
            if max(len(sources[place]), len(targets[place])) + 1 > widest:
                sources[place], targets[place] = plain, self._plain.target[row]
        return Pairs(Sentences.of(sources), Sentences.of(targets))

    def _drawn(
        self, text: Sentences, rows: Ints, tokenizer: Tokenizer, counters: tuple[int, ...]
    ) -> list[Sequence[int] | Ints]:
        lines = [text[row].tobytes().decode() for row in rows]
        seed = stream_key(self._seed, "segmentation", *counters) >> 97  # 31 bits of 128
        return [*tokenizer.sample(lines, self._sampling, seed)]
