"""A3C: one worker is the algorithm written down, an LSTM knows nothing of the episode before, and what is refused."""

import multiprocessing
from concurrent.futures import Future
from contextlib import closing
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.job import load_job
from footplate.pool import ThisThread, WorkerDiedError
from footplate.step import Latest, Mean, Step
from footplate_rl.a3c import Config, evaluate, train
from footplate_rl.distributions import Categorical
from footplate_rl.environments import make_environments
from footplate_rl.groups import Group
from footplate_rl.networks import MLP, build_network
from footplate_rl.policy import Policy
from footplate_rl.recurrent import LSTM, Memory, build_recurrent_network
from footplate_rl.rollout import Rollout

CATCH = {"kind": "gymnasium", "id": "footplate/Catch-v0"}
CARTPOLE = {"kind": "gymnasium", "id": "CartPole-v1"}
SMALL = {
    "environment": CARTPOLE,
    "workers": 1,
    "processes": False,
    "environments": 1,
    "rollout_steps": 5,
    "steps": 5 * 24,
    "network": {"kind": "mlp", "hidden": [16], "shared": True},
    "optimizer": {"kind": "rmsprop", "learning_rate": 0.01, "epsilon": 0.1, "epsilon_inside_root": True},
    "round_updates": 4,
    "reset_every_updates": 8,
    "evaluate": {"every_updates": 16, "episodes": 2, "environments": 2},
}


def config_of(**changes: Any) -> Config:
    return Config.model_validate(SMALL | changes, strict=False)


def rounds(config: Config, context: Context) -> list[Step]:
    return [step for step in train(config, context) if step.activity is None]


def weights(step: Step) -> dict[str, Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}


def by_the_book(config: Config, context: Context) -> dict[str, Tensor]:
    """Algorithm S3 of the paper for one actor and its shared RMSProp, a transition at a time."""
    with closing(make_environments(config.environment, 1, seed=context.seed)) as environments:
        context.seed_torch("initialise")
        network = context.place(
            build_network(config.network, environments.observation_space, environments.action_space)
        )
        squares = [torch.zeros_like(one) for one in network.parameters()]
        for update in range(config.updates):
            if update % config.reset_every_updates == 0:
                observation = environments.reset(update)
            uniforms = context.stream("act", update).random((config.rollout_steps, 1))
            seen: list[tuple[Tensor, int, float, bool, float | None]] = []
            for t in range(config.rollout_steps):
                seen_now = torch.from_numpy(observation).double()
                policy = torch.softmax(network(seen_now)[0][0].double(), 0).detach()
                action = int((policy.cumsum(0)[:-1] <= uniforms[t, 0]).sum())
                step = environments.step(np.array([action]))
                last = torch.from_numpy(step.final_observations_KO).double()
                final = network(last)[1].item() if step.truncated_N[0] else None
                seen.append((seen_now, action, float(step.rewards_N[0]), bool(step.terminated_N[0]), final))
                observation = step.observations_NO
            following = network(torch.from_numpy(observation).double())[1].item()
            loss = torch.zeros((), dtype=torch.float64)
            for seen_then, action, reward, terminated, final in reversed(seen):
                following = 0.0 if terminated else following if final is None else final
                following = max(-1.0, min(1.0, reward)) + config.discount * following
                logits, value = network(seen_then)
                log_policy = torch.log_softmax(logits[0], 0)
                advantage = following - value[0]
                loss = loss - log_policy[action] * advantage.detach() + config.value_weight * advantage**2
                loss = loss + config.entropy_weight * (log_policy.exp() * log_policy).sum()
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            norm = sqrt(sum(float(one.square().sum()) for one in gradients))
            scale = min(1.0, (config.clip_norm or 0) / norm)
            rate = config.optimizer.learning_rate * (1 - update / config.updates)
            with torch.no_grad():
                for one, gradient, square in zip(network.parameters(), gradients, squares, strict=True):
                    square.mul_(0.99).add_(0.01 * (scale * gradient) ** 2)
                    one.sub_(rate * scale * gradient / (square + 0.1).sqrt())
    return dict(network.state_dict())


@pytest.mark.parametrize("clip_norm", [40.0, 0.5])
def test_one_worker_is_the_algorithm_of_the_paper(clip_norm: float) -> None:
    config, context = config_of(clip_norm=clip_norm), Context(precision="fp64")
    expected = by_the_book(config, context)
    found = weights(rounds(config, context)[-1])
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)


