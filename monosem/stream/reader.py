"""Batches by index: a learner asks for rows [lo, hi) of the stream and gets them, whoever made them."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from monosem.rows.order import StreamOrder, segment_pieces
from monosem.stream.fill import Fillings, joined
from monosem.stream.harvest import Harvester, Memory


class Rows(Protocol):
    """Rows of one hook point's stream.

    computes: asking for rows makes them, in this process; else they are only fetched
    """

    computes: bool

    def rows(self, lo: int, hi: int) -> Tensor:
        """Rows [lo, hi): float32 [hi - lo, width], memory that nobody else writes to, perhaps the host's device's."""
        ...


class SegmentSource(Protocol):
    """private: segments are memory of this process alone, not views of something shared (Ray's object store)"""

    private: bool

    def segment(self, u: int, hook_point: str) -> Memory:
        """Rows of segment u in order: float32 [segment_rows, width], not to be written to."""
        ...


class LocalSource:
    """Harvests and mixes in this process: one shard, no Ray. All hook points come from one forward pass.

    hold_rows   a segment is kept for the hook points that have not asked for it yet, within this many rows
    device      the host's, where segments then are; None: they are in this process's memory
    """

    private = True

    def __init__(self, harvester: Harvester, hold_rows: int = 0, device: str | None = None):
        self.harvester, self.order = harvester, harvester.order
        self.hold = 1 + -(-hold_rows // self.order.segment_rows)
        self.fillings = Fillings(self.order, device)
        self.put = harvester.put if device is None else harvester.put_on_device
        # All its memory is of one stream, whichever thread asks: what is let go is not taken while it is still read.
        self.stream = torch.cuda.Stream(device) if device and device.startswith("cuda") else None
        if self.stream:
            self.stream.wait_stream(torch.cuda.default_stream(device))
        self.made: dict[int, list[Memory]] = {}  # segments by hook point
        self.asked = dict.fromkeys(harvester.hook_points, -1)  # the last segment each hook point asked for

    def segment(self, u: int, hook_point: str) -> Memory:
        self.asked[hook_point] = u
        rows = self._made(u)[self.harvester.hook_points.index(hook_point)]
        passed = min(self.asked.values())
        self.made = {v: made for v, made in self.made.items() if v >= passed}
        return rows

    def hand_over(self, rows: Tensor) -> Tensor:
        """Rows on a GPU, for use on the caller's stream."""
        here = torch.cuda.current_stream(rows.device)
        here.wait_stream(self.stream)
        rows.record_stream(here)
        return rows

    def _made(self, u: int) -> list[Memory]:
        if u not in self.made:
            while len(self.made) >= self.hold:
                del self.made[min(self.made)]
            self.made[u] = self._make(u)
        return self.made[u]

    def _make(self, u: int) -> list[Memory]:
        with torch.cuda.stream(self.stream):
            for item in self.fillings.begin(u):
                self.put(item, self.fillings.place_of(item, u))
        return self.fillings.take(u)


class RowReader:
    """Rows of the stream as tensors of their own."""

    def __init__(self, source: SegmentSource, order: StreamOrder, hook_point: str):
        self.source, self.order, self.hook_point = source, order, hook_point
        self.held: tuple[int, Memory] | None = None
        self.computes = source.private  # nobody else made them

    def rows(self, lo: int, hi: int) -> Tensor:
        """Rows [lo, hi): float32 [hi - lo, width].

        A copy, or, where they lie in one piece of memory that is private to this process, a view of that: all who are
        given the same rows then see the same memory, and nobody writes to it.
        """
        pieces = segment_pieces(lo, hi, self.order.segment_rows)
        found = [self._segment(u)[first:last] for u, first, last in pieces]
        rows = joined(found) if self.source.private else np.concatenate(found)
        return rows if isinstance(rows, Tensor) else torch.from_numpy(rows)

    def _segment(self, u: int) -> Memory:
        if self.held is None or self.held[0] != u:
            self.held = None  # let go of the old segment before waiting for the new one
            self.held = (u, self.source.segment(u, self.hook_point))
        rows = self.held[1]
        return self.source.hand_over(rows) if isinstance(rows, Tensor) and rows.is_cuda else rows
