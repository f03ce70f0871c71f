"""Mixing: from the items of a window to one segment of the stream, whole or in shards.

A shard holds some of the work items and makes its *part* of every segment: its rows, sorted by the
place they take. Putting the parts of all shards together gives the segment, whatever their number.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from monosem.rows.order import StreamOrder
from monosem.stream.records import part_batch, places_of, rows_of

GetItem = Callable[[int], pa.RecordBatch]


def shard_of_item(item: int, shards: int) -> int:
    return item % shards


def part_items(order: StreamOrder, segment: int, shard: int, shards: int) -> list[tuple[int, int]]:
    """(item, generation) of the tiles of `segment` that `shard` holds."""
    return [(item, g) for item, g in order.items_of_segment(segment) if shard_of_item(item, shards) == shard]


def oldest_item(order: StreamOrder, segment: int) -> int:
    """Items before this one are not needed from `segment` on."""
    return segment * order.items_per_block


def mix_part(
    order: StreamOrder, segment: int, tiles: list[tuple[int, int]], get_item: GetItem
) -> pa.RecordBatch | None:
    """The part of `segment` made of `tiles`, or None if there are none."""
    if not tiles:
        return None
    n = order.tile_rows
    places = np.concatenate([order.tile_places(segment, item, g) for item, g in tiles])
    rows = np.concatenate([rows_of(get_item(item))[g * n : (g + 1) * n] for item, g in tiles])
    by_place = np.argsort(places, kind="stable")
    return part_batch(places[by_place], rows[by_place])


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
