"""Mixing: from the items of a window to one segment of the stream, whole or in shards.

A shard holds some of the work items and makes its *part* of every segment: its rows, sorted by the
place they take. Putting the parts of all shards together gives the segment, whatever their number.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from monosem.rows.order import StreamOrder
from monosem.stream.records import part_batch, places_of, rows_of

Tile = tuple[int, int]
"""(item, generation): the rows of an item that go to one segment."""


def shard_of_item(item: int, shards: int) -> int:
    return item % shards


def part_tiles(order: StreamOrder, segment: int, shard: int, shards: int) -> list[Tile]:
    """The tiles of `segment` that `shard` holds."""
    return [(item, g) for item, g in order.items_of_segment(segment) if shard_of_item(item, shards) == shard]


class Tiles:
    """Rows that wait for their segment. A segment takes its tiles away, so what is held stays bounded."""

    def __init__(self, order: StreamOrder):
        self.order = order
        self.held: dict[Tile, list[np.ndarray]] = {}  # a copy of each hook point's rows

    def missing(self, tiles: Iterable[Tile]) -> list[int]:
        """Items that must be harvested before `tiles` can be taken, in order."""
        return list(dict.fromkeys(item for item, g in tiles if (item, g) not in self.held))

    def add(self, item: int, columns: Sequence[np.ndarray], segments: Iterable[range]) -> None:
        """Keep copies of the tiles of an item that go to one of `segments`. Columns: float32 [rows, width] each."""
        n = self.order.tile_rows
        wanted = list(segments)
        for g in range(self.order.generations):
            if any(self.order.tile_segment(item, g) in some for some in wanted):
                self.held[item, g] = [rows[g * n : (g + 1) * n].copy() for rows in columns]

    def take(self, tiles: Sequence[Tile]) -> list[list[np.ndarray]]:
        """The rows of `tiles`, which are let go: by tile, by hook point."""
        return [self.held.pop(tile) for tile in tiles]

    def keep_only(self, segments: Iterable[range]) -> None:
        """Let go of the tiles that go to none of `segments`."""
        wanted = list(segments)
        self.held = {
            tile: rows
            for tile, rows in self.held.items()
            if any(self.order.tile_segment(*tile) in some for some in wanted)
        }


def mix_part(
    order: StreamOrder, segment: int, tiles: Sequence[Tile], rows: Sequence[Sequence[np.ndarray]]
) -> list[pa.RecordBatch]:
    """The part of `segment` made of `tiles`, for each hook point; rows are by tile, by hook point."""
    places = np.concatenate([order.tile_places(segment, item, g) for item, g in tiles])
    by_place = np.argsort(places, kind="stable")
    rank = np.empty_like(by_place)
    rank[by_place] = np.arange(len(places))
    parts = []
    for column in range(len(rows[0])):
        mixed = np.empty((len(places), rows[0][column].shape[1]), dtype=np.float32)
        for k, tile in enumerate(rows):
            mixed[rank[k * order.tile_rows : (k + 1) * order.tile_rows]] = tile[column]
        parts.append(part_batch(places[by_place], mixed))
    return parts


def assemble(order: StreamOrder, parts: list[pa.RecordBatch]) -> np.ndarray:
    """A segment from its parts: float32 [segment_rows, width]. One whole part is returned as a view."""
    total = sum(len(part) for part in parts)
    if total != order.segment_rows:
        raise ValueError(f"parts hold {total} rows, a segment has {order.segment_rows}")
    if len(parts) == 1:
        return rows_of(parts[0])
    segment = np.empty((total, rows_of(parts[0]).shape[1]), dtype=np.float32)
    for part in parts:
        segment[places_of(part)] = rows_of(part)
    return segment