def test_rounds_count_updates_and_all_rest_where_environments_start_anew() -> None:
    steps = rounds(config_of(workers=3), Context())
    assert [step.update for step in steps] == [4, 8, 12, 16, 20, 24]
    assert [step.update for step in steps if step.state is not None] == [8, 16, 24]
    assert [step.update for step in steps if "eval/return" in step.metrics] == [16, 24]
    assert sum(step.work["steps"] for step in steps) == 24 * 5
    entropy = steps[0].metrics["train/entropy"]
    assert isinstance(entropy, Mean)
    assert entropy.count == 4 * 5


def test_the_learning_rate_falls_over_the_updates_of_all_workers() -> None:
    steps = rounds(config_of(workers=3), Context())
    totals = [metric.total for step in steps if isinstance(metric := step.metrics["train/learning_rate"], Mean)]
    assert sum(totals) == pytest.approx(sum(0.01 * (1 - update / 24) for update in range(24)))


def test_workers_play_environments_and_draw_actions_of_their_own() -> None:
    """With a rate of next to nothing all that differs between two workers is what they play."""
    still = {"kind": "rmsprop", "learning_rate": 1e-12}
    first, second = rounds(config_of(workers=2, optimizer=still), Context())[:2]
    assert first.metrics["train/value_loss"] != second.metrics["train/value_loss"]


