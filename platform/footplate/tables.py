"""Tables of text on the terminal."""

from collections.abc import Sequence


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns' names: in colour and fitted to the width on a terminal, plain in a pipe."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A pipe has no width: nothing is folded there, so that each row stays one line for grep.
    Console(width=None if console.is_terminal else 400).print(table)
