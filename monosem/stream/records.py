"""Activation rows as Arrow record batches: the one form in which they travel.

    item   {"x0": fixed_size_list<float32>[width], "x1": ...}          rows of one work item, a column per hook point
    part   {"place": int32, "x": fixed_size_list<float32>[width]}      one shard's rows of one segment, one hook point

A row that has a NaN or an infinity is *masked*: all its values are NaN, so that it keeps its place in the
stream and learners pass over it. Arrow memory is read-only here; `rows_of` gives a view, and whoever changes rows
copies them first. A record batch is never sliced: a slice would ship the whole parent.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def item_batch(columns: Sequence[np.ndarray]) -> pa.RecordBatch:
    """float32 [n, width] of each hook point as an item."""
    return pa.record_batch({f"x{k}": vectors(rows) for k, rows in enumerate(columns)})


def part_batch(places: np.ndarray, rows: np.ndarray) -> pa.RecordBatch:
    """Places int [n] and rows float32 [n, width] as a part."""
    return pa.record_batch({"place": pa.array(places.astype(np.int32)), "x": vectors(rows)})


def rows_of(batch: pa.RecordBatch, column: str = "x") -> np.ndarray:
    """The vectors of a batch, a read-only view. float32 [n, width]."""
    array = batch.column(column)
    return array.flatten().to_numpy(zero_copy_only=True).reshape(len(array), array.type.list_size)


def columns_of(item: pa.RecordBatch) -> list[np.ndarray]:
    """The vectors of an item at each hook point, read-only views."""
    return [rows_of(item, name) for name in item.schema.names]


def places_of(batch: pa.RecordBatch) -> np.ndarray:
    return batch.column("place").to_numpy(zero_copy_only=True)


def vectors(rows: np.ndarray) -> pa.FixedSizeListArray:
    """float32 [n, width] as an Arrow column, without a copy if it is contiguous."""
    if rows.dtype != np.float32 or rows.ndim != 2:
        raise ValueError(f"rows must be float32 [n, width], got {rows.dtype} {rows.shape}")
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
