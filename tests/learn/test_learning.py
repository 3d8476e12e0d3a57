"""Every task learns what it should, with one seed: to the optimum where that is known. `make learn` takes three seeds.

A run ends as soon as an evaluation reaches what is wanted, and fails where none does.
"""

import pytest

from footplate.execution import run
from footplate.job import load_job
from footplate.step import metric_value

pytestmark = [pytest.mark.learn, pytest.mark.slow]

LSTM = "model={kind: recurrent, encoder_layers: 1, decoder_layers: 1, embedding_width: 64, width: 64, dropout: 0.0}"
REMEMBERING = ("processes=false", "network.shared=true", "memory.units=32")


def assert_reached(recipe: str, wanted: float, *overrides: str) -> None:
    """Train until an evaluation scores so much by what the recipe calls best."""
    job = load_job(recipe, [*overrides, "device=cpu", f"stop.target={wanted}"])
    assert job.best is not None
    scores = [metric_value(step.metrics[job.best.metric]) for step in run(job) if job.best.metric in step.metrics]
    assert scores[-1] is not None
    assert scores[-1] >= wanted, scores


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("corpus.reverse=true", "updates=1000"),
        (LSTM, "model.attention.input_feeding=false", "corpus.reverse=true"),
    ],
    ids=["copying", "reversing", "reversing by an LSTM that attends"],
)
def test_letters_are_copied_and_reversed_98_times_of_100(overrides: tuple[str, ...]) -> None:
    assert_reached("copy-transformer", 98, *overrides)


@pytest.mark.parametrize(
    ("recipe", "wanted", "overrides"),
    [
        # The optimum is 1 and a miss costs 2. Policies that are drawn from still explore; that of A3C's recipe so much
        # that, as in `make learn`, its likeliest actions are judged.
        ("catch-paac", 0.96, ()),
        ("catch-paac", 0.96, ("returns.kind=gae",)),
        ("catch-paac", 0.96, ("environment.autoreset=next_step",)),
        # At the recipe's 0.003 one seed of five ends at 0, its actor too far from what is learnt.
        ("catch-paac", 0.96, ("lag=1", "optimizer.learning_rate=0.001", "steps=160000")),
        ("catch-a3c", 0.96, ("evaluate.actions=greedy",)),
        ("catch-a3c", 0.96, (*REMEMBERING, "optimizer.learning_rate=0.003", "entropy_weight=0.01")),
        ("catch-ppo", 0.96, ()),
        ("catch-async-q", 0.96, ()),
        ("catch-dqn", 1.0, ("replay.kind=uniform",)),
        ("catch-dqn", 1.0, ("replay.kind=proportional",)),
        ("catch-dqn", 1.0, ("replay.kind=rank",)),
        ("catch-apex", 1.0, ("processes=false", "shards=2")),
    ],
)
def test_the_ball_is_caught(recipe: str, wanted: float, overrides: tuple[str, ...]) -> None:
    assert_reached(recipe, wanted, *overrides)


def test_the_pole_is_held_by_paac() -> None:
    assert_reached("cartpole-paac", 475)


def test_the_pole_is_held_by_dqn_for_150_steps_and_more_within_20000() -> None:
    """At random it falls after 22. `make learn` has the whole recipe, to 475 and more of 500: it takes minutes."""
    faster = ["rollout_steps=8", "updates_per_rollout=16", "n_step=3", "target.every_updates=50", "steps=20000"]
    smaller = ["network.hidden=[128,128]", "optimizer.learning_rate=0.001", "reset_every_updates=1184"]
    evaluations = ["evaluate.every_updates=1184", "evaluate.episodes=30", "evaluate.environments=30"]
    assert_reached("cartpole-dqn", 150, *faster, *smaller, *evaluations)
