"""Steps a second of stable-baselines3's A2C, learning included, as its own `learn()` runs it; a JSON line on stdout.

Runs in the environment that `peer.python_of` makes for it, never in ours.
"""

import argparse
import json
import resource
import time

from stable_baselines3 import A2C
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
    """Notes the time at the start of each rollout, which is the end of the update before."""

    def __init__(self):
        super().__init__()
        self.times = []

    def _on_rollout_start(self):
        self.times.append(time.perf_counter())

    def _on_step(self):
        return True


def pong(environments, vector):
    """The settings of the recipe pong-paac: torch's RMSProp, 5 steps."""
    frames = make_atari_env("ale_py:PongNoFrameskip-v4", environments, seed=1, **VECTORS[vector])
    policy = {"features_extractor_class": NIPS, "net_arch": []}
    learning = {"learning_rate": 0.0007, "n_steps": 5, "ent_coef": 0.002, "vf_coef": 0.5, "max_grad_norm": 0.5}
    return A2C("CnnPolicy", VecFrameStack(frames, 4), policy_kwargs=policy, seed=1, device="cpu", **learning)


def cartpole(environments, vector):
    """The settings of the recipe cartpole-paac: Adam, 32 steps."""
    vectors = make_vec_env("CartPole-v1", environments, seed=1, **VECTORS[vector])
    learning = {"learning_rate": 0.003, "n_steps": 32, "ent_coef": 0.01, "vf_coef": 0.5, "max_grad_norm": 0.5}
    return A2C("MlpPolicy", vectors, seed=1, use_rms_prop=False, device="cpu", **learning)


def main():
    """Learn for `warmup + updates` updates and say how fast the later ones were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("game", choices=["pong", "cartpole"])
    parser.add_argument("--environments", type=int, required=True)
    parser.add_argument("--vector", choices=VECTORS, required=True)
    parser.add_argument("--warmup", type=int, required=True, help="updates that are not timed")
    parser.add_argument("--updates", type=int, required=True)
    options = parser.parse_args()
    model = {"pong": pong, "cartpole": cartpole}[options.game](options.environments, options.vector)
    batch, clock = options.environments * model.n_steps, Clock()
    # One rollout more: its start is the end of the last update.
    model.learn((options.warmup + options.updates + 1) * batch, callback=clock, log_interval=10**9)
    model.get_env().close()
    seconds = clock.times[options.warmup + options.updates] - clock.times[options.warmup]
    memory = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"rate": options.updates * batch / seconds, "resident_mebibytes": memory / 1024}))


if __name__ == "__main__":
    main()
