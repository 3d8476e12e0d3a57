"""Tables of text on the terminal."""

from collections.abc import Sequence


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns' names: in colour and fitted to the width on a terminal, plain in a pipe."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As text: what a user has named `try[b]` is no markup.
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    # A pipe has no width: nothing is folded there, so that each row stays one line for grep.
    Console(width=None if console.is_terminal else 400).print(table)
