"""Text as the Multi30k literature scores it: lower-cased, punctuation normalised, tokenised as Moses does."""

from collections.abc import Sequence
from typing import Literal

MosesLanguage = Literal[
    "as", "bn", "ca", "cs", "de", "el", "en", "es", "et", "fi", "fr", "ga", "gu", "hi", "hu", "is", "it", "kn", "lt",
    "lv", "ml", "mni", "mr", "nl", "or", "pa", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "ta", "te", "tdt", "yue", "zh",
]  # fmt: skip
"""The languages whose abbreviations Moses knows, so that their dots end no sentence."""


def moses_lines(lines: Sequence[str], language: MosesLanguage) -> list[str]:
    """Each line as `lowercase.perl | normalize-punctuation.perl -l language | tokenizer.perl -l language` leaves it.

    Quotes and brackets come out escaped (`&quot;`), hyphens stay: what made the published `.lc.norm.tok` files.

    >>> moses_lines(['Er sagt: "Ja, z.B. U-Bahn."'], "de")
    ['er sagt : &quot; ja , z.b. u-bahn &quot; .']
    """
    from sacremoses import MosesPunctNormalizer, MosesTokenizer  # half a second that most runs need not spend

    normaliser = MosesPunctNormalizer(language, perl_parity=True)
    tokenizer = MosesTokenizer(language)
    # The script sees each line's end, which the rule that moves a quote before the last dot (de, es, fr) counts on.
    return [tokenizer.tokenize(normaliser.normalize(f"{line.lower()}\n"), return_str=True) for line in lines]


def moses_version() -> str:
    """The version of the library, for a score's signature."""
    import sacremoses

    return str(sacremoses.__version__)
