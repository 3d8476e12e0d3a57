"""What can go wrong and be mended by the user. Each message is one line: `where: key: what is wrong; what to do.`"""

import traceback
from pathlib import Path


class FootplateError(Exception):
    """A mistake that the user can mend: the command line prints its message alone and exits with `exit_code`."""

    exit_code = 2


class ConfigError(FootplateError):
    """Everything that is wrong with a recipe, all at once: one line a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str]]]:
        return ConfigError, (self.problems,)


class CheckpointError(FootplateError):
    """A checkpoint that is missing, damaged or of another kind of run."""


class TrainingError(FootplateError):
    """Training itself failed in a way that is understood, such as gradients that stay non-finite."""

    exit_code = 1


def described(problem: BaseException) -> str:
    """What was raised, and where, on one line."""
    place = traceback.extract_tb(problem.__traceback__)[-1]
    message = " ".join(str(problem).split())
    what = f"{type(problem).__name__}: {message}".removesuffix(": ")
    return f"{what} ({Path(place.filename).name}, line {place.lineno})"
