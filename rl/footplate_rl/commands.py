"""The command `play`."""

from pathlib import Path
from typing import Annotated

import typer

from footplate.commands import DEFAULT_RUNS, Device, Run, Runs, WhichCheckpoint


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(play)


def play(
    run: Run,
    episodes: Annotated[int | None, typer.Option(min=1, help="how many episodes are played; 10 unless you say")] = None,
    video: Annotated[Path | None, typer.Option(help="an .mp4 that shows them")] = None,
    values: Annotated[
        Path | None, typer.Option(help="a .png: what the network makes of each step of the first episode")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="a .json from the run's videos: its actions are played, not the policy's")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="another seed than that of the run")] = None,
    checkpoint: WhichCheckpoint = "best",
    runs: Runs = DEFAULT_RUNS,
    device: Device = None,
) -> None:
    """Play with a trained policy and print what it scores: footplate play RUN --episodes 3 --video game.mp4"""
    import os

    # Environments that draw with SDL would look for a screen.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    from footplate.errors import FootplateError
    from footplate.evaluation import choose_checkpoint
    from footplate.execution import local_context, process_settings
    from footplate.folder import open_run
    from footplate.job import load_job
    from footplate_rl.environments import protocol_of
    from footplate_rl.playing import play_episodes, play_recording, played_by

    folder = open_run(run, runs)
    given = {"device": device, "seed": seed}
    job = load_job(folder.job, [f"{key}={value}" for key, value in given.items() if value is not None])
    if replay is not None:
        others = {"episodes": episodes, "values": values, "seed": seed, "device": device}
        others["checkpoint"] = None if checkpoint == "best" else checkpoint
        for name, value in others.items():
            if value is not None:
                raise FootplateError(f"--{name}: changes nothing of an episode that is replayed; leave it out")
        episode, recorded = play_recording(job, replay, video)
        same = "as recorded" if episode.total_reward == recorded else f"where {recorded:g} was recorded"
        print(f"{replay.name}: return {episode.total_reward:g}, {episode.steps} steps, {same}")
    else:
        chosen = choose_checkpoint(folder, checkpoint, job)
        count, returns, steps = episodes or 10, [], 0
        with process_settings(job):
            context = local_context(job, folder.path, chosen)
            for number, episode in enumerate(play_episodes(job, context, count, video, values), start=1):
                print(f"episode {number}: return {episode.total_reward:g}, {episode.steps} steps", flush=True)
                returns.append(episode.total_reward)
                steps += episode.steps
        print(
            f"{folder.name}, checkpoint of update {chosen.update}: mean return {sum(returns) / count:g}, "
            f"{steps / count:g} steps, over {count} episodes of {protocol_of(played_by(job))}"
        )
    for what, path in (("video", video), ("values", values)):
        if path is not None:
            print(f"{what}: {path}")
