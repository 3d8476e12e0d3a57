"""Segmentations that are drawn anew each epoch: by seed, epoch and block, and by nothing else."""

import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from footplate.checkpoint import CheckpointStore
from footplate.context import Context
from footplate.errors import ConfigError
from footplate.job import load_job
from footplate.step import Step
from footplate_nlp import batches, segmentation, translation
from footplate_nlp.batches import BatchOrder, GlobalBatch
from footplate_nlp.corpora import ParallelCorpus
from footplate_nlp.segmentation import Segmenter
from footplate_nlp.symbols import PAD
from footplate_nlp.tokenised import Pairs
from footplate_nlp.training_pairs import open_corpus
from footplate_nlp.translation import Config
from footplate_nlp.vocabulary import Bpe, Unigram, Vocabulary

KINDS = (Bpe(size=330, bpe_dropout=0.3), Unigram(size=300, sampling_alpha=0.2))
Kind = Bpe | Unigram

WORDS = ["house", "houses", "old", "older", "hill", "hills", "green", "greener", "under", "wonder", "the", "a"]


def texts(count: int = 60) -> list[tuple[str, str]]:
    stream = np.random.default_rng(0)
    drawn = [" ".join(stream.choice(WORDS, stream.integers(1, 7))) for _ in range(count)]
    return [(line, line.upper()) for line in drawn]


def corpus_in(folder: Path, pairs: Sequence[tuple[str, str]] | None = None, tag: str | None = None) -> ParallelCorpus:
    pairs = texts() if pairs is None else pairs
    for part in ("train", "valid", "test"):
        for side, suffix in enumerate(("lower", "upper")):
            (folder / f"{part}.{suffix}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
    return ParallelCorpus(folder=str(folder), source="lower", target="upper", tag=tag)


def opened(folder: Path, config: Kind, tag: str | None = None) -> tuple[Pairs, Vocabulary]:
    vocabulary = Vocabulary()
    pairs = open_corpus(corpus_in(folder, tag=tag), vocabulary, config, Context(folder=folder), "text")
    return pairs, vocabulary


def segmenter(folder: Path, config: Kind, context: Context | None = None, tag: str | None = None) -> Segmenter:
    pairs, vocabulary = opened(folder, config, tag)
    return Segmenter(pairs, vocabulary, config, context or Context())


def tokens(pairs: Pairs) -> list[list[list[int]]]:
    return [[side[row].tolist() for row in range(len(side))] for side in (pairs.source, pairs.target)]


ROWS = np.arange(60)


@pytest.mark.parametrize("config", KINDS)
def test_drawn_text_is_the_same_text_in_more_tokens(config: Kind, tmp_path: Path) -> None:
    pairs, vocabulary = opened(tmp_path, config)
    drawn = segmenter(tmp_path, config)(ROWS, 0, 0, 100)
    sources, targets = tokens(drawn)
    assert vocabulary.source.decode(sources) == [source for source, _ in texts()]
    assert vocabulary.target.decode(targets) == [target for _, target in texts()]
    for side, plain in ((drawn.source, pairs.source), (drawn.target, pairs.target)):
        assert len(side.tokens) > len(plain.tokens)


@pytest.mark.parametrize("config", KINDS)
def test_a_draw_repeats_itself_and_differs_with_seed_epoch_and_block(config: Kind, tmp_path: Path) -> None:
    draw = segmenter(tmp_path, config)
    first = tokens(draw(ROWS, 0, 0, 100))
    assert tokens(segmenter(tmp_path, config)(ROWS, 0, 0, 100)) == first
    others = [
        draw(ROWS, 1, 0, 100),
        draw(ROWS, 0, 1, 100),
        segmenter(tmp_path, config, Context(seed=2))(ROWS, 0, 0, 100),
    ]
    assert all(tokens(other) != first for other in others)
    assert tokens(draw(ROWS, 0, 0, 100)) == first


DRAW = """
import sys
import numpy
from footplate.context import Context
from footplate_nlp.segmentation import Segmenter
from footplate_nlp.token_files import map_corpus
from footplate_nlp.vocabulary import Bpe, Tokenizer, Unigram, Vocabulary
from pathlib import Path
folder = Path(sys.argv[1])
vocabulary = Vocabulary()
vocabulary.load_models({"source": (folder / "model").read_bytes()})
config = Bpe.model_validate_json(sys.argv[2]) if "bpe" in sys.argv[2] else Unigram.model_validate_json(sys.argv[2])
drawn = Segmenter(map_corpus(folder / "data"), vocabulary, config, Context())(numpy.arange(60), 0, 0, 100)
print(drawn.source.tokens.tolist(), drawn.target.tokens.tolist())
"""


@pytest.mark.parametrize("config", KINDS)
def test_another_process_draws_the_same(config: Kind, tmp_path: Path) -> None:
    _, vocabulary = opened(tmp_path, config)
    (tmp_path / "model").write_bytes(vocabulary.source.model)
    command = [sys.executable, "-c", DRAW, str(tmp_path), config.model_dump_json()]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    here = segmenter(tmp_path, config)(ROWS, 0, 0, 100)
    assert there.strip() == f"{here.source.tokens.tolist()} {here.target.tokens.tolist()}"


def test_equal_sentences_of_a_block_are_cut_differently_also_in_another_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "PAIRS_AT_ONCE", 20)
    (tmp_path / "data").mkdir()
    draw = segmenter(tmp_path, KINDS[0])
    same = np.full(60, 4)
    sources, targets = tokens(draw(same, 0, 0, 100))
    assert len({tuple(row) for row in sources}) > 3
    assert sources[:20] != sources[20:40] != sources[40:]
    assert [len(row) for row in sources] != [len(row) for row in targets]


