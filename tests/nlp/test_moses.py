"""Text as the Multi30k literature scores it."""

from typing import get_args

import pytest
from sacremoses.corpus import NonbreakingPrefixes

from footplate_nlp.moses import MosesLanguage, moses_lines

# As lowercase.perl | normalize-punctuation.perl | tokenizer.perl write them.
GERMAN = {
    "Ein Mann in Blau, ca. 40 cm.": "ein mann in blau , ca. 40 cm .",
    "Es ist der 40.": "es ist der 40.",  # an ordinal number keeps its dot
    "Der „Große“ U-Bahn-Plan (z.B. Berlin)!": "der &quot; große &quot; u-bahn-plan ( z.b. berlin ) !",
    "Er sagt: “Ja.”": "er sagt : &quot; ja &quot; .",
    "Größe ist's \u2013 sicher…": "größe ist &apos; s - sicher ...",
    "Für 1.000,50 € & mehr [alt]": "für 1.000,50 € &amp; mehr &#91; alt &#93;",
}
ENGLISH = {
    "A man's dog isn't here.": "a man &apos;s dog isn &apos;t here .",
    'He says "yes".': "he says &quot; yes . &quot;",
    "About 4' tall, 1,000 kg": "about 4 &apos; tall , 1,000 kg",
}


def test_german_lines_by_hand() -> None:
    assert moses_lines(list(GERMAN), "de") == list(GERMAN.values())


def test_english_lines_by_hand() -> None:
    assert moses_lines(list(ENGLISH), "en") == list(ENGLISH.values())


@pytest.mark.parametrize("nothing", [[], [""]])
def test_nothing_stays_nothing(nothing: list[str]) -> None:
    assert moses_lines(nothing, "de") == nothing


def test_the_languages_are_those_of_the_library() -> None:
    assert set(get_args(MosesLanguage)) == set(NonbreakingPrefixes().available_langs.values())
