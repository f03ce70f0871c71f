"""A plan (`stages/plan.py`) for the terminal, within 80 columns: two tables of runs, the waves, totals and notes."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

GIB, GB, TB = 2**30, 10**9, 10**12


def bytes_text(n: float) -> str:
    """1.5 TB, 3.20 GB, 12.0 MB: decimal, as stores and networks count."""
    unit, size = next(((u, s) for u, s in (("TB", TB), ("GB", GB), ("MB", 1e6)) if n >= s), ("kB", 1e3))
    return f"{n / size:,.2f} {unit}"


def hours_text(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"


def show_plan(plan: dict, console: Console | None = None) -> None:
    console = console or Console(width=80)
    host, stream, total = plan["host"], plan["stream"], plan["total"]
    _lines(
        console,
        f"job {plan['job']} on {plan['cluster']}",
        f"rates: {plan['rates']}",
        f"host {host['model']}: {host['flops_per_token'] / 1e6:,.1f} MFLOP per token up to the hook point, "
        f"{bytes_text(host['bytes'])} ({host['source']})",
    )
    _table(console, plan["runs"], PACE)
    _table(console, plan["runs"], MEMORY)
    _waves(console, plan["waves"])
    most = "" if stream["most_rows_per_s"] is None else f"; its workers make {stream['most_rows_per_s']:,.0f} at most"
    _lines(
        console,
        f"stream: {stream['rows']:,} rows of {stream['row_bytes']:,} B, {stream['passes']:.2f} passes over the corpus, "
        f"harvested {stream['harvests']} times; {stream['rows_per_s']:,.0f} rows/s, "
        f"{bytes_text(stream['bytes_per_s'])}/s{most}",
        f"store: a checkpoint of all runs {bytes_text(total['checkpoint_bytes'])}, at most "
        f"{bytes_text(total['kept_bytes'])} while training, {bytes_text(total['finished_bytes'])} when finished",
        f"total: {total['parameters']:,} parameters, {total['flops']:.3g} FLOPs, {hours_text(total['hours'])}"
        + ("" if total["device_hours"] is None else f", {total['device_hours']:,.0f} device hours"),
    )
    _lines(console, *(f"note: {note}" for note in plan["notes"]))


def _mesh(row: dict) -> str:
    return f"{row['replicas']}x{row['feature_shards']}"


def _fit(row: dict) -> str:
    if row["fits"]:
        return str(row["wave"])
    other = row["suggestion"]
    return f"no: try {_mesh(other)}" if other else "no"


PACE: dict[str, Callable[[dict], str]] = {
    "features": lambda r: f"{r['d_sae']:,}",
    "R x S": _mesh,
    "TFLOP/step": lambda r: f"{r['flops_per_step'] / 1e12:,.3f}",
    "way": lambda r: r["way"],
    "MB/s": lambda r: f"{r['bytes_per_s'] / 1e6:,.0f}",
    "alone": lambda r: hours_text(r["hours"]),
    "limit": lambda r: r["bottleneck"],
    "wave": _fit,
}
"""bytes/s of the stream that a run could take by itself, and its time then: nobody shares its process or its stream."""
MEMORY: dict[str, Callable[[dict], str]] = {
    "weights": lambda r: f"{r['rank']['parameters'] / GIB:,.2f}",
    "Adam": lambda r: f"{r['rank']['moments'] / GIB:,.2f}",
    "gradients": lambda r: f"{r['rank']['gradients'] / GIB:,.2f}",
    "work": lambda r: f"{(r['rank']['work'] + r['rank']['factors']) / GIB:,.2f}",
    "packing": lambda r: f"{r['rank']['checkpoint'] / GIB:,.2f}",
    "whole rank": lambda r: f"{r['rank_bytes'] / GIB:,.2f}",
    "checkpoint": lambda r: bytes_text(r["checkpoint_bytes"]),
}
"""GiB of a rank; the whole rank is that of its pack of runs."""


def _table(console: Console, rows: Sequence[dict], columns: dict[str, Callable[[dict], str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("GiB per rank" if columns is MEMORY else "run", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(row["run"]), *(Text(cell(row)) for cell in columns.values()))
    console.print()
    console.print(table)


def _waves(console: Console, waves: Sequence[dict]) -> None:
    console.print()
    for row in waves:
        hours = hours_text((row["train_s"] + row["once_s"]) / 3600)
        runs = ", ".join(row["runs"]) if len(row["runs"]) <= 9 else f"{len(row['runs'])} runs"
        memory = f", {bytes_text(row['bytes'])} of memory" if row["bytes"] else ""
        text = f"{hours}, {row['rows_per_s']:,.0f} rows/s, set by {row['bottleneck']}{memory}: {runs}"
        _lines(console, f"wave {row['wave']} ({row['ranks']} ranks): {text}")


def _lines(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(Text(line), soft_wrap=False)
