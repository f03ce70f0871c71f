"""Batches by index: a learner asks for rows [lo, hi) of the stream and gets them, whoever made them."""

import time
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from monosem.rows.order import StreamOrder, segment_pieces
from monosem.stream.harvest import Harvester
from monosem.stream.mix import assemble, mix_part, oldest_item


class SegmentSource(Protocol):
    def segment(self, u: int) -> np.ndarray:
        """Rows of segment u in order: float32 [segment_rows, width], read-only."""
        ...


class LocalSource:
    """Harvests and mixes in this process: one shard, no Ray."""

    def __init__(self, harvester: Harvester):
        self.harvester, self.order = harvester, harvester.order
        self.items: dict[int, pa.RecordBatch] = {}

    def segment(self, u: int) -> np.ndarray:
        first = oldest_item(self.order, u)
        self.items = {item: batch for item, batch in self.items.items() if item >= first}
        part = mix_part(self.order, u, self.order.items_of_segment(u), self._item)
        return assemble(self.order, [part])

    def _item(self, item: int) -> pa.RecordBatch:
        if item not in self.items:
            self.items[item] = self.harvester.item(item)
        return self.items[item]


class RowReader:
    """Rows of the stream as tensors of their own, and how long they were waited for."""

    def __init__(self, source: SegmentSource, order: StreamOrder):
        self.source, self.order = source, order
        self.held: tuple[int, np.ndarray] | None = None
        self.wait_s = 0.0

    def rows(self, lo: int, hi: int) -> Tensor:
        """Rows [lo, hi): float32 [hi - lo, width], a copy that the caller may change."""
        pieces = segment_pieces(lo, hi, self.order.segment_rows)
        return torch.from_numpy(np.concatenate([self._segment(u)[first:last] for u, first, last in pieces]))

    def _segment(self, u: int) -> np.ndarray:
        if self.held is None or self.held[0] != u:
            self.held = None  # let go of the old segment before waiting for the new one
            start = time.monotonic()
            self.held = (u, self.source.segment(u))
            self.wait_s += time.monotonic() - start
        return self.held[1]
