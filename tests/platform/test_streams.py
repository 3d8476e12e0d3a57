"""Random streams are functions of what they are called."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from footplate.context import Context
from footplate.streams import numpy_stream, stream_key, torch_seed, torch_stream

GOLDEN_INTEGERS = [321, 736, 285, 331]
GOLDEN_SEED = 7206524260817987184

names = st.text(st.characters(codec="ascii", exclude_characters="/", categories=("L", "N")), min_size=1)
labels = st.tuples(st.integers(0, 9), names, st.lists(st.integers(0, 99), max_size=3).map(tuple))


@given(labels, labels)
def test_two_streams_are_equal_only_if_they_are_called_the_same(
    first: tuple[int, str, tuple[int, ...]], second: tuple[int, str, tuple[int, ...]]
) -> None:
    key = [stream_key(seed, name, *counters) for seed, name, counters in (first, second)]
    assert (key[0] == key[1]) == (first == second)


def test_asking_again_gives_the_same_numbers_whatever_happened_between() -> None:
    first = numpy_stream(1, "order", 3).random(5)
    np.random.default_rng(0).random(100)
    assert np.array_equal(first, numpy_stream(1, "order", 3).random(5))
    assert torch.equal(
        torch.rand(4, generator=torch_stream(1, "order")), torch.rand(4, generator=torch_stream(1, "order"))
    )


def test_these_numbers_are_the_same_on_every_machine_and_in_every_version() -> None:
    assert numpy_stream(1, "order", 0).integers(1000, size=4).tolist() == GOLDEN_INTEGERS
    assert torch_seed(1, "order", 0) == GOLDEN_SEED


def test_seeding_torch_makes_dropout_a_function_of_the_update() -> None:
    context = Context(seed=5)
    draws = []
    for update in (1, 2, 1):
        context.seed_torch("update", 0, update)
        draws.append(torch.nn.functional.dropout(torch.ones(64)))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