def test_a_pair_that_the_draw_would_make_too_wide_keeps_its_plain_segmentation(tmp_path: Path) -> None:
    pairs, _ = opened(tmp_path, KINDS[0])
    widths = np.maximum(pairs.source.lengths(ROWS), pairs.target.lengths(ROWS)) + 1
    widest = int(widths.max())
    drawn = segmenter(tmp_path, KINDS[0])(ROWS, 0, 0, widest)
    found = np.maximum(drawn.source.lengths(ROWS), drawn.target.lengths(ROWS)) + 1
    assert int(found.max()) <= widest
    kept = [row for row in range(60) if drawn.source[row].tolist() == pairs.source[row].tolist()]
    assert 0 < len(kept) < 60
    loose = segmenter(tmp_path, KINDS[0])(ROWS, 0, 0, 1000)
    narrow = [row for row in ROWS if max(loose.source.lengths(row), loose.target.lengths(row)) + 1 <= widest]
    assert len(narrow) < 60
    assert all(drawn.target[row].tolist() == loose.target[row].tolist() for row in narrow)


def test_a_tag_stays_at_the_head_of_what_is_drawn(tmp_path: Path) -> None:
    pairs, vocabulary = opened(tmp_path, KINDS[0], tag="UPPER")
    head = vocabulary.source.tags()["UPPER"]
    drawn = segmenter(tmp_path, KINDS[0], tag="UPPER")(ROWS, 0, 0, 100)
    for sentences in (pairs.source, drawn.source):
        assert all(sentences[row].tolist().count(head) == 1 and sentences[row][0] == head for row in ROWS)
    assert head not in drawn.target.tokens


def order_of(folder: Path, context: Context, accumulate: int = 1) -> BatchOrder:
    pairs, vocabulary = opened(folder, KINDS[0])
    draw = Segmenter(pairs, vocabulary, KINDS[0], context)
    return BatchOrder(pairs, 150, 60, context, accumulate=accumulate, segmenter=draw)


def of(batches: list[GlobalBatch]) -> list[list[list[int]]]:
    """What the decoder should say, of each batch: padding goes, as the pieces of a batch have their own."""
    rows = ([row for piece in batch.microbatches for row in piece.target_BT.tolist()] for batch in batches)
    return [[[token for token in row if token != PAD] for row in batch] for batch in rows]


def test_the_budget_holds_after_the_draw_and_every_pair_comes_once_an_epoch(tmp_path: Path) -> None:
    order = order_of(tmp_path, Context())
    _, vocabulary = opened(tmp_path, KINDS[0])
    epochs: list[list[str]] = [[], []]
    for batch in order.updates():
        epoch = int(order.state_dict()["epoch"])
        (piece,) = batch.microbatches
        assert len(piece.target_BT) * max(piece.source_BS.shape[1], piece.target_BT.shape[1]) <= 150
        ends = [row[:-1] for row in of([batch])[0]]
        epochs[epoch if order.state_dict()["next"] else epoch - 1] += vocabulary.target.decode(ends)
        assert batch.target_tokens == int((piece.target_BT != PAD).sum())
        if epoch == 2:
            break
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(target for _, target in texts())


