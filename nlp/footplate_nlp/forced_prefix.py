"""A beginning that is forced on an output: from text to the tensor that a search reads.

Axes: N rows of hypotheses, P positions of the longest prefix.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from footplate.errors import FootplateError
from footplate_nlp.symbols import BOS, EOS, PAD, UNKNOWN
from footplate_nlp.vocabulary import Vocabulary


def encode_prefix(text: str, vocabulary: Vocabulary, where: str) -> list[int]:
    """The target tokens of a prefix. Raises FootplateError where the vocabulary has not all of it."""
    (ids,) = vocabulary.target.encode([text])
    if UNKNOWN in ids:
        raise FootplateError(
            f"{where}: {text!r} has what the target vocabulary does not know; begin with words that it knows"
        )
    return ids


def padded_prefixes(
    prefixes: Sequence[Sequence[int]], maxima: Sequence[int], keys: Sequence[int], rows: int, device: torch.device
) -> Tensor | None:
    """prefix_NP with `rows` rows for each sentence; None where there is nothing to force.

    Raises FootplateError where a prefix leaves no room for the end of sentence within the sentence's maximum.
    """
    longest = max((len(prefix) for prefix in prefixes), default=0)
    if not longest:
        return None
    for prefix, maximum, key in zip(prefixes, maxima, keys, strict=True):
        check_prefix(prefix, maximum, f"sentence {key + 1}")
    padded = [[*prefix, *[PAD] * (longest - len(prefix))] for prefix in prefixes]
    return torch.tensor(padded, device=device).repeat_interleave(rows, 0)


def check_prefix(prefix: Sequence[int], maximum: int, where: str) -> None:
    """Raise FootplateError where a forced prefix cannot be the beginning of an output."""
    if len(prefix) >= maximum:
        raise FootplateError(
            f"{where}: a forced prefix of {len(prefix)} tokens and the end of sentence are more than its output may "
            f"have ({maximum}); shorten the prefix, or raise evaluate.search.length"
        )
    if {PAD, BOS, EOS} & set(prefix):
        raise FootplateError(
            f"{where}: a forced prefix has tokens that are never written; leave out pad, begin and end"
        )
