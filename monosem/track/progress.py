"""Progress of a long phase: a bar with rate and ETA on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0
"""Seconds between plain lines when the output is not a terminal."""


def written(rate: float) -> str:
    """A rate in a few digits: tasks of many seconds have one below 1."""
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.2g}"


class PhaseProgress:
    """`with PhaseProgress("train", total, "rows") as progress: progress.update(done, note="loss 0.1")`."""

    def __init__(self, name: str, total: int, unit: str):
        self.name, self.total, self.unit = name, max(1, total), unit
        self.console = Console(stderr=True)
        self.start = self.moving_since = self.last_line = time.monotonic()
        self.first_done: int | None = None
        self.done = 0
        self.note = ""
        self.bar: Progress | None = None

    def __enter__(self) -> "PhaseProgress":
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.total, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        if self.first_done is None or done == self.first_done:
            self.first_done, self.moving_since = done, time.monotonic()
        self.done, self.note = done, note
        rate = self.rate()
        shown = f"{written(rate)} {self.unit}/s {note}"
        if self.bar:
            self.bar.update(self.task, completed=done, note=shown)
        elif time.monotonic() - self.last_line >= LINE_EVERY_S:
            self._line(rate)

    def rate(self) -> float:
        """Units per second since the first were done: neither what a resumed run had before nor its start counts."""
        return (self.done - (self.first_done or 0)) / max(1e-9, time.monotonic() - self.moving_since)

    def _line(self, rate: float) -> None:
        self.last_line = time.monotonic()
        left = max(0, self.total - self.done)
        pace = f"  {written(rate)} {self.unit}/s  eta {left / rate:.0f} s" if rate > 0 else ""  # not known yet
        sys.stderr.write(
            f"{self.name}: {self.done:,}/{self.total:,} {self.unit} ({100 * self.done / self.total:.0f}%)"
            f"{pace}  {self.note}\n"
        )
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
        elif self.done:
            seconds = time.monotonic() - self.start
            sys.stderr.write(f"{self.name}: {self.done:,} {self.unit} in {seconds:.1f} s  {self.note}\n")
