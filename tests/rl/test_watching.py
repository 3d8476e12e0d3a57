"""Watching: what is filmed can be played again, and watching changes nothing of what is scored."""

import json
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest

from footplate.context import Context
from footplate.errors import FootplateError
from footplate.job import job_from_yaml
from footplate.step import Picture, Step, Video
from footplate_rl.distributions import Gaussian, distribution_of
from footplate_rl.environments import GymnasiumConfig, OwnConfig, make_environments
from footplate_rl.evaluation import Evaluation, evaluate_policy
from footplate_rl.exploration import EpsilonGreedy
from footplate_rl.networks import MLP, build_network
from footplate_rl.pictures import Thoughts, draw_returns, save_picture
from footplate_rl.policy import Policy, build_policy_network
from footplate_rl.recurrent import LSTM

CARTPOLE = GymnasiumConfig(id="CartPole-v1")


class Unseeded(gymnasium.Env[Any, Any]):
    """Pays what no seed decides."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    paid = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Unseeded.paid += 1
        return np.zeros(1, np.float32), float(Unseeded.paid), True, False, {}


def policy_for(environment: Any, context: Context, memory: LSTM | None = None) -> Policy:
    environments = make_environments(environment, 1)
    spaces = environments.observation_space, environments.action_space
    environments.close()
    context.seed_torch("initialise")
    network = build_policy_network(MLP(hidden=(8,), shared=memory is not None), memory, *spaces)
    return Policy(network, distribution_of(spaces[1]), context)


def evaluated(
    environment: Any, folder: Path | None, memory: LSTM | None = None, **watched: Any
) -> tuple[list[Step], dict[str, float]]:
    context = Context(seed=3, folder=folder)
    policy = policy_for(environment, context, memory)
    config = Evaluation(every_updates=1, episodes=5, environments=3, **watched)
    news, steps = [], evaluate_policy(policy, environment, config, context, update=40)
    while True:
        try:
            news.append(next(steps))
        except StopIteration as stop:
            return news, stop.value


def media_of(news: list[Step]) -> dict[str, Any]:
    return {name: medium for step in news for name, medium in step.media.items()}


def test_episodes_are_filmed_from_the_first_picture_to_the_last_with_what_it_takes_to_play_them(tmp_path: Path) -> None:
    news, _ = evaluated(CARTPOLE, tmp_path, videos=2)
    media = media_of(news)
    assert list(media) == ["eval/video", "eval/video-2"]
    for number, medium in enumerate(media.values(), start=1):
        facts = json.loads((tmp_path / "videos" / f"000040-evaluation-{number}.json").read_text())
        assert medium == Video(
            tmp_path / "videos" / f"000040-evaluation-{number}.mp4",
            f"return {facts['total_reward']:g} in {len(facts['actions'])} steps, after update 40, CartPole-v1, "
            f"environment seed {facts['environment_seed']}",
            tmp_path / "videos" / f"000040-evaluation-{number}.json",
        )
        with av.open(str(medium.path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == len(facts["actions"]) + 1
        # Whoever has seed and actions needs nothing of ours.
        plain = gymnasium.make(facts["environment"]["id"])
        plain.reset(seed=facts["environment_seed"])
        outcomes = [plain.step(action)[1:4] for action in facts["actions"]]
        assert [bool(terminated) for _, terminated, _ in outcomes] == [False] * (len(outcomes) - 1) + [True]
        assert sum(float(reward) for reward, _, _ in outcomes) == facts["total_reward"]


@pytest.mark.parametrize("memory", [None, LSTM(units=4)])
def test_watching_changes_nothing_of_what_is_scored(memory: LSTM | None, tmp_path: Path) -> None:
    _, alone = evaluated(CARTPOLE, None, memory)
    news, watched = evaluated(CARTPOLE, tmp_path, memory, videos=1, values=True, histogram=True)
    assert watched == alone
    pictures = media_of(news)
    assert set(pictures) == {"eval/video", "eval/values", "eval/returns"}
    assert all(isinstance(pictures[name], Picture) for name in ("eval/values", "eval/returns"))


def test_without_a_run_folder_nothing_is_filmed() -> None:
    assert media_of(evaluated(CARTPOLE, None, videos=1)[0]) == {}


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("can't draw", "environment 0: render raised OSError: no display "),
        (
            "draws larger and larger",
            "environment: render shows a picture of shape (31, 30, 3) after one of (30, 30, 3); draw all of one size",
        ),
    ],
)
def test_what_can_not_be_drawn_is_told_and_the_score_is_kept(
    what: str, problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    own = OwnConfig(kind="own", name="broken_environments.Odd", arguments={"what": what})
    news, scores = evaluated(own, tmp_path, videos=1)
    assert scores["eval/return"] == 3.0
    assert media_of(news) == {}
    (message,) = caplog.messages
    assert message.startswith(f"evaluation after update 40: episode 1 can't be shown: {problem}")
    assert list((tmp_path / "videos").iterdir()) == []


def test_an_environment_that_does_not_repeat_itself_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    own = job_from_yaml(
        f"task: paac\nenvironment: {{kind: own, name: {__name__}.Unseeded}}\nnetwork: {{kind: mlp}}\n"
    ).config.environment  # type: ignore[attr-defined]
    evaluated(own, None, values=True)
    (message,) = caplog.messages
    assert message.startswith("environment: does not repeat itself from seed ")
    assert message.endswith(
        " and the same actions, so another episode was filmed than was scored; draw all that is random from "
        "self.np_random"
    )


def test_the_thoughts_are_the_networks_own_step_by_step() -> None:
    """With a memory too, which must have seen what came before and nothing else."""
    context = Context(seed=3)
    policy = policy_for(CARTPOLE, context, LSTM(units=4))
    observations = np.random.default_rng(1).random((5, 1, 4)).astype(np.float32)
    thoughts = Thoughts(policy)
    policy.look(observations[4])  # what the policy itself has just seen is none of it
    for observation_NO in observations:
        thoughts.add(observation_NO, 0)
    alone = policy.fresh()
    expected = [float(alone.look(one, np.full(1, t == 0))[1]) for t, one in enumerate(observations)]
    assert thoughts.values == expected
    assert len(set(expected)) == 5


@pytest.mark.parametrize("kind", ["probabilities", "gaussian", "values"])
def test_each_kind_of_policy_has_its_picture(kind: str) -> None:
    space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    actions: Any = space if kind == "gaussian" else gymnasium.spaces.Discrete(4)
    network = build_network(MLP(hidden=(4,)), space, actions)
    sampler: Any = {"gaussian": Gaussian((2,)), "values": EpsilonGreedy(4, 0.1)}.get(kind, distribution_of(actions))
    thoughts = Thoughts(Policy(network, sampler, Context()), [] if kind == "gaussian" else ["up", "down", "in", "out"])
    for step in range(3):
        thoughts.add(np.full((1, 2), step, np.float32), 1)
    pixels = thoughts.draw("return 1 in 3 steps").pixels
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.std() > 10


def test_returns_that_are_all_the_same_can_be_drawn() -> None:
    assert draw_returns([1.0, 1.0], "two").pixels.std() > 10


def test_a_picture_is_written_as_it_is(tmp_path: Path) -> None:
    save_picture(Picture(np.full((2, 3, 3), 7, np.uint8)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 50


@pytest.mark.parametrize("task", ["paac", "ppo", "dqn", "a3c", "async_q"])
def test_videos_of_what_can_not_be_drawn_are_refused_before_anything_is_trained(task: str) -> None:
    recipe = (
        f"task: {task}\nenvironment: {{kind: gymnasium, id: footplate/Chain-v0}}\nnetwork: {{kind: mlp}}\n"
        + "evaluate: {every_updates: 200000, episodes: 9, environments: 3, videos: "
    )
    start = {"dqn": "reset_every_updates: 50000\n"}.get(task, "reset_every_updates: 20000\n")
    job_from_yaml(recipe + "0}\n" + start)
    with pytest.raises(FootplateError) as refused:
        job_from_yaml(recipe + "1}\n" + start)
    assert "evaluate.videos: footplate/Chain-v0 can't be drawn, it has no render mode rgb_array; set it to 0" in str(
        refused.value
    )
    with pytest.raises(FootplateError) as refused:
        job_from_yaml(recipe + "4}\n" + start)
    assert "evaluate: videos: 4 of 3 environments that play; use at most 3" in str(refused.value)