@pytest.mark.parametrize("changes", [{}, {"workers": 3}, {"memory": {"units": 8}}])
def test_a_run_in_this_thread_resumes_to_the_same_bytes(changes: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(**changes)
    store = CheckpointStore(tmp_path)
    for step in (straight := iter(train(config, Context()))):
        if step.update == 8 and step.state is not None:
            store.save(step.update, step.state)
            store.wait()
            break
    *_, last = straight
    store.close()
    (folder,) = tmp_path.iterdir()
    resumed = rounds(config, Context(checkpoint=Checkpoint(folder)))
    assert [step.update for step in resumed] == [12, 16, 20, 24]
    assert resumed[-1].metrics == last.metrics
    for name, tensor in weights(last).items():
        assert torch.equal(weights(resumed[-1])[name], tensor)
    assert list(evaluate(config, Context(checkpoint=Checkpoint(folder))))[-1].metrics["eval/length"] >= 1


def recurrent(units: int = 8) -> Any:
    environments = make_environments(config_of().environment, 1)
    spaces = environments.observation_space, environments.action_space
    environments.close()
    torch.manual_seed(1)
    network = build_recurrent_network(MLP(hidden=(16,), shared=True), LSTM(units=units), *spaces)
    return network.double(), spaces


def test_nothing_is_remembered_across_the_start_of_an_episode() -> None:
    network, _ = recurrent()
    observations = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    begins_TN = torch.tensor([[False], [False], [True], [False], [False], [False]])
    state_2NU = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole, _ = network(observations, Memory(state_2NU, begins_TN))
    after, _ = network(observations[2:], Memory(None, begins_TN[2:]))
    other, _ = network(observations, Memory(3 * state_2NU, begins_TN))
    torch.testing.assert_close(whole[2:], after)
    assert torch.equal(whole[2:], other[2:])
    assert not torch.equal(whole[:2], other[:2])


def test_one_pass_over_a_rollout_is_as_many_steps_one_by_one() -> None:
    network, _ = recurrent()
    observations = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    begins_TN = torch.rand(6, 2, generator=torch.Generator().manual_seed(3)) < 0.4
    whole, values_M = network(observations, Memory(None, begins_TN))
    state = None
    for t in range(6):
        rows = slice(2 * t, 2 * t + 2)
        outputs, values, state = network.unroll(observations[rows], Memory(state, begins_TN[t : t + 1]))
        torch.testing.assert_close(outputs, whole[rows])
        torch.testing.assert_close(values, values_M[rows])


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_learning_sees_the_outputs_that_acted_from_rollout_to_rollout(autoreset: str) -> None:
    """Episodes of CartPole end within them, and the state goes on from one rollout to the next, without a gradient."""
    network, spaces = recurrent()
    config = config_of(environment=CARTPOLE | {"autoreset": autoreset, "arguments": {"max_episode_steps": 17}})
    with closing(make_environments(config.environment, 3)) as environments:
        group = Group(environments, slice(0, 3))
        group.reset(0)
        rollout = Rollout(8, 3, spaces[0], Categorical(2), Context(precision="fp64"))
        ends = 0
        for number in range(6):
            rollout.collect(network, [group], Context().stream("act", number).random((8, 3)))
            (microbatch,) = rollout.microbatches(rollout.returns(0.9), 1)
            assert microbatch.memory is not None
            assert not microbatch.memory.state_2NU.requires_grad  # type: ignore[union-attr]
            outputs_MP, values_M = network(microbatch.observations, microbatch.memory)
            valid_M = microbatch.valid_M
            torch.testing.assert_close(outputs_MP[valid_M], rollout.outputs_TNP.flatten(0, 1)[valid_M])
            torch.testing.assert_close(values_M[valid_M], rollout.values_SN[:-1].flatten()[valid_M])
            ends += len(rollout.episodes)
        assert ends > 3


def test_where_an_episode_is_truncated_its_last_observation_is_valued_with_all_that_is_remembered() -> None:
    """As the same observation is where there is no time limit, and the episode goes on."""
    network, spaces = recurrent()
    rollouts = []
    for limit in (4, 500):
        config = config_of(environment=CARTPOLE | {"arguments": {"max_episode_steps": limit}})
        with closing(make_environments(config.environment, 2)) as environments:
            group = Group(environments, slice(0, 2))
            group.reset(0)
            rollout = Rollout(6, 2, spaces[0], Categorical(2), Context(precision="fp64"))
            rollout.collect(network, [group], Context().stream("act", 0).random((6, 2)))
            rollouts.append(rollout)
    cut, through = rollouts
    assert cut.truncated_TN[3].all()
    torch.testing.assert_close(cut.final_values_TN[3], through.values_SN[4])


def test_a_policy_with_a_memory_acts_as_it_would_alone_and_forgets_at_each_start() -> None:
    network, _ = recurrent()
    draw = np.random.default_rng(1)
    observations, uniforms = draw.normal(size=(8, 2, 4)), draw.random((8, 2))
    begins = np.array([[1, 1], [0, 0], [0, 1], [0, 0], [1, 0], [0, 0], [0, 0], [1, 1]], bool)
    both = Policy(network, Categorical(2), Context())
    second = Policy(network, Categorical(2), Context())
    for t in range(2, 8):
        if t == 2:  # the second environment begins an episode here: what came before is nothing to it
            both.act(observations[0], uniforms[0], begins[0])
            both.act(observations[1], uniforms[1], begins[1])
        together = both.act(observations[t], uniforms[t], begins[t])
        alone = second.act(observations[t, 1:], uniforms[t, 1:], begins[t, 1:])
        torch.testing.assert_close(both._state_2NU[:, 1:], second._state_2NU)
        assert together[1] == alone[0]


def test_a_worker_that_fails_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    broken = {"kind": "own", "name": "broken_environments.Misbehaving", "arguments": {"what": "raise"}}
    with pytest.raises(TrainingError, match=r"^environment 0: step raised ZeroDivisionError: it broke "):
        rounds(config_of(environment=broken), Context())


@pytest.mark.parametrize(("clip_norm", "advice"), [(None, " or set clip_norm"), (40.0, "")])
def test_a_gradient_that_is_not_finite_ends_the_run(clip_norm: float | None, advice: str) -> None:
    exploding = {"kind": "rmsprop", "learning_rate": 1e30, "epsilon": 1e-8}
    with pytest.raises(TrainingError) as error:
        rounds(config_of(optimizer=exploding, clip_norm=clip_norm), Context())
    assert str(error.value).endswith(f": the gradient is not finite; lower optimizer.learning_rate{advice}")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"steps": 19}, "steps: 19 pays for no round, each takes environments * rollout_steps * round_updates = 20; "
         "use at least as many"),
        ({"reset_every_updates": 6}, "reset_every_updates: 6 is no multiple of round_updates: 4, which a worker makes "
         "at a time; make it one"),
        ({"schedule": {"kind": "plateau"}}, "schedule.kind: plateau waits for evaluations, of which asynchronous "
         "workers hear nothing; use another schedule"),
        ({"environment": CARTPOLE | {"processes": True}}, "environment.processes: workers are processes that play "
         "their own environments; set it to false"),
        ({"network": {"kind": "mlp"}, "memory": {}}, "memory: policy and value have it in common; set network.shared "
         "to true"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as error:
        config_of(**changes)
    assert error.value.errors()[0]["msg"] == f"Value error, {problem}"


@pytest.mark.parametrize("recipe", ["catch-a3c", "catch-async-q"])
@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("save.every_updates=300", "save.every_updates: 300 is no multiple of reset_every_updates: 400, and only "
         "there a run can be saved; make it one"),
        ("evaluate.every_updates=300", "evaluate.every_updates: 300 is no multiple of reset_every_updates: 400, and "
         "only there a policy can be saved; make it one"),
        ("track.every_updates=30", "track.every_updates: 30 is no multiple of round_updates: 20, by which progress is "
         "counted; make it one"),
        ("resources.workers=2", "resources.workers: 2 are ranks, and an asynchronous agent has workers of its own; use "
         "1, and workers=2"),
        ("precision=bf16", "precision: bf16 is not for asynchronous workers; use fp32 or fp64"),
    ],
)  # fmt: skip
def test_a_job_that_asks_for_what_there_can_not_be_is_refused(recipe: str, override: str, problem: str) -> None:
    with pytest.raises(FootplateError) as error:
        load_job(recipe, ["reset_every_updates=400", "evaluate.every_updates=400", override])
    assert str(error.value).endswith(problem)


