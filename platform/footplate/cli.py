"""The command line: commands of this package, and those that installed packages add.

Every command imports what it needs when it is called, so that `footplate --help` answers at once.
"""

import io
import os
import signal
import sys
import traceback
from importlib.metadata import entry_points
from typing import Any, cast

import typer

from footplate import commands
from footplate.errors import FootplateError
from footplate.interrupts import ABANDONED

_UsageError = cast(type[Exception], typer.BadParameter.__base__)
"""What typer raises for a command line that it cannot parse; it exports only this subclass."""


def main() -> None:
    """Run the command line. A mistake that the user can mend prints its line and exits with 2, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a name's letters is no reason to end
    try:
        code = build_app()(sys.argv[1:] or ["--help"], prog_name="footplate", standalone_mode=False)
    except _UsageError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except FootplateError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        if error.__cause__ is not None and "--debug" in sys.argv:
            traceback.print_exception(error.__cause__)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # one more ends the interpreter's own end, without a traceback
        sys.exit(ABANDONED)
    try:
        sys.stdout.flush()
    except OSError:  # or Python would complain of it at the very end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _one_line(error: Any) -> str:
    """typer's complaint, which is a sentence or several, and where to read on."""
    said = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "footplate"
    advice = f"`{command} --help` says what there is"
    return f"command line: {said[:1].lower()}{said[1:]}{'' if said.endswith('?') else ';'} {advice}"


def build_app() -> typer.Typer:
    """The application with every installed command."""
    app = typer.Typer(
        help="Train sequence-to-sequence models and reinforcement-learning agents: one recipe, here or on a cluster.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    commands.register(app)
    for entry in sorted(entry_points(group="footplate.commands"), key=lambda entry: entry.name):
        try:
            entry.load().register(app)
        except ImportError as error:  # a package half installed should not take the others' commands with it
            print(f"warning: the command {entry.name} is not available: {error}", file=sys.stderr)
    return app
