"""Batches: the budget holds, every pair comes once an epoch, and the order depends on nothing but the seed."""

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from footplate.context import Context
from footplate.errors import CheckpointError, FootplateError
from footplate_nlp import batches
from footplate_nlp.batches import Batch, BatchOrder, GlobalBatch, batches_by_width, pad, to_batch
from footplate_nlp.corpora import CopyCorpus, Part
from footplate_nlp.scan import Pair
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.tokenised import Pairs, Sentences
from footplate_nlp.training_pairs import learn, open_corpus, prepare
from footplate_nlp.vocabulary import Symbols, Vocabulary

CPU = torch.device("cpu")


def pairs_of(lengths: list[tuple[int, int]]) -> Pairs:
    """Pair n has the token 4 + n throughout, so that a batch shows which pairs it has."""
    source, target = ([[4 + number] * pair[side] for number, pair in enumerate(lengths)] for side in (0, 1))
    return Pairs(Sentences.of(source), Sentences.of(target))


def random_pairs(count: int = 200, seed: int = 0) -> Pairs:
    stream = np.random.default_rng(seed)
    return pairs_of([(int(a), int(b)) for a, b in stream.integers(1, 15, (count, 2))])


def members(batch: Batch) -> list[int]:
    return [row[0] - 4 for row in batch.source_BS.tolist() if row[0] != EOS]


def order_of(pairs: Pairs, context: Context, accumulate: int = 1) -> BatchOrder:
    return BatchOrder(pairs, 100, 50, context, accumulate=accumulate, corpus="text")


def updates(order: BatchOrder, count: int) -> list[GlobalBatch]:
    return list(islice(order.updates(), count))


def test_a_batch_by_hand() -> None:
    pairs = Pairs(Sentences.of([[5, 6, 7], [8]]), Sentences.of([[9], [10, 11]]))
    batch = to_batch(pairs, np.array([1, 0]), CPU)
    assert batch.source_BS.tolist() == [[8, EOS, PAD, PAD], [5, 6, 7, EOS]]
    assert batch.input_BT.tolist() == [[BOS, 10, 11], [BOS, 9, PAD]]
    assert batch.target_BT.tolist() == [[10, 11, EOS], [9, EOS, PAD]]


@given(st.lists(st.lists(st.integers(4, 9), max_size=6), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_padding_all_at_once_is_padding_one_by_one(sentences: list[list[int]], begin: bool, end: bool) -> None:
    rows = [[BOS] * begin + tokens + [EOS] * end for tokens in sentences]
    width = max(map(len, rows))
    naive = [row + [PAD] * (width - len(row)) for row in rows]
    assert pad(Sentences.of(sentences), np.arange(len(sentences)), begin=begin, end=end).tolist() == naive


def test_no_rows_are_one_row_that_counts_for_nothing() -> None:
    batch = to_batch(random_pairs(3), np.array([], dtype=np.int64), CPU)
    assert batch.source_BS.tolist() == [[EOS]]
    assert batch.target_BT.tolist() == [[PAD]]
    assert batch.input_BT.shape == batch.target_BT.shape


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40), st.integers(13, 60))
def test_no_batch_exceeds_its_budget_of_padded_tokens_or_could_take_the_next_pair(
    lengths: list[tuple[int, int]], budget: int
) -> None:
    pairs = pairs_of(lengths)
    widths = [max(pair) + 1 for pair in lengths]
    cut = [batch.tolist() for batch in batches_by_width(pairs, np.arange(len(lengths)), budget)]
    assert sorted(row for batch in cut for row in batch) == list(range(len(lengths)))
    for batch, following in zip(cut, [*cut[1:], None], strict=True):
        assert len(batch) * max(widths[row] for row in batch) <= budget
        if following is not None:
            assert (len(batch) + 1) * widths[following[0]] > budget


def test_every_pair_comes_exactly_once_in_an_epoch_and_epochs_differ() -> None:
    pairs = random_pairs()
    order = order_of(pairs, Context())
    epochs: list[list[list[int]]] = [[], []]
    for batch in order.updates():
        epoch = int(order.state_dict()["epoch"])
        epochs[epoch if order.state_dict()["next"] else epoch - 1].append(members(batch.microbatches[0]))
        if epoch == 2:
            break
    for dealt in epochs:
        assert sorted(member for batch in dealt for member in batch) == list(range(200))
    assert epochs[0] != epochs[1]


def test_blocks_of_a_large_corpus_also_deal_every_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK", 64)
    order = order_of(random_pairs(), Context())
    seen: list[int] = []
    for batch in order.updates():
        seen += members(batch.microbatches[0])
        if order.state_dict()["epoch"] == 1:
            break
    assert sorted(seen) == list(range(200))


def test_memory_does_not_grow_with_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK", 1 << 10)
    offsets = np.arange((1 << 18) + 1)
    sentences = Sentences(np.full(1 << 18, 4, np.int32), offsets)
    tracemalloc.start()
    try:
        updates(order_of(Pairs(sentences, sentences), Context()), 1)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(offsets), "two bytes a pair: a number has eight"
    finally:
        tracemalloc.stop()


