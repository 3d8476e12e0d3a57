"""Weights & Biases: never waited for, never needed.

Without an API key or without a server that answers, the run is recorded offline, which is said once together with the
command that uploads it later. A resumed run continues the same W&B run, whose id lies in the run folder; the rows
between the checkpoint and the kill may then appear twice there (metrics.jsonl has each once).

Rows are logged without W&B's own `step`, because W&B silently drops rows whose step goes back, as a resumed run's does.
Each group of metrics is instead plotted over an axis of ours: frames or steps for rollouts and their evaluation, else
updates.
"""

import json
import logging
import os
import re
import secrets
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import wandb
from wandb.errors import Error, UsageError

from footplate.step import Activity, Medium, Picture, Table, Video

if TYPE_CHECKING:
    from footplate.folder import RunFolder
    from footplate.job import Wandb

INIT_SECONDS = 20.0
FINISH_SECONDS = 20.0
"""How long W&B is waited for at the end; with a server that has died, once more when the process exits."""


class WandbTracker:
    """A tracker that logs to one W&B run. To be opened on a thread of its own: that may take `INIT_SECONDS`."""

    def __init__(
        self, settings: "Wandb", folder: "RunFolder", config: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self._say = say
        self._axes_are_defined = False
        self._run = _start(settings, folder, config, say)

    def row(self, row: Mapping[str, float]) -> None:
        """Log the row, whole."""
        if not self._axes_are_defined:
            self._define_axes(row)
        self._run.log(dict(row))

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        """Tables, images, and videos as the files they are, with what belongs to them among the run's files."""
        self._run.log({"update": update, **{name: _as_wandb(medium) for name, medium in media.items()}})
        for medium in media.values():
            if isinstance(medium, Video) and medium.beside is not None:
                self._run.save(str(medium.beside), base_path=str(medium.beside.parent), policy="now")

    def message(self, text: str) -> None:
        """Nothing: log.txt holds them."""

    def activity(self, activity: Activity) -> None:
        """Nothing."""

    def close(self, outcome: str) -> None:
        """Upload what is pending, for a limited time."""
        try:
            self._run.finish(exit_code=1 if outcome == "failed" else 0)
        except TimeoutError:
            self._say(
                f"track.wandb: the upload did not end within {FINISH_SECONDS:g} seconds; "
                f"to complete it: {_sync_command(self._run)}"
            )

    def _define_axes(self, row: Mapping[str, float]) -> None:
        axes = [name for name in row if "/" not in name]
        for axis in axes:
            self._run.define_metric(axis)
        experience = next((axis for axis in ("frames", "steps") if axis in axes), "update")
        for group in sorted(
            {name.split("/")[0] for name in row if "/" in name}
            | {"train", "eval", "rollout", "speed", "system", "time"}
        ):
            self._run.define_metric(f"{group}/*", step_metric=experience if group in ("eval", "rollout") else "update")
        self._axes_are_defined = True


def _start(settings: "Wandb", folder: "RunFolder", config: Mapping[str, Any], say: Callable[[str], None]) -> wandb.Run:
    # Without its own words: they would run through the live display, and one of them is a question.
    wandb.setup(settings=wandb.Settings(silent=True, quiet=True))
    # Its telemetry complains for itself of the server that the run has complained of.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def start(mode: Literal["online", "offline", "disabled"]) -> wandb.Run:
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=list(settings.tags),
            name=folder.name,
            notes=str(config.get("about", "")) or None,
            job_type=str(config.get("task", "")) or None,
            config=dict(config),
            dir=str(folder.path),
            id=_run_id(folder.path / "wandb.json"),
            resume="allow",
            reinit="create_new",
            mode=mode,
            settings=wandb.Settings(
                silent=True,
                quiet=True,
                console="off",
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )

    if os.environ.get("WANDB_MODE") == "disabled":
        say("track.wandb: WANDB_MODE is disabled, so nothing is recorded")
        return start("disabled")
    if settings.mode == "offline" or os.environ.get("WANDB_MODE") == "offline":
        run = start("offline")
        say(f"track.wandb: recorded offline; to upload it later: {_sync_command(run)}")
        return run
    try:
        if not wandb.login(prompt=False, verify=False):
            raise UsageError("there is no API key (`wandb login` stores one)")
        run = start("online")
    except Error as error:
        reason = _reason(error)
        wandb.teardown()  # what is left of the attempt would refuse the same id
        run = start("offline")
        say(f"track.wandb: {reason}; recorded offline, to upload it later: {_sync_command(run)}")
    else:
        say(f"track.wandb: {run.url}")
    return run


def _sync_command(run: wandb.Run) -> str:
    return f"wandb sync {shlex.quote(run.settings.sync_dir)}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if refused := re.search("returned error (401|403)", text):
        return (
            f"{wandb.setup().settings.base_url} refuses the API key (error {refused[1]}; `wandb login` stores another)"
        )
    if "deadline exceeded" in text or "timed out" in text:
        return f"{wandb.setup().settings.base_url} did not answer within {INIT_SECONDS:g} seconds"
    return text.rstrip(".")


def _run_id(path: Path) -> str:
    if path.exists():
        return str(json.loads(path.read_text("utf-8"))["id"])
    run_id = secrets.token_hex(4)
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps({"id": run_id}) + "\n", encoding="utf-8")
    beside.replace(path)
    return run_id


def _as_wandb(medium: Medium) -> object:
    if isinstance(medium, Table):
        return wandb.Table(columns=list(medium.columns), data=[list(row) for row in medium.rows])
    if isinstance(medium, Picture):
        return wandb.Image(medium.pixels)
    return wandb.Video(str(medium.path), caption=medium.caption or None)
