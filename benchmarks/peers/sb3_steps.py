"""Steps a second of agents of stable-baselines3, learning included, as `learn()` runs them; a JSON line on stdout.

Runs in the environment that `peer.python_of` makes for it, never in ours.
"""

import argparse
import json
import time

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack
from torch import nn

# Forked processes start in a moment; the default, a server that imports torch for each of them, takes minutes.
VECTORS = {
    "dummy": {"vec_env_cls": DummyVecEnv},
    "subproc": {"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {"start_method": "fork"}},
}


class NIPS(BaseFeaturesExtractor):
    """The layers of `footplate_rl.networks.NIPS`: 16 8x8/4, 32 4x4/2, 256, on images of 4 x 84 x 84."""

    def __init__(self, space):
        super().__init__(space, features_dim=256)
        self.layers = nn.Sequential(
            *(nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32 * 9 * 9, 256), nn.ReLU()),
        )

    def forward(self, observations):
        return self.layers(observations)


class Clock(BaseCallback):
    """Times what follows warming up, from the start of a rollout, which is the end of an update, to that of another."""

    def __init__(self, warmup, steps):
        super().__init__()
        self.warmup, self.steps = warmup, steps
        self.first = self.last = None

    def _on_rollout_start(self):
        lap = (self.model.num_timesteps, time.perf_counter())
        if self.first is None and lap[0] >= self.warmup:
            self.first = lap
        elif self.first is not None and lap[0] >= self.first[0] + self.steps:
            self.last = lap

    def _on_step(self):
        return self.last is None

    @property
    def rate(self):
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


# What is drawn at random costs no pass through the network: as rarely on all sides.
EPSILON = {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1}

# The settings of our recipes of the same name; networks are the library's own where they are the same.
AGENTS = {
    ("a2c", "pong"): (
        A2C,
        {"learning_rate": 0.0007, "n_steps": 5, "ent_coef": 0.002, "vf_coef": 0.5, "max_grad_norm": 0.5}
        | {"policy_kwargs": {"features_extractor_class": NIPS, "net_arch": []}},
    ),
    ("a2c", "cartpole"): (
        A2C,
        {"learning_rate": 0.003, "n_steps": 32, "ent_coef": 0.01, "vf_coef": 0.5, "max_grad_norm": 0.5}
        | {"use_rms_prop": False},
    ),
    ("dqn", "pong"): (
        DQN,
        EPSILON
        | {"learning_rate": 6.25e-5, "buffer_size": 20_000, "learning_starts": 1_000, "batch_size": 32}
        | {"train_freq": 1, "gradient_steps": 2, "target_update_interval": 8_000},
    ),
    ("dqn", "cartpole"): (
        DQN,
        EPSILON
        | {"learning_rate": 0.0023, "buffer_size": 20_000, "learning_starts": 1_000, "batch_size": 64}
        | {"train_freq": 32, "gradient_steps": 128, "target_update_interval": 256}
        | {"policy_kwargs": {"net_arch": [256, 256]}},
    ),
    ("ppo", "pong"): (
        PPO,
        {"learning_rate": 0.00025, "n_steps": 128, "batch_size": 256, "n_epochs": 3, "clip_range": 0.1}
        | {"ent_coef": 0.01, "vf_coef": 1.0, "max_grad_norm": 0.5},
    ),
    ("ppo", "cartpole"): (
        PPO,
        {"learning_rate": 0.001, "n_steps": 128, "batch_size": 128, "n_epochs": 10, "clip_range": 0.2}
        | {"max_grad_norm": 0.5},
    ),
}


def agent(name, game, environments, vector):
    """The agent in its vector environment."""
    kind, settings = AGENTS[name, game]
    if game == "pong":
        frames = make_atari_env("ale_py:PongNoFrameskip-v4", environments, seed=1, **VECTORS[vector])
        policy, vectors = "CnnPolicy", VecFrameStack(frames, 4)
    else:
        policy, vectors = "MlpPolicy", make_vec_env("CartPole-v1", environments, seed=1, **VECTORS[vector])
    return kind(policy, vectors, seed=1, device="cpu", **settings)


def main():
    """Learn for so many steps, and say how fast those after the first `--warmup` were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agent", choices=["a2c", "dqn", "ppo"])
    parser.add_argument("game", choices=["pong", "cartpole"])
    parser.add_argument("environments", type=int)
    parser.add_argument("vector", choices=VECTORS)
    parser.add_argument("--warmup", type=int, required=True, help="steps that are not timed")
    parser.add_argument("--steps", type=int, required=True, help="steps that are timed, or a rollout more")
    options = parser.parse_args()
    model = agent(options.agent, options.game, options.environments, options.vector)
    clock = Clock(options.warmup, options.steps)
    model.learn(10**9, callback=clock, log_interval=10**9)
    model.get_env().close()
    print(json.dumps({"rate": clock.rate}))


if __name__ == "__main__":
    main()
