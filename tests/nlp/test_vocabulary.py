"""Vocabularies: ids, round trips, and the bytes that make a checkpoint whole."""

import io
from collections.abc import Iterable

import pytest
import torch

from footplate.errors import ConfigError, FootplateError
from footplate_nlp.symbols import BOS, EOS, PAD, UNKNOWN
from footplate_nlp.vocabulary import Bpe, Symbols, Unigram, Vocabulary, VocabularyConfig

PAIRS = [
    ("the old house on the hill", "das alte haus auf dem hügel"),
    ("the old man and the house", "der alte mann und das haus"),
    ("a hill and an old house", "ein hügel und ein altes haus"),
] * 5


def learned(config: VocabularyConfig, pairs: Iterable[tuple[str, str]] = PAIRS) -> Vocabulary:
    vocabulary = Vocabulary()
    vocabulary.learn(config, lambda: pairs)
    return vocabulary


@pytest.mark.parametrize("config", [Bpe(size=300), Unigram(size=289), Symbols(), Symbols(kind="char")])
def test_the_four_special_ids_come_first_and_no_text_encodes_to_them(config: VocabularyConfig) -> None:
    tokenizer = learned(config).source
    assert (PAD, UNKNOWN, BOS, EOS) == (0, 1, 2, 3)
    assert tokenizer.pieces()[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert all(index > EOS for index in tokenizer.encode(["the old house"])[0])
    assert not {PAD, BOS, EOS} & {*tokenizer.encode(["<s> the </s> house <pad>"])[0]}


@pytest.mark.parametrize("config", [Bpe(size=300), Unigram(size=289), Symbols(), Symbols(kind="char")])
def test_what_was_encoded_decodes_to_the_same_text(config: VocabularyConfig) -> None:
    vocabulary = learned(config)
    sources, targets = [source for source, _ in PAIRS], [target for _, target in PAIRS]
    assert vocabulary.source.decode(vocabulary.source.encode(sources)) == sources
    assert vocabulary.target.decode(vocabulary.target.encode(targets)) == targets


def test_with_bytes_no_text_is_unknown() -> None:
    tokenizer = learned(Bpe(size=300)).source
    ids = tokenizer.encode(["snowman ☃ and 漢字"])[0]
    assert UNKNOWN not in ids
    assert tokenizer.decode([ids]) == ["snowman ☃ and 漢字"]


def test_without_bytes_unseen_characters_are_unknown() -> None:
    assert UNKNOWN in learned(Bpe(size=50, byte_fallback=False)).source.encode(["the ☃"])[0]


def test_an_output_never_breaks_the_line() -> None:
    tokenizer = learned(Bpe(size=300)).target
    newline = tokenizer.pieces().index("<0x0A>")
    word = tokenizer.encode(["haus"])[0]
    assert tokenizer.decode([[*word, newline, *word]]) == ["haus  haus"]


def test_the_default_normaliser_is_lossy_and_identity_is_not() -> None:
    ligature = [("\ufb01t", "x")] * 5
    lossy = learned(Bpe(size=265), ligature).source
    exact = learned(Bpe(size=265, normaliser="identity"), ligature).source
    assert lossy.decode(lossy.encode(["\ufb01t"])) == ["fit"]
    assert exact.decode(exact.encode(["\ufb01t"])) == ["\ufb01t"]


def test_words_are_all_that_the_text_has() -> None:
    pieces = learned(Symbols(), [("walk twice", "WALK WALK")]).source.pieces()
    assert sorted(pieces[4:]) == ["▁WALK", "▁twice", "▁walk"]


def test_separate_vocabularies_know_their_own_side_only() -> None:
    vocabulary = learned(Symbols(joint=False), [("walk twice", "WALK WALK")])
    assert not vocabulary.joint
    assert sorted(vocabulary.source.pieces()[4:]) == ["▁twice", "▁walk"]
    assert vocabulary.target.pieces()[4:] == ["▁WALK"]


@pytest.mark.parametrize("joint", [True, False])
def test_a_saved_vocabulary_is_plain_data_and_encodes_alike(joint: bool) -> None:
    vocabulary = learned(Bpe(size=290, joint=joint))
    file = io.BytesIO()
    torch.save(vocabulary.state_dict(), file)
    file.seek(0)
    restored = Vocabulary()
    assert not restored.learned
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.learned
    assert restored.joint == joint
    assert restored.fingerprint() == vocabulary.fingerprint()
    texts = [target for _, target in PAIRS]
    assert restored.target.encode(texts) == vocabulary.target.encode(texts)
    assert restored.source.encode(texts) == vocabulary.source.encode(texts)


def test_learning_twice_gives_the_same_vocabulary() -> None:
    for config in (Bpe(size=300), Unigram(size=289)):
        assert learned(config).fingerprint() == learned(config).fingerprint()


def test_a_size_that_the_text_cannot_fill_is_refused_with_the_largest_that_it_can() -> None:
    with pytest.raises(ConfigError) as error:
        learned(Bpe(size=5000))
    assert str(error.value) == "vocabulary.size: 5000 is more than the training text yields; set at most 367"
    assert learned(Bpe(size=367)).source.size == 367


def test_a_size_below_the_characters_of_the_text_is_refused_with_the_smallest_that_will_do() -> None:
    with pytest.raises(ConfigError) as error:
        learned(Bpe(size=100))
    assert str(error.value) == (
        "vocabulary.size: 100 is less than the characters of the training text need; "
        "set at least 277, or lower character_coverage"
    )


def test_a_text_without_sentences_is_refused() -> None:
    with pytest.raises(FootplateError) as error:
        learned(Bpe(), [])
    assert str(error.value) == (
        "vocabulary: sentencepiece cannot learn from the training text "
        "(INTERNAL: src/trainer_interface.cc(467) [!sentences_.empty()])"
    )


def test_what_is_wrong_with_the_text_is_told_in_its_own_words() -> None:
    def pairs() -> Iterable[tuple[str, str]]:
        yield from PAIRS
        raise FootplateError("train.de:16: the line is empty; fill it in, or remove it from both files")

    with pytest.raises(FootplateError) as error:
        learned(Symbols(), pairs())
    assert str(error.value) == "train.de:16: the line is empty; fill it in, or remove it from both files"