def test_batches_are_in_random_order_of_length() -> None:
    widths = [batch.microbatches[0].source_BS.shape[1] for batch in updates(order_of(random_pairs(), Context()), 20)]
    assert widths != sorted(widths)


def test_the_order_follows_from_the_seed() -> None:
    pairs = random_pairs()

    def first(seed: int) -> list[list[int]]:
        return [members(batch.microbatches[0]) for batch in updates(order_of(pairs, Context(seed=seed)), 5)]

    assert first(1) == first(1)
    assert first(1) != first(2)


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_a_restored_order_goes_on_where_it_was(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK", block)
    pairs = random_pairs()
    whole = [members(batch.microbatches[0]) for batch in updates(order_of(pairs, Context()), 70)]
    for cut in range(0, 70, 3):
        order = order_of(pairs, Context())
        updates(order, cut)
        resumed = order_of(pairs, Context())
        resumed.load_state_dict(order.state_dict())
        assert [members(batch.microbatches[0]) for batch in updates(resumed, 70 - cut)] == whole[cut:]


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 3), (2, 1), (2, 2), (7, 3)])
def test_an_update_has_the_same_pairs_however_it_is_divided(ranks: int, accumulate: int) -> None:
    pairs = random_pairs()
    whole = updates(order_of(pairs, Context()), 10)
    shares = [updates(order_of(pairs, Context(rank=rank, ranks=ranks), accumulate), 10) for rank in range(ranks)]
    for number, batch in enumerate(whole):
        pieces = [piece for share in shares for piece in share[number].microbatches]
        assert len(pieces) == ranks * accumulate
        assert [member for piece in pieces for member in members(piece)] == members(batch.microbatches[0])
        real = sum(int((piece.target_BT != PAD).sum()) for piece in pieces)
        assert {share[number].target_tokens for share in shares} == {real} == {batch.target_tokens}
        assert batch.source_tokens == int((batch.microbatches[0].source_BS != PAD).sum())


def test_pairs_that_are_too_long_are_left_out_and_counted() -> None:
    pairs = pairs_of([(3, 3), (9, 2), (2, 9), (4, 4)])
    order = BatchOrder(pairs, 100, 5, Context())
    assert order.dropped == 2
    assert sorted(members(updates(order, 1)[0].microbatches[0])) == [0, 3]


def test_a_pair_that_alone_exceeds_the_budget_is_left_out() -> None:
    order = BatchOrder(pairs_of([(3, 3), (9, 2)]), 9, 50, Context())
    assert order.dropped == 1


