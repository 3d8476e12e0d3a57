"""Steps a second of Tianshou's DQN, learning included, in the loop of its trainer; a JSON line on stdout.

Runs in the environment that `peer.python_of` makes for it, never in ours.
"""

import argparse
import json
import time

import ale_py
import gymnasium
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, PrioritizedVectorReplayBuffer, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, SubprocVectorEnv
from tianshou.env.atari.atari_network import DQNet, ScaledObsInputActionReprNet
from tianshou.utils.net.common import Net
from tianshou.utils.torch_utils import policy_within_training_step

gymnasium.register_envs(ale_py)
VECTORS = {"dummy": DummyVectorEnv, "subproc": SubprocVectorEnv}
CAPACITY, LEARNING_STARTS = 20_000, 1_000


def pong():
    """Gymnasium's wrappers: its own do not run with NumPy 2.4."""
    return FrameStackObservation(AtariPreprocessing(gymnasium.make("PongNoFrameskip-v4"), noop_max=30), 4)


def cartpole():
    return gymnasium.make("CartPole-v1")


# Of our recipes: learning rate, batch, steps of each environment between rounds of updates, updates a round, updates
# between two copies to the target network.
GAMES = {"pong": (pong, 6.25e-5, 32, 1, 2, 2_000), "cartpole": (cartpole, 0.0023, 64, 32, 128, 128)}


def main():
    """Learn for so many steps, and say how fast those after the first `--warmup` were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("game", choices=GAMES)
    parser.add_argument("environments", type=int)
    parser.add_argument("vector", choices=VECTORS)
    parser.add_argument("--prioritised", action="store_true", help="proportionally")
    parser.add_argument("--warmup", type=int, required=True, help="steps that are not timed")
    parser.add_argument("--steps", type=int, required=True, help="steps that are timed, or a rollout more")
    options = parser.parse_args()
    torch.manual_seed(1)
    make, rate, batch, steps, updates, target = GAMES[options.game]
    vectors = VECTORS[options.vector]([make for _ in range(options.environments)])
    vectors.seed(1)
    observations, actions = make().observation_space, make().action_space  # what vectors say is that of the bare game
    if options.game == "pong":
        # Frames are stored once, and stacks put together when they are drawn: its own way to save memory.
        network = ScaledObsInputActionReprNet(DQNet(*observations.shape, action_shape=actions.n))
        stored = {"ignore_obs_next": True, "save_only_last_obs": True, "stack_num": 4}
    else:
        network = Net(state_shape=observations.shape, action_shape=actions.n, hidden_sizes=[256, 256])
        stored = {}
    policy = DiscreteQLearningPolicy(model=network, action_space=actions, eps_training=0.1)
    factory = AdamOptimizerFactory(lr=rate)
    algorithm = DQN(policy=policy, optim=factory, target_update_freq=target, is_double=False, huber_loss_delta=1.0)
    if options.prioritised:
        replay = PrioritizedVectorReplayBuffer(CAPACITY, options.environments, alpha=0.6, beta=0.4, **stored)
    else:
        replay = VectorReplayBuffer(CAPACITY, options.environments, **stored)
    collector = Collector(algorithm, vectors, replay, exploration_noise=True)
    collector.reset()
    made, began, seconds = 0, 0.0, 0.0
    with policy_within_training_step(policy):
        made += collector.collect(n_step=LEARNING_STARTS).n_collected_steps
        while not seconds:
            made += collector.collect(n_step=steps * options.environments).n_collected_steps
            for _ in range(updates):
                algorithm.update(replay, sample_size=batch)
            if not began and made >= options.warmup:
                made, began = 0, time.perf_counter()
            elif began and made >= options.steps:
                seconds = time.perf_counter() - began
    vectors.close()
    print(json.dumps({"rate": made / seconds}))


if __name__ == "__main__":
    main()
