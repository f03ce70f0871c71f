"""Tables of runs for the terminal, within 80 columns."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

MARKS = {
    "found": ("recovered", ".1%"),
    "MCC": ("mcc", ".3f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "strength": ("shrinkage", ".3f"),
    "L0": ("l0", ".1f"),
    "FVU": ("fvu", ".3f"),
    "dead": ("dead", ".1%"),
}
"""Columns of `show_marks`: the key of a row, and its form."""
ABOVE_1 = (
    "recovered above 1: the host predicts this text too badly for the ratio to mean\n"
    "much; it was probably trained on other text."
)


def show_table(rows: list[dict], console: Console | None = None) -> None:
    """One line per run: features, L0, FVU, loss recovered, dead share, rows/s; "-" for what was not measured."""
    console = console or Console(width=80)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")
    for name in ("features", "L0", "FVU", "recovered", "dead", "rows/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state")
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row)))
    console.print(table)
    if any((row.get("loss_recovered") or 0) > 1 for row in rows):
        console.print(Text(ABOVE_1))


def show_marks(rows: list[dict], console: Console | None = None) -> None:
    """One line per run of `monosem truth`."""
    console = console or Console(width=80)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")
    for name in MARKS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(row["run"]), *(Text(format(row[key], form)) for key, form in MARKS.values()))
    console.print(table)


def show_laws(groups: list[dict], console: Console | None = None) -> None:
    """Of each hook point and variant: the exponents of its laws, and the run to add next."""
    console = console or Console(width=80)
    for group in groups:
        asked = ", ".join(f"{name}={value:g}" for name, value in group["asked"].items())
        console.print(Text(f"{group['variant']} on {group['hook_point']} ({asked}), {len(group['runs'])} runs"))
        for name, law in group["laws"].items():
            if law:
                error = "" if law["error"] is None else f" +- {law['error']:.3f}"
                console.print(Text(f"  {name:9} ~ compute^{law['b']:+.3f}{error}"))
        overrides = " ".join(f"{name}={value}" for name, value in group["next"].items())
        console.print(Text(f"  next: {overrides or 'none'} ({group['why']})"))


def show_rubric(found: dict, console: Console | None = None) -> None:
    """Marks of a blind exercise, a line per kind."""
    console = console or Console(width=80)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "items", "intervals", "median", "mean", "above 8"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for kind, m in found["kinds"].items():
        numbers = (f"{m['items']:,}", f"{m['intervals']:,}", f"{m['median']:g}", f"{m['mean']:.1f}", f"{m['good']:.0%}")
        table.add_row(f"{kind}s", *numbers)
    console.print(table)
    if found["unfinished"]:
        console.print(Text(f"not counted: {found['unfinished']:,} intervals without all answers"))


def _cells(row: dict) -> list[str]:
    def shown(key: str, form: str) -> str:
        return "-" if row.get(key) is None else format(row[key], form)

    state = row["state"] if row["state"] in ("finished", "pending", "damaged") else f"{row['state']} @{row['step']}"
    return [
        row["run"],
        shown("d_sae", ",d"),
        shown("l0", ".1f"),
        shown("fvu", ".3f"),
        shown("loss_recovered", ".3f"),
        shown("dead_fraction", ".1%"),
        shown("rows_per_s", ",.0f"),
        state,
    ]
