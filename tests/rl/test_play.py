"""The command `play`, from a run folder to what it prints and films."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from footplate.checkpoint import CheckpointStore
from footplate.cli import build_app
from footplate.context import Context
from footplate.errors import FootplateError
from footplate.folder import create_run
from footplate.job import Job, job_from_yaml
from footplate_rl.environments import GymnasiumConfig, make_environments
from footplate_rl.networks import build_network
from footplate_rl.playing import play_episodes
from footplate_rl.recording import Recording

CATCH = {"kind": "gymnasium", "id": "footplate/Catch-v0"}


def job_of(environment: dict[str, Any], network: str = "mlp") -> Job:
    return job_from_yaml(
        f"task: paac\nthreads: 1\nenvironment: {environment}\nnetwork: {{kind: {network}}}\n"
        "reset_every_updates: 1\nevaluate: {every_updates: 1, episodes: 2, environments: 1}\n"
    )


def make_run(runs: Path, environment: dict[str, Any], network: str = "mlp") -> Job:
    """A run folder with the checkpoint of an untrained policy, after 7 updates."""
    job = job_of(environment, network)
    folder = create_run(runs, "untrained", "recipe")
    folder.job.write_text(job.to_yaml())
    environments = make_environments(job.config.environment, 1)  # type: ignore[attr-defined]
    Context(seed=3).seed_torch("initialise")
    model = build_network(job.config.network, environments.observation_space, environments.action_space)  # type: ignore[attr-defined]
    environments.close()
    store = CheckpointStore(folder.checkpoints)
    store.save(7, {"model": model})
    store.close()
    return job


def play(runs: Path, *options: str) -> list[str]:
    result = CliRunner().invoke(build_app(), ["play", "untrained", "--runs", str(runs), *options])
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.output.splitlines()


def frames_of(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_play_prints_each_episode_and_the_mean(tmp_path: Path) -> None:
    make_run(tmp_path, CATCH)
    *episodes, mean = play(tmp_path, "--episodes", "3")
    returns = [int(line.split("return ")[1].split(",")[0]) for line in episodes]
    assert episodes == [f"episode {number}: return {score}, 9 steps" for number, score in enumerate(returns, 1)]
    assert mean == (
        f"untrained, checkpoint of update 7: mean return {sum(returns) / 3:g}, 9 steps, over 3 episodes of "
        "footplate/Catch-v0"
    )


def test_an_episode_can_be_played_again_and_another_seed_gives_others(tmp_path: Path) -> None:
    make_run(tmp_path, CATCH)
    first = play(tmp_path, "--episodes", "12")
    assert play(tmp_path, "--episodes", "12") == first
    assert play(tmp_path, "--episodes", "3")[:3] == first[:3]
    assert play(tmp_path, "--episodes", "12", "--seed", "5") != first


def test_a_run_can_be_played_on_another_device_than_its_own(tmp_path: Path) -> None:
    make_run(tmp_path, CATCH)
    lines = play(tmp_path, "--episodes", "3")
    job = tmp_path / "untrained" / "job.yaml"
    text = job.read_text()
    assert "device: auto" in text
    job.write_text(text.replace("device: auto", "device: mps"))
    assert play(tmp_path, "--episodes", "3", "--device", "cpu") == lines


def test_a_video_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path, CATCH)
    video = tmp_path / "new" / "catch.mp4"
    with pytest.raises(FootplateError) as refused:
        play(tmp_path, "--video", str(video))
    assert str(refused.value) == f"--video: {video}: {video.parent} is no folder; make it first"
    assert not video.parent.exists()


def test_the_video_shows_every_step_from_the_first_picture_to_the_last(tmp_path: Path) -> None:
    make_run(tmp_path, CATCH)
    video = tmp_path / "catch.mp4"
    assert play(tmp_path, "--episodes", "2", "--video", str(video))[-1] == f"video: {video}"
    assert frames_of(video) == 2 * (9 + 1)


def test_cartpole_is_filmed_without_a_screen(tmp_path: Path) -> None:
    make_run(tmp_path, {"kind": "gymnasium", "id": "CartPole-v1"})
    video = tmp_path / "cartpole.mp4"
    lines = play(tmp_path, "--episodes", "1", "--video", str(video))
    assert frames_of(video) == int(lines[0].split(", ")[1].split()[0]) + 1


@pytest.mark.slow
def test_atari_is_filmed_and_filming_changes_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, {"kind": "atari", "game": "breakout", "max_frames": 200}, network="nips")
    video = tmp_path / "breakout.mp4"
    filmed = play(tmp_path, "--episodes", "2", "--video", str(video))
    assert filmed[:-1] == play(tmp_path, "--episodes", "2")
    assert frames_of(video) == sum(int(line.split(", ")[1].split()[0]) + 1 for line in filmed[:2])


def test_a_run_of_another_kind_plays_in_nothing() -> None:
    task = Path(__file__).parents[1] / "platform" / "line_task.py"
    with pytest.raises(FootplateError) as refused:
        next(play_episodes(job_from_yaml(f"task: {task}"), Context(), 1))
    assert str(refused.value) == f"play: a run of the task {task} plays in no environment; name a run of an agent"


def test_what_cannot_be_drawn_is_played_without_a_video_only(tmp_path: Path) -> None:
    make_run(tmp_path, {"kind": "gymnasium", "id": "footplate/Chain-v0"})
    with pytest.raises(FootplateError) as refused:
        play(tmp_path, "--video", str(tmp_path / "chain.mp4"))
    assert str(refused.value) == (
        "environment: footplate/Chain-v0 can't be drawn, it has no render mode rgb_array; ask for no video"
    )
    assert len(play(tmp_path, "--episodes", "2")) == 3


# Recordings and pictures


def recorded(path: Path, config: GymnasiumConfig) -> int:
    """A recording of CartPole that falls to one side, and how many steps that takes."""
    environments = make_environments(config, 1, seed=1, stream="evaluation")
    environments.reset(40)
    played = [environments.step(np.array([1]))]
    while not played[-1].episodes:
        played.append(environments.step(np.array([1])))
    environments.close()
    Recording(
        environment=config,
        update=40,
        seed=1,
        stream="evaluation",
        index=0,
        actions=(1,) * len(played),
        total_reward=played[-1].episodes[0].total_reward,
    ).save(path)
    return len(played)


def test_a_recording_is_played_again(tmp_path: Path) -> None:
    make_run(tmp_path, {"kind": "gymnasium", "id": "CartPole-v1"})
    kept, video = tmp_path / "kept.json", tmp_path / "again.mp4"
    steps = recorded(kept, GymnasiumConfig(id="CartPole-v1"))
    assert play(tmp_path, "--replay", str(kept), "--video", str(video)) == [
        f"kept.json: return {steps}, {steps} steps, as recorded",
        f"video: {video}",
    ]
    assert frames_of(video) == steps + 1
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"total_reward": 1000.0}))
    assert play(tmp_path, "--replay", str(kept)) == [
        f"kept.json: return {steps}, {steps} steps, where 1000 was recorded"
    ]


def test_a_recording_is_played_in_its_own_environment(tmp_path: Path) -> None:
    make_run(tmp_path, {"kind": "gymnasium", "id": "CartPole-v1"})
    kept = tmp_path / "kept.json"
    steps = recorded(kept, GymnasiumConfig(id="CartPole-v1", frame_skip=3))
    total = json.loads(kept.read_text())["total_reward"]
    assert total > 2 * steps
    assert play(tmp_path, "--replay", str(kept)) == [f"kept.json: return {total:g}, {steps} steps, as recorded"]


def test_values_are_drawn(tmp_path: Path) -> None:
    make_run(tmp_path, {"kind": "gymnasium", "id": "CartPole-v1"})
    picture = tmp_path / "values.png"
    assert play(tmp_path, "--episodes", "2", "--values", str(picture))[-1] == f"values: {picture}"
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--replay", "gone.json"], "--replay: gone.json: cannot be read (No such file or directory); name "
         "another file"),
        (["--replay", "text.json"], "--replay: text.json: is no recording of an episode; name a .json file from "
         "the videos of a run"),
        (["--replay", "short.json"], "--replay: short.json: after its 2 actions the episode goes on; the environment "
         "does not repeat itself, or is not what it was"),
        (["--replay", "seedless.json"], "--replay: seedless.json: is no recording of an episode; name a .json file "
         "from the videos of a run"),
        (["--replay", "early.json"], "--replay: early.json: is no recording of an episode; name a .json file from the "
         "videos of a run"),
        (["--replay", "pong.json"], "--replay: pong.json: is of pong, and the run plays CartPole-v1; name one of its "
         "own"),
        (["--replay", "short.json", "--episodes", "2"], "--episodes: changes nothing of an episode that is replayed; "
         "leave it out"),
        (["--replay", "short.json", "--checkpoint", "last"], "--checkpoint: changes nothing of an episode that is "
         "replayed; leave it out"),
        (["--values", "values.jpg", "--episodes", "1"], "--values: values.jpg: only .png files are written; call it "
         "values.png"),
        (["--values", "gone/values.png", "--episodes", "1"], "--values: gone/values.png: gone is no folder; make it "
         "first"),
    ],
)  # fmt: skip
def test_what_cannot_be_played_again_or_drawn_is_refused(
    options: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, {"kind": "gymnasium", "id": "CartPole-v1"})
    Path("text.json").write_text("{}")
    cartpole = {"kind": "gymnasium", "id": "CartPole-v1"}
    short = {"update": 1, "seed": 1, "stream": "evaluation", "index": 0, "actions": [0, 1], "total_reward": 2.0}
    others = {
        "seedless": {"seed": None},
        "early": {"update": -5},
        "pong": {"environment": {"kind": "atari", "game": "pong"}},
    }
    for name, other in {"short": {}, **others}.items():
        Path(f"{name}.json").write_text(json.dumps({"environment": cartpole, **short, **other}))
    with pytest.raises(FootplateError) as refused:
        play(tmp_path, *options)
    assert str(refused.value) == problem