def test_a_machine_that_can_not_share_parameters_is_refused() -> None:
    with pytest.raises(FootplateError) as error:
        next(train(config_of(), Context(device=torch.device("meta"))))
    assert str(error.value) == (
        "device: asynchronous workers share parameters in the CPU's memory, not on meta; set device=cpu"
    )
    with pytest.raises(FootplateError) as error:
        next(train(config_of(), Context(ranks=2)))
    assert str(error.value) == (
        "resources.workers: 2 can't share an asynchronous agent, which has workers of its own; use 1"
    )


ONCE: dict[str, Any] = {"reset_every_updates": 24, "evaluate": {"every_updates": 24}}


class Mortal(ThisThread):
    """A pool in which worker 1 dies in its second round, having made it, and again as it starts anew."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: list[tuple[str, int, int]] = []

    def submit(self, worker: int, method: str, *arguments: Any) -> Future[Any]:
        self.asked.append((method, worker, arguments[0]))
        future = super().submit(worker, method, *arguments)
        own = [call for call, one, _ in self.asked if one == 1]
        if worker == 1 and own in (["reset", "learn", "learn"], ["reset", "learn", "learn", "reset"]):
            future = Future()
            future.set_exception(WorkerDiedError("worker 1: its process died (SIGKILL)"))
        return future


def test_the_round_of_a_worker_that_dies_is_made_again_and_the_worker_starts_anew_with_other_seeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pools: list[Mortal] = []

    def open_pool(make: Any, arguments: Any, *, processes: bool) -> Mortal:
        pools.append(Mortal(make, arguments))
        return pools[-1]

    with caplog.at_level("INFO", "footplate"):
        steps = rounds(
            config_of(workers=2, reset_every_updates=24, evaluate={"every_updates": 24}), Context(pool=open_pool)
        )
    assert [step.update for step in steps] == [4, 8, 12, 16, 20, 24]
    assert steps[-1].metrics["train/replaced_workers"] == Latest(2)
    made = [first for method, _, first in pools[0].asked if method == "learn"]
    assert sorted(made) == [0, 4, 8, 12, 12, 16, 20]
    assert [first for method, worker, first in pools[0].asked if (method, worker) == ("reset", 1)] == [0, 1, 2]
    assert caplog.messages == [
        f"worker 1: its process died (SIGKILL); replaced, {count} of at most 10" for count in (1, 2)
    ]


def test_a_worker_that_dies_once_too_often_ends_the_run() -> None:
    with pytest.raises(TrainingError) as error:
        rounds(config_of(workers=2, replace_workers=1, **ONCE), Context(pool=lambda *given, processes: Mortal(*given)))
    assert type(error.value) is TrainingError  # no loss, behind which a cluster would go on
    assert str(error.value) == (
        "worker 1: its process died (SIGKILL); mend it, and `footplate resume` goes on from the last checkpoint"
    )


@pytest.mark.slow
def test_two_processes_learn_beside_each_other_and_leave_nobody_behind() -> None:
    config = config_of(environment=CATCH, workers=2, processes=True, environments=2)
    steps = rounds(config, Context())
    assert [step.update for step in steps] == [4, 8, 12]
    assert weights(steps[-1])["policy.bias"].abs().max() > 0
    told = {name for step in steps for name in step.metrics if name.startswith("system/")}
    assert told
    assert told <= {f"system/actor-{worker}/{name}" for worker in (0, 1) for name in ("cores", "memory_gib")}
    assert multiprocessing.active_children() == []
