"""What ASHA decides, and what room there is for trials: without starting Ray."""

import pytest

from footplate.errors import FootplateError
from footplate.sweeps.sweep import Asha, Sweep
from footplate_cluster.halving import Halving
from footplate_cluster.resources import room_on
from footplate_cluster.sweep import share_on


def halving(factor: float = 2.0, better: str = "lower") -> Halving:
    return Halving(Asha(kind="asha", grace_updates=10, reduction_factor=factor), "eval/loss", better)


def test_a_trial_ends_at_a_rung_unless_it_is_among_the_best_that_came_by() -> None:
    asha = halving()
    assert asha.verdict(1, 10, 3.0) is None  # the first has nobody to be worse than
    assert asha.verdict(2, 5, 9.0) is None  # no rung yet
    assert asha.verdict(2, 10, 4.0) == "ASHA: eval/loss 4 after 10 updates is not among the best 1/2"
    assert asha.verdict(3, 10, 3.4) is None  # better than the median of 3 and 4
    assert asha.verdict(4, 10, 3.6) is not None  # the median is 3.4 now


def test_a_decision_that_was_taken_is_not_taken_again() -> None:
    asha = halving()
    assert asha.verdict(1, 10, 3.0) is None
    assert asha.verdict(2, 10, 1.0) is None
    assert asha.verdict(1, 15, 3.0) is None  # before the rung at 20
    assert asha.verdict(2, 20, 1.0) is None
    assert asha.verdict(1, 20, 3.0) is not None


def test_what_counts_is_the_best_score_so_far() -> None:
    asha = halving(better="higher")
    assert asha.verdict(1, 10, 5.0) is None
    assert asha.verdict(2, 5, 6.0) is None
    assert asha.verdict(2, 10, 1.0) is None  # it had 6


def test_a_score_that_is_not_a_number_ends_a_trial_and_counts_for_no_other() -> None:
    asha = halving()
    assert asha.verdict(1, 10, float("nan")) == "ASHA: eval/loss nan after 10 updates is not among the best 1/2"
    assert asha.verdict(2, 10, 100.0) is None


def test_a_sweep_that_goes_on_decides_as_if_it_had_never_stopped() -> None:
    scores = [(1, 10, 3.0), (2, 10, 2.0), (1, 20, 2.1), (3, 10, 2.2), (2, 20, 2.0), (3, 20, 2.5)]
    through, replayed = halving(), halving()
    verdicts = [through.verdict(*score) for score in scores]
    for score in scores[:4]:
        replayed.verdict(*score)
    assert [replayed.verdict(*score) for score in scores[4:]] == verdicts[4:]
    assert verdicts[5] is not None


def test_trials_lie_on_one_node_each() -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}]
    assert room_on(nodes, {"CPU": 1.0}) == 7
    assert room_on(nodes, {"CPU": 2.0}) == 3
    assert room_on(nodes, {"CPU": 1.0, "GPU": 0.5}) == 2
    assert room_on([{"CPU": 1.0}], {"CPU": 0.1}) == 10


def sweep(**resources: float) -> Sweep:
    return Sweep.model_validate(
        {
            "recipe": "copy-transformer",
            "space": {"seed": [1]},
            "search": {"kind": "grid"},
            "resources": resources,
        },
        strict=False,
    )


def test_a_trial_that_fits_no_node_is_refused() -> None:
    nodes = [{"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}]
    with pytest.raises(FootplateError) as raised:
        share_on(nodes, sweep(cpus=5), "cpu")
    assert str(raised.value) == (
        "resources: a trial needs 5 CPU on one node, and the cluster's nodes have 2 CPU; 4 CPU; "
        "ask for less with resources.cpus or resources.gpus"
    )
    with pytest.raises(FootplateError) as raised:
        share_on(nodes, sweep(gpus=2), "auto")
    assert "a trial needs 1 CPU and 2 GPU on one node" in str(raised.value)


def test_a_trial_takes_a_gpu_where_there_is_one_unless_it_is_told_otherwise() -> None:
    nodes = [{"CPU": 4.0, "GPU": 2.0}]
    assert share_on(nodes, sweep(), "auto") == ({"CPU": 1.0, "GPU": 1.0}, 2)
    assert share_on(nodes, sweep(), "cpu") == ({"CPU": 1.0}, 4)
    assert share_on(nodes, sweep(gpus=0.5), "cuda") == ({"CPU": 1.0, "GPU": 0.5}, 4)
    assert share_on([{"CPU": 2.0}], sweep(), "auto") == ({"CPU": 1.0}, 2)


def test_no_key_of_the_driver_becomes_metadata_of_an_actor() -> None:
    from ray.tune.execution import class_cache

    import footplate_cluster.tuning  # noqa: F401 (it takes the names out)

    assert not [name for name in class_cache.ENV_VARS_TO_PROPAGATE if "KEY" in name or "TOKEN" in name]