@pytest.mark.parametrize("sampled", [False, True])
def test_a_block_of_nothing_but_long_pairs_is_passed_over(sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SAMPLED_BLOCK" if sampled else "BLOCK", 4)
    pairs = pairs_of([(3, 3), (9, 2)] * 4)  # the blocks are every second pair each

    def segmenter(rows: Any, epoch: int, block: int, longest: int) -> Pairs:
        assert len(rows)
        return pairs_of([(3, 3)] * len(rows))

    order = BatchOrder(pairs, 100, 5, Context(), segmenter=segmenter if sampled else None)
    for _ in range(3):
        (batch,) = updates(order, 1)
        assert len(batch.microbatches[0].source_BS) == 4


def test_nothing_but_long_pairs_is_refused() -> None:
    with pytest.raises(FootplateError) as error:
        BatchOrder(pairs_of([(9, 2), (2, 9)]), 100, 5, Context())
    assert str(error.value) == (
        "longest: all 2 training pairs have more than 5 tokens on a side; raise longest and batch_tokens"
    )


def test_a_position_in_another_text_is_refused() -> None:
    order = order_of(random_pairs(), Context())
    with pytest.raises(CheckpointError) as error:
        order.load_state_dict(order.state_dict() | {"corpus": "another"})
    assert str(error.value) == "corpus: its text has changed since this run began; put it back, or begin a new run"


def opened(folder: Path | None, corpus: CopyCorpus, text: str) -> Pairs:
    return open_corpus(corpus, Vocabulary(), Symbols(), Context(folder=folder), text)


def test_tokens_on_disk_are_those_in_memory_and_are_written_once(tmp_path: Path) -> None:
    corpus = CopyCorpus(train_pairs=50, valid_pairs=1, test_pairs=1)
    vocabulary = Vocabulary()
    pairs = open_corpus(corpus, vocabulary, Symbols(), Context(folder=tmp_path), "text")
    texts = list(corpus.pairs("train"))
    assert [pairs.source[row].tolist() for row in range(50)] == vocabulary.source.encode([text for text, _ in texts])
    assert [pairs.target[row].tolist() for row in range(50)] == vocabulary.target.encode([text for _, text in texts])
    written = (tmp_path / "data" / "source.tokens").stat().st_mtime_ns
    again = opened(tmp_path, corpus, "text")
    assert (tmp_path / "data" / "source.tokens").stat().st_mtime_ns == written
    assert np.array_equal(again.source.tokens, pairs.source.tokens)
    assert {path.name for path in tmp_path.iterdir()} == {"data", ".tokenising.lock"}


def test_tokens_of_another_text_or_damaged_ones_are_made_anew(tmp_path: Path) -> None:
    first = opened(tmp_path, CopyCorpus(train_pairs=50, valid_pairs=1, test_pairs=1), "text")
    second = opened(tmp_path, CopyCorpus(train_pairs=60, valid_pairs=1, test_pairs=1), "another")
    assert (len(first), len(second)) == (50, 60)
    tokens = tmp_path / "data" / "source.tokens"
    whole = tokens.read_bytes()
    for damage in (tmp_path / "data" / "corpus.json", tokens):
        half = damage.read_bytes()[:-5]
        damage.unlink()  # the other corpora still map the old file
        damage.write_bytes(half)
        opened(tmp_path, CopyCorpus(train_pairs=60, valid_pairs=1, test_pairs=1), "another")
        assert tokens.read_bytes() == whole


def test_a_flipped_byte_is_found_and_said_and_the_text_tokenised_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = CopyCorpus(train_pairs=50, valid_pairs=1, test_pairs=1)
    opened(tmp_path, corpus, "text")
    for name in ("source.tokens", "target.offsets"):
        path = tmp_path / "data" / name
        whole = path.read_bytes()
        path.unlink()  # the corpus that was opened still maps it
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        with caplog.at_level("WARNING", logger="footplate"):
            opened(tmp_path, corpus, "text")
        assert caplog.messages == [f"{path}: is damaged; the text is tokenised anew"]
        assert path.read_bytes() == whole
        caplog.clear()


def test_ranks_that_share_a_folder_make_it_once_and_all_find_it_whole(tmp_path: Path) -> None:
    read: list[str] = []

    class Counted(CopyCorpus):
        def pairs(self, part: Part) -> Iterator[Pair]:
            read.append(part)
            return super().pairs(part)

    corpus = Counted(train_pairs=500, valid_pairs=1, test_pairs=1)
    vocabulary = Vocabulary()
    learn(vocabulary, Symbols(), corpus)
    read.clear()
    together = Barrier(4)

    def rank() -> Pairs:
        together.wait()
        return open_corpus(corpus, vocabulary, Symbols(), Context(folder=tmp_path), "text")

    with ThreadPoolExecutor(4) as ranks:
        found = [each.result() for each in [ranks.submit(rank) for _ in range(4)]]
    assert read == ["train"]
    assert {len(pairs) for pairs in found} == {500}
    assert all(np.array_equal(pairs.target.tokens, found[0].target.tokens) for pairs in found)


@pytest.mark.parametrize("error", [KeyboardInterrupt, FootplateError])
def test_what_was_tokenised_until_it_was_stopped_is_not_left_behind(error: type[BaseException], tmp_path: Path) -> None:
    class Broken(CopyCorpus):
        def pairs(self, part: Part) -> Iterator[Pair]:
            yield from islice(super().pairs(part), 20)
            if read:
                raise error
            read.append(part)

    read: list[str] = []  # the vocabulary is learned from all of it
    broken = Broken(train_pairs=50, valid_pairs=1, test_pairs=1)
    with pytest.raises(error):
        prepare(broken, Symbols(), "text", tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []
    read.clear()
    with pytest.raises(error):
        opened(tmp_path, broken, "text")
    assert [path.name for path in tmp_path.iterdir()] == [".tokenising.lock"]


def test_without_a_run_folder_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pairs = opened(None, CopyCorpus(train_pairs=50, valid_pairs=1, test_pairs=1), "text")
    assert list(tmp_path.iterdir()) == []
    assert len(pairs.source[49]) > 0


@pytest.mark.parametrize(("key", "sizes"), [("batch_tokens", (60, 50)), ("longest", (100, 40))])
def test_a_position_among_other_batches_is_refused(key: str, sizes: tuple[int, int]) -> None:
    began = order_of(random_pairs(), Context())
    updates(began, 3)
    now = BatchOrder(random_pairs(), *sizes, Context(), corpus="text")
    with pytest.raises(CheckpointError) as error:
        now.load_state_dict(began.state_dict())
    before, after = {"batch_tokens": (100, 60), "longest": (50, 40)}[key]
    assert str(error.value) == (
        f"{key}: {after} cuts other batches than the {before} that this run began with; put it back, or begin a new run"
    )


def test_a_position_of_an_earlier_version_is_gone_on_from() -> None:
    began, resumed = (order_of(random_pairs(), Context()) for _ in range(2))
    updates(began, 3)
    state = began.state_dict()
    resumed.load_state_dict({key: state[key] for key in ("epoch", "block", "next", "corpus")})
    assert resumed.state_dict() == state
