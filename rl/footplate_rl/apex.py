"""Ape-X: actors fill a sharded prioritised replay, one learner learns from it.

Source: Horgan et al. 2018, "Distributed prioritized experience replay" (arXiv 1803.00933). `docs/apex.md` says where
this differs.

Environments can't be cloned, so all of them start anew every `reset_every_updates`: only there a run can be saved.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from functools import partial

import torch

from footplate.context import Context
from footplate.job import Job
from footplate.step import Step
from footplate.update import Update
from footplate_rl.distributed.config import Config
from footplate_rl.distributed.flow import Flow, make_worker
from footplate_rl.distributions import require_float64
from footplate_rl.environments import make_environments
from footplate_rl.evaluation import evaluate_and_observe, evaluate_saved, policy_metrics
from footplate_rl.q_learning import ReplayLoss
from footplate_rl.ranks import require_one_learner
from footplate_rl.resets import require_saves_at_resets
from footplate_rl.value_learning import epsilon_greedy, lessons_of, saved_policy, value_network
from footplate_rl.watching import require_that_it_can_be_filmed

__all__ = ["Config", "actors", "check", "evaluate", "evaluated_metrics", "saved_policy", "train"]

DEBUG_OVERRIDES: Mapping[str, object] = {
    "steps": 260,
    "actors": 2,
    "environments": 1,
    "shards": 1,
    "processes": False,
    "rollout_steps": 10,
    "learning_starts_steps": 100,
    "batch_size": 16,
    "samples_per_insert": 1.0,
    "lead_rollouts": 2,
    "replay.transitions": 1000,
    "update.accumulate": 1,
    "weights_every_updates": 2,
    "reset_every_updates": 5,
    "evaluate.every_updates": 5,
    "evaluate.episodes": 2,
    "evaluate.environments": 2,
    "evaluate.videos": 0,
}

EVALUATION_KEYS = ("evaluate", "environment")

NEXT_COMMANDS = ("footplate evaluate {run} evaluate.episodes=100", "footplate play {run} --video episodes.mp4")


evaluated_metrics = policy_metrics


def check(job: Job) -> None:
    """Raise ValueError where checkpoints would be rarer than the job says, or there would be several learners."""
    assert isinstance(job.config, Config)
    require_one_learner(job, "Ape-X has one learner", "actors")
    require_float64(job)
    require_that_it_can_be_filmed(job)
    require_saves_at_resets(job, job.config.reset_every_updates)


def actors(config: Config) -> int:
    """How many actors and shards are elsewhere than in this thread."""
    return config.actors + config.shards if config.processes else 0


def train(config: Config, context: Context) -> Iterator[Step]:
    """One step for each update of the learner; `state` at those after which the environments start anew."""
    with closing(make_environments(config.environment, 1, seed=context.seed)) as environments:
        spaces = environments.observation_space, environments.action_space
        frames_per_step = environments.frames_per_step
    context.seed_torch("initialise")
    network = value_network(config, *spaces, context)
    target = deepcopy(network).requires_grad_(False)
    loss = ReplayLoss(network, config.huber)
    update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=config.updates)
    greedy = epsilon_greedy(network, spaces[1], config.evaluate.epsilon, context)
    machine = context.seed, context.precision, context.folder
    workers = [(config, number, *machine) for number in range(config.actors + config.shards)]

    with closing(context.pool(make_worker, workers, processes=config.processes)) as pool:
        flow = Flow(pool, config, context)
        parts = {"model": network, "target": target, "update": update, "replay": flow}
        context.restore(**parts)
        while update.number < config.updates:
            boundary = update.number - update.number % config.reset_every_updates + config.reset_every_updates
            boundary = min(boundary, config.updates)
            flow.begin(update.number, network)
            while update.number < boundary:
                worker, batch = yield from flow.batch(update.number, boundary)
                loss.errors.clear()
                metrics = update(lessons_of(batch, target, network, config, context))
                flow.learnt(worker, batch, torch.cat(loss.errors).abs().cpu().numpy())
                config.target.follow(target, network, update.number)
                if update.number % config.weights_every_updates == 0:
                    flow.publish(update.number, network)
                if update.number == boundary:
                    flow.rest()
                played, steps = flow.take_metrics()
                metrics |= played
                if update.number == config.updates or config.evaluate.due(update.number):
                    metrics |= yield from evaluate_and_observe(
                        update, greedy, config.environment, config.evaluate, context, update.number
                    )
                work = {"steps": steps, "frames": steps * frames_per_step}
                yield Step(update.number, metrics, work, state=parts if update.number == boundary else None)


def evaluate(config: Config, context: Context) -> Iterator[Step]:
    """Play `config.evaluate` with the saved policy, on other seeds than those that chose the best checkpoint."""
    yield from evaluate_saved(partial(saved_policy, config), config.environment, config.evaluate, context)