def test_ranks_and_accumulation_cut_the_same_batches(tmp_path: Path) -> None:
    whole = of(list(islice(order_of(tmp_path, Context()).updates(), 12)))
    shares = [
        list(islice(order_of(tmp_path, Context(rank=rank, ranks=2), accumulate=2).updates(), 12)) for rank in (0, 1)
    ]
    together = [one + two for one, two in zip(of(shares[0]), of(shares[1]), strict=True)]
    real = [[row for row in batch if row] for batch in together]
    assert real == whole


@pytest.mark.parametrize("block", [16, 1 << 15])
def test_a_restored_order_goes_on_with_the_same_tokens(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SAMPLED_BLOCK", block)
    whole = of(list(islice(order_of(tmp_path, Context()).updates(), 40)))
    assert order_of(tmp_path, Context()).state_dict()["epoch"] == 0
    for cut in (1, 7, 19):
        order = order_of(tmp_path, Context())
        list(islice(order.updates(), cut))
        resumed = order_of(tmp_path, Context())
        resumed.load_state_dict(order.state_dict())
        assert of(list(islice(resumed.updates(), 40 - cut))) == whole[cut:]


def config_of(folder: Path, overrides: Sequence[str] = ()) -> Config:
    corpus_in(folder)
    tiny = [
        f"corpus={{kind: parallel, folder: '{folder}', source: lower, target: upper}}",
        "vocabulary={kind: bpe, size: 330, bpe_dropout: 0.2}",
        "model.width=16",
        "model.feed_forward_width=16",
        "model.dropout=0.1",
        "batch_tokens=600",
        "updates=8",
        "evaluate.every_updates=8",
    ]
    config = load_job("copy-transformer", [*tiny, *overrides]).config
    assert isinstance(config, Config)
    return config


def weights(step: Step) -> dict[str, torch.Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}


def test_a_run_resumed_amid_an_epoch_or_behind_its_end_has_the_weights_of_one_never_stopped(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    whole, stores, epochs = {}, {}, []
    for step in translation.train(config, Context(folder=tmp_path)):
        if step.state is not None:
            epochs.append(step.state["order"].state_dict()["epoch"])
            stores[step.update] = CheckpointStore(tmp_path / f"checkpoints-{step.update}")
            stores[step.update].save(step.update, step.state)
            stores[step.update].close()
            whole = weights(step)
    assert epochs[0] == 0
    assert epochs[-1] >= 1
    border = next(update for update, epoch in enumerate(epochs, start=1) if epoch)
    for stopped in (border - 1, border):
        *_, last = translation.train(config, Context(folder=tmp_path, checkpoint=stores[stopped].at(stopped)))
        assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(last).items())
    *_, plain = translation.train(config_of(tmp_path, ["vocabulary.bpe_dropout=0"]), Context())
    assert not all(torch.equal(tensor, whole[name]) for name, tensor in weights(plain).items())


def test_an_evaluation_never_draws(tmp_path: Path) -> None:
    config = config_of(tmp_path, ["updates=1"])
    *_, trained = translation.train(config, Context())
    *_, again = translation.train(config_of(tmp_path, ["updates=1", "vocabulary.bpe_dropout=0.99"]), Context())
    assert trained.state is not None
    assert again.state is not None
    vocabularies = [step.state["vocabulary"] for step in (trained, again) if step.state is not None]
    held = [translation.hold_out(config.corpus, config.evaluate, vocabulary) for vocabulary in vocabularies]  # type: ignore[arg-type]
    assert np.array_equal(held[0].pairs.source.tokens, held[1].pairs.source.tokens)
    assert np.array_equal(held[0].pairs.target.tokens, held[1].pairs.target.tokens)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["vocabulary.kind=unigram", "vocabulary.bpe_dropout=0.1"],
            "vocabulary.bpe_dropout: kind unigram has no such key (bpe would); remove it",
        ),
        (
            ["vocabulary.kind=word", "vocabulary.bpe_dropout=0.1"],
            "vocabulary.bpe_dropout: kind word has no such key (bpe would); remove it",
        ),
        (
            ["vocabulary.sampling_alpha=0.1"],
            "vocabulary.sampling_alpha: kind bpe has no such key (unigram would); remove it",
        ),
        (["vocabulary.bpe_dropout=1"], "vocabulary.bpe_dropout: must be less than 1, got 1"),
        (
            ["vocabulary.kind=unigram", "vocabulary.sampling_alpha=0"],
            "vocabulary.sampling_alpha: must be greater than 0, got 0",
        ),
    ],
)
def test_a_way_to_draw_that_the_vocabulary_does_not_have_is_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_job("multi30k-en-de", overrides)
    assert str(error.value) == f"command line: {problem}"
