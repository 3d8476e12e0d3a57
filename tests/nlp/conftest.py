"""What the tests of every kind of model have in common.

Axes: B sentences, N rows of hypotheses, T target positions, V vocabulary.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from footplate_nlp.seq2seq import Seq2Seq

FollowBeam = Callable[[Seq2Seq, Tensor, int], None]


@pytest.fixture
def follow_beam() -> FollowBeam:
    """Checks that a decoder with a beam of 3 for two sentences says in steps what the model says all at once.

    Rows go on from one another at random; half way the first sentence leaves. Tokens are those from 4 to 10.
    """

    def follow(model: Seq2Seq, source_BS: Tensor, positions: int) -> None:
        generator = torch.Generator().manual_seed(1)
        beam, history_NT = 3, torch.empty(6, 0, dtype=torch.long)
        with torch.no_grad():
            decoding = model.start(model.encode(source_BS), beam)
            for position in range(positions):
                tokens_N = torch.randint(4, 11, (len(history_NT),), generator=generator)
                history_NT = torch.cat([history_NT, tokens_N[:, None]], 1)
                logits_NV = decoding.step(tokens_N)
                memory = model.encode(source_BS.repeat_interleave(beam, 0))
                torch.testing.assert_close(logits_NV, model.forced(memory, history_NT)[:, -1], rtol=1e-10, atol=1e-10)
                if position == positions // 2:
                    rows_N = torch.tensor([5, 3, 3])
                    decoding.select(rows_N, torch.tensor([1]))
                    source_BS = source_BS[1:]
                else:
                    first_N = torch.arange(len(source_BS)).repeat_interleave(beam) * beam
                    rows_N = first_N + torch.randint(0, beam, first_N.shape, generator=generator)
                    decoding.select(rows_N)
                history_NT = history_NT[rows_N]

    return follow
