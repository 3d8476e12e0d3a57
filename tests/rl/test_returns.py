"""Returns against worked examples and against the sum that defines them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from footplate_rl.returns import generalised_advantages, n_step_returns


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool).unsqueeze(1)


NO = flags(0, 0, 0)
YES = flags(1, 1, 1)


def test_without_an_end_the_value_after_the_last_step_bootstraps() -> None:
    # 4 + 16/2 = 12; 2 + 12/2 = 8; 1 + 8/2 = 5
    returns_TN = n_step_returns(column(1, 2, 4), NO, NO, YES, column(9, 9, 9, 16), column(7, 7, 7), 0.5)
    assert returns_TN.flatten().tolist() == [5, 8, 12]


def test_a_terminal_state_is_worth_nothing_and_hides_what_follows() -> None:
    # 4 + 16/2 = 12; 2; 1 + 2/2 = 2
    returns_TN = n_step_returns(column(1, 2, 4), flags(0, 1, 0), NO, YES, column(9, 9, 9, 16), column(7, 7, 7), 0.5)
    assert returns_TN.flatten().tolist() == [2, 2, 12]


def test_a_truncated_episode_bootstraps_from_its_own_last_observation() -> None:
    # 4 + 16/2 = 12; 2 + 6/2 = 5; 1 + 5/2 = 3.5
    returns_TN = n_step_returns(column(1, 2, 4), NO, flags(0, 1, 0), YES, column(9, 9, 9, 16), column(7, 6, 7), 0.5)
    assert returns_TN.flatten().tolist() == [3.5, 5, 12]


def test_what_is_both_terminal_and_truncated_is_terminal() -> None:
    end = flags(0, 1, 0)
    returns_TN = n_step_returns(column(1, 2, 4), end, end, YES, column(9, 9, 9, 16), column(7, 6, 7), 0.5)
    assert returns_TN.flatten().tolist() == [2, 2, 12]


def test_a_window_stops_at_a_row_that_is_no_transition_and_bootstraps_there() -> None:
    # 4 + 16/2 = 12; the row itself: V = 10, its reward 2 ignored; 1 + 10/2 = 6
    returns_TN = n_step_returns(column(1, 2, 4), NO, NO, flags(1, 0, 1), column(9, 10, 9, 16), column(7, 6, 7), 0.5)
    assert returns_TN.flatten().tolist() == [6, 10, 12]


def test_undefined_values_behind_an_end_do_not_get_through() -> None:
    values_SN = column(9, 9, 9, float("nan"))
    returns_TN = n_step_returns(column(1, 2, 4), flags(0, 0, 1), NO, YES, values_SN, column(*[float("inf")] * 3), 0.5)
    assert returns_TN.flatten().tolist() == [3, 4, 4]


def test_environments_do_not_mix() -> None:
    ended_TN = torch.tensor([[False, False], [True, False]])
    no_TN = torch.zeros_like(ended_TN)
    rewards_TN = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    values_SN = torch.tensor([[0.0, 0.0], [0.0, 0.0], [8.0, 80.0]])
    returns_TN = n_step_returns(rewards_TN, ended_TN, no_TN, ~no_TN, values_SN, rewards_TN, 0.5)
    assert returns_TN.tolist() == [[2.0, 40.0], [2.0, 60.0]]


def test_on_a_chain_the_true_values_reproduce_themselves_whatever_cuts_it() -> None:
    """Reward 1 a step for ever, V = 1 / (1 - discount) = 4 everywhere: no cut but termination may change a return."""
    values_SN, rewards_TN = column(4, 4, 4, 4), column(1, 1, 1)
    for truncated_TN in (NO, flags(1, 0, 0), flags(0, 1, 1)):
        for valid_TN in (YES, flags(1, 0, 1)):
            returns_TN = n_step_returns(rewards_TN, NO, truncated_TN, valid_TN, values_SN, values_SN[:-1], 0.75)
            assert returns_TN.flatten().tolist() == [4, 4, 4]


def by_definition(row: int, n: int, rewards, ended, truncated, valid, values, final, discount) -> float:  # type: ignore[no-untyped-def]
    """The discounted sum of rewards from `row` on, to where its window stops, plus what it bootstraps from."""
    if not valid[row][n]:
        return float(values[row][n])
    total, weight = 0.0, 1.0
    for t in range(row, len(rewards)):
        if not valid[t][n]:
            return total + weight * float(values[t][n])
        total += weight * float(rewards[t][n])
        weight *= discount
        if ended[t][n]:
            return total
        if truncated[t][n]:
            return total + weight * float(final[t][n])
    return total + weight * float(values[len(rewards)][n])


@given(
    steps=st.integers(1, 8),
    environments=st.integers(1, 3),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_returns_are_the_discounted_sums_of_their_definition(
    steps: int, environments: int, discount: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, environments)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator)

    def coin(probability: float) -> Tensor:
        return torch.rand(shape, generator=generator) < probability

    rewards, ended, truncated, valid = draw(*shape), coin(0.2), coin(0.2), coin(0.8)
    values, final = draw(steps + 1, environments), draw(*shape)
    returns_TN = n_step_returns(rewards, ended, truncated, valid, values, final, discount)
    for t in range(steps):
        for n in range(environments):
            expected = by_definition(t, n, rewards, ended, truncated, valid, values, final, discount)
            assert float(returns_TN[t, n]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def advantages_by_definition(
    row: int, n: int, trace: float, rewards, ended, truncated, valid, values, final, discount
) -> float:  # type: ignore[no-untyped-def]
    """(1 - trace) times the sum of trace^(k-1) times the k-step advantages; the last one has all remaining weight."""
    if not valid[row][n]:
        return 0.0
    total, weight = 0.0, 1.0
    for stop in range(row + 1, len(rewards) + 1):
        # A window that ends at `stop` sees the rewards before it, and bootstraps from where it stands.
        window = [part[:stop] for part in (rewards, ended, truncated, valid)]
        advantage = by_definition(row, n, *window, values, final, discount) - float(values[row][n])
        is_over = stop == len(rewards) or ended[stop - 1][n] or truncated[stop - 1][n] or not valid[stop][n]
        if is_over:
            return total + weight * advantage
        total += weight * (1 - trace) * advantage
        weight *= trace
    raise AssertionError


@given(
    steps=st.integers(1, 8),
    environments=st.integers(1, 3),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    trace=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_generalised_advantages_are_the_mixture_of_their_definition(
    steps: int, environments: int, discount: float, trace: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, environments)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator)

    def coin(probability: float) -> Tensor:
        return torch.rand(shape, generator=generator) < probability

    rewards, ended, truncated, valid = draw(*shape), coin(0.2), coin(0.2), coin(0.8)
    values, final = draw(steps + 1, environments), draw(*shape)
    found_TN = generalised_advantages(rewards, ended, truncated, valid, values, final, discount, trace)
    for t in range(steps):
        for n in range(environments):
            expected = advantages_by_definition(t, n, trace, rewards, ended, truncated, valid, values, final, discount)
            assert float(found_TN[t, n]) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    longest_TN = n_step_returns(rewards, ended, truncated, valid, values, final, discount) - values[:-1]
    all_TN = generalised_advantages(rewards, ended, truncated, valid, values, final, discount, 1.0)
    torch.testing.assert_close(all_TN[valid], longest_TN[valid])


def test_undefined_values_behind_an_end_do_not_get_into_an_advantage() -> None:
    values_SN = column(1, 1, 1, float("nan"))
    no_TN, final_TN = flags(0, 0, 0), column(*[float("inf")] * 3)
    found_TN = generalised_advantages(column(1, 2, 4), flags(0, 0, 1), no_TN, YES, values_SN, final_TN, 0.5, 0.5)
    assert found_TN[:, 0].tolist() == [0.5 + 0.25 * (1.5 + 0.25 * 3), 1.5 + 0.25 * 3, 3]
