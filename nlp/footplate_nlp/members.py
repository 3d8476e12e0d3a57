"""The checkpoints of an ensemble: `RUN`, `RUN@UPDATE`, or `@UPDATE` of this run."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from footplate.context import Context
from footplate.errors import CheckpointError, FootplateError
from footplate.evaluation import choose_checkpoint
from footplate.folder import RunFolder, open_run
from footplate.job import read_job
from footplate_nlp.ensemble import Ensemble
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.vocabulary import Vocabulary

if TYPE_CHECKING:
    from footplate_nlp.translation import Config


def _is_a_member(name: str) -> str:
    if not re.fullmatch(r"[^@]+|[^@]*@(best|last|[0-9]+)", name):
        raise ValueError(f"{name!r} names no checkpoint; give RUN, RUN@UPDATE, RUN@best, RUN@last or @UPDATE")
    return name


Member = Annotated[str, AfterValidator(_is_a_member)]
"""RUN, RUN@WHICH or @WHICH."""

Restored = tuple[Seq2Seq, Vocabulary, int]
"""A model, its vocabulary, and how many updates it had made."""


def open_ensemble(
    config: "Config", context: Context, restore: "Callable[[Config, Context], Restored]"
) -> tuple[Seq2Seq | Ensemble, Vocabulary, int]:
    """The checkpoint of the context, and with it those that `config.ensemble` names; with none, that model alone.

    Raises FootplateError where a member is missing, or its vocabulary is another one.
    """
    model, vocabulary, update = restore(config, context)
    if not config.ensemble:
        return model, vocabulary, update
    models = [model]
    for name in config.ensemble:
        other, its_vocabulary, _ = _member(name, config, context, restore)
        for side in ("source", "target"):
            if getattr(its_vocabulary, side).pieces() != getattr(vocabulary, side).pieces():
                raise FootplateError(
                    f"ensemble: {name}: its {side} vocabulary is another one than this run's; "
                    "choose runs that were trained with the same"
                )
        models.append(other)
    return Ensemble(models), vocabulary, update


def find_member(name: str, config: "Config", context: Context) -> "tuple[Config, Context]":
    """The run called `name` and its checkpoint; where the run's own is an average, so is that one.

    `ema_decay` says of a checkpoint of this run what it says of this one, and of another run what that run has.
    Raises FootplateError where there is none.
    """
    assert context.checkpoint is not None
    own = RunFolder(context.checkpoint.folder.parent.parent)
    run, _, which = name.partition("@")
    folder = open_run(run, own.runs) if run else own
    job = read_job(folder.job)
    if not isinstance(job.config, type(config)):
        raise FootplateError(f"a run of the task {job.task} translates nothing; name a run of translation")
    try:
        checkpoint = choose_checkpoint(folder, which or ("best" if config.average == 1 else "last"), job)
    except FootplateError as error:
        raise CheckpointError(str(error).removeprefix("--checkpoint: ")) from error
    asked: dict[str, object] = {"average": config.average, "ensemble": ()}
    if folder.path.resolve() == own.path.resolve():
        asked["ema_decay"] = config.ema_decay
    settings = job.config.model_copy(update=asked)
    return settings, replace(context, folder=folder.path, checkpoint=checkpoint)


def _member(
    name: str, config: "Config", context: Context, restore: "Callable[[Config, Context], Restored]"
) -> Restored:
    """The model called `name`; where the run's own is an average, the mean of as many checkpoints up to this one."""
    try:
        return restore(*find_member(name, config, context))
    except FootplateError as error:
        # Of several mistakes in another run's job.yaml each has its line.
        problem = str(error).removeprefix(f"{name.partition('@')[0]}: ")
        raise CheckpointError(f"ensemble: {name}: {problem}") from error
