"""Filling: rows go straight to their places in the segments that are still being made, by one process alone.

A row is written once, from the activations to its place, so that a stream costs no pass over its rows beyond the one
that picks them. The price is that the segments under way are memory at full size, K*r*G rows
and the rest of their blocks, where waiting tiles (`mix.Tiles`) are K*r*(G+1)/2.
"""

import numpy as np
import torch
from torch import Tensor

from monosem.rows.order import StreamOrder
from monosem.stream.harvest import Memory, Place

TOGETHER = 4
"""Segments that lie one behind the other in memory, so that most batches across two segments need no copy."""


class Filling:
    """One segment: its rows by hook point, where each tile goes, and the tiles that are not in place yet."""

    def __init__(self, order: StreamOrder, segment: int, rows: list[Memory]):
        tiles = order.items_of_segment(segment)
        self.missing = dict(zip(tiles, order.segment_places(segment).reshape(len(tiles), -1), strict=True))
        self.rows = rows

    def place(self, tile: tuple[int, int]) -> tuple[list[Memory], np.ndarray] | None:
        """Where a tile's rows go: rows by hook point, and places among them. None if it is in place already."""
        at = self.missing.pop(tile, None)
        return None if at is None else (self.rows, at)


class Fillings:
    """The segments under way. What lies before the one asked for is let go, so what is held stays bounded.

    device   where they are tensors; None: they are arrays of this process
    """

    def __init__(self, order: StreamOrder, device: str | None = None):
        self.order, self.device = order, device
        self.held: dict[int, Filling] = {}
        self.memory: dict[int, list[Memory]] = {}  # of TOGETHER segments by hook point

    def begin(self, segment: int) -> list[int]:
        """The items that must be put before `segment` can be taken, in order."""
        coming = range(segment, segment + self.order.generations)
        self.held = {u: filling for u, filling in self.held.items() if u in coming}
        groups = {u // TOGETHER for u in coming}
        self.memory = {group: columns for group, columns in self.memory.items() if group in groups}
        missing = self.held[segment].missing if segment in self.held else self.order.items_of_segment(segment)
        return list(dict.fromkeys(item for item, _ in missing))

    def place_of(self, item: int, lowest: int) -> Place:
        """Where the tiles of an item go; those of segments before `lowest` go nowhere."""

        def place(g: int, widths: list[int]) -> tuple[list[Memory], np.ndarray] | None:
            u = self.order.tile_segment(item, g)
            if u < lowest:
                return None
            if u not in self.held:
                self.held[u] = Filling(self.order, u, self._rows(u, widths))
            return self.held[u].place((item, g))

        return place

    def take(self, segment: int) -> list[Memory]:
        """A segment all of whose tiles are in place: float32 [segment_rows, width] by hook point."""
        filling = self.held.pop(segment)
        if filling.missing:
            raise ValueError(f"segment {segment} lacks {len(filling.missing)} of its tiles")
        return filling.rows

    def _rows(self, segment: int, widths: list[int]) -> list[Memory]:
        """Memory for a segment: a slice of that of its group."""
        n = self.order.segment_rows
        group, place = divmod(segment, TOGETHER)
        if group not in self.memory:
            self.memory[group] = [self._memory(TOGETHER * n, width) for width in widths]
        return [column[place * n : (place + 1) * n] for column in self.memory[group]]

    def _memory(self, rows: int, width: int) -> Memory:
        if self.device is None:
            return np.empty((rows, width), dtype=np.float32)
        return torch.empty(rows, width, dtype=torch.float32, device=self.device)


def joined(pieces: list[Memory]) -> Memory:
    """The pieces as one array: a view if they lie one behind the other in the same memory, else a copy."""
    if isinstance(pieces[0], Tensor):
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    base = pieces[0].base
    if len(pieces) > 1 and base is not None and all(p.base is base and p.strides == base.strides for p in pieces):
        row = base.strides[0]
        ends = [_address(piece) + len(piece) * row for piece in pieces]
        if all(_address(piece) == end for piece, end in zip(pieces[1:], ends, strict=False)):
            first = (_address(pieces[0]) - _address(base)) // row
            return base[first : first + sum(map(len, pieces))]
    return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
