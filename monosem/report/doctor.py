"""What `monosem doctor` finds, for the terminal, within 80 columns."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

MARKS = {True: ("ok", "green"), False: ("missing", "bold red"), None: ("note", "yellow")}


def show_finding(about: str, ok: bool | None, said: str, mend: str = "", console: Console | None = None) -> None:
    """One finding: what it is about and what was found, below it what mends it."""
    table = Table.grid(padding=(0, 2))
    for width in (7, 15, 52):
        table.add_column(width=width, overflow="fold")
    word, style = MARKS[ok]
    table.add_row(Text(word, style), Text(about), Text(said))
    if mend:
        table.add_row("", "", Text(f"-> {mend}"))
    (console or Console(width=80)).print(table)
