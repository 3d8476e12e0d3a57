"""The best continuations, found without sorting, are those of a sort.

Axes: B sentences, K hypotheses of a sentence, N rows, V vocabulary, C candidates.
"""

import pytest
import torch

from footplate_nlp.candidates import best_candidates
from footplate_nlp.symbols import BOS, PAD


@pytest.mark.parametrize("vocabulary", [5, 1023, 1024, 1100, 8000])
@pytest.mark.parametrize("beam", [1, 3, 5])
def test_the_best_candidates_are_those_of_a_full_sort(vocabulary: int, beam: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary + beam)
    log_probabilities_NV = torch.randn(4 * beam, vocabulary, generator=generator).log_softmax(-1)
    log_probabilities_NV[:, [PAD, BOS]] = -torch.inf
    scores_BK = torch.randn(4, beam, generator=generator)
    scores_BK[1, 1:] = -torch.inf
    totals_BV = (log_probabilities_NV.view(4, beam, -1) + scores_BK[..., None]).flatten(1)
    expected = totals_BV.sort(descending=True)
    count = min(2 * beam, beam * vocabulary)
    found = best_candidates(log_probabilities_NV, scores_BK, 2 * beam)
    torch.testing.assert_close(found.scores_BC, expected.values[:, :count])
    alive_BC = found.scores_BC > -torch.inf
    flat_BC = found.rows_BC * vocabulary + found.tokens_BC
    assert torch.equal(flat_BC[alive_BC], expected.indices[:, :count][alive_BC])


@pytest.mark.parametrize("last", [1024, 1099])
def test_the_best_candidate_may_be_in_the_incomplete_last_group(last: int) -> None:
    log_probabilities_NV = torch.zeros(2, 1100)
    log_probabilities_NV[1, last] = 1.0
    found = best_candidates(log_probabilities_NV, torch.zeros(1, 2), 1)
    assert (found.rows_BC.item(), found.tokens_BC.item()) == (1, last)


def test_more_candidates_than_groups_are_found_too() -> None:
    log_probabilities_NV = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1))
    found = best_candidates(log_probabilities_NV, torch.zeros(1, 1), 200)
    assert torch.equal(found.tokens_BC, log_probabilities_NV.topk(200).indices)
