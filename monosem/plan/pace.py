"""How fast a wave of learner groups goes, and what holds it up.

All groups of a wave read one stream, at the pace of the slowest. With a device per rank

    row_s = max(stream, slowest group)      group: (step + wire + its share of checkpoints) / batch, of all its runs
    stream: item_s / (rows of an item x workers)

Where processes share the cores of a machine, and in one process (--inline), work adds up instead: all of it in seconds
of a core, over the cores that there are, and never faster than the slowest process alone; several learners get in each
other's way besides, by a factor that was measured (`crowd`). The wire is not hidden behind arithmetic: it comes on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Of a run, or of all runs of a group, per step: a rank's seconds of arithmetic, wire and checkpoints (each step's
    share).

    limit    what the arithmetic waits for: compute, memory, or arithmetic where only the sum was measured
    threads  cores that a rank's arithmetic keeps busy; 0: a device of its own
    ranks    how many do this at once
    """

    step_s: float
    wire_s: float
    checkpoint_s: float
    limit: str
    threads: int = 0
    ranks: int = 1

    @property
    def whole_s(self) -> float:
        return self.step_s + self.wire_s + self.checkpoint_s

    @property
    def bottleneck(self) -> str:
        parts = {self.limit: self.step_s, "wire": self.wire_s, "checkpoints": self.checkpoint_s}
        return max(parts, key=parts.__getitem__)


def together(paces: Sequence[Pace]) -> Pace:
    """One group's runs, one after the other on the same batch."""
    largest = max(paces, key=lambda p: p.step_s)
    sums = (sum(getattr(p, name) for p in paces) for name in ("step_s", "wire_s", "checkpoint_s"))
    return Pace(*sums, largest.limit, largest.threads, largest.ranks)


@dataclass(frozen=True)
class StreamPace:
    """item_s: seconds of one work item; rows: that it gives; workers: how many make items, on `threads` cores each."""

    item_s: float
    rows: int
    workers: int
    threads: int = 0

    @property
    def row_s(self) -> float:
        return self.item_s / (self.rows * self.workers)


@dataclass(frozen=True)
class WavePace:
    row_s: float
    bottleneck: str


def wave_pace(
    groups: Sequence[Pace], stream: StreamPace, batch_size: int, cores: int, inline: bool, crowd: float = 1.0
) -> WavePace:
    """Seconds per row of a wave, and what sets them. cores: shared by everything; 0: every rank has a device."""
    slowest = max(groups, key=lambda g: g.whole_s)
    if inline:
        row_s = sum(g.whole_s for g in groups) / batch_size + stream.item_s / stream.rows
        return WavePace(row_s, slowest.bottleneck)
    alone = max((slowest.whole_s / batch_size, slowest.bottleneck), (stream.row_s, "stream"))
    if not cores:
        return WavePace(*alone)
    work = sum(g.ranks * (g.step_s * min(g.threads, cores) + g.wire_s + g.checkpoint_s) for g in groups) / batch_size
    work += stream.item_s * min(stream.threads, cores) / stream.rows
    work *= crowd if sum(g.ranks for g in groups) > 1 else 1.0
    return max(WavePace(*alone), WavePace(work / cores, "cores"), key=lambda pace: pace.row_s)
