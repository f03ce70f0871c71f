"""Activation rows as Arrow record batches: the one form in which they travel.

    item   {"x": fixed_size_list<float32>[width]}                      rows of one work item, tile by tile
    part   {"place": int32, "x": fixed_size_list<float32>[width]}      one shard's rows of one segment

Arrow memory is read-only here; `rows_of` gives a view, and whoever changes rows copies them first.
A record batch is never sliced: a slice would ship the whole parent.
"""

import numpy as np
import pyarrow as pa


def item_batch(rows: np.ndarray) -> pa.RecordBatch:
    """float32 [n, width] as an item."""
    return pa.record_batch({"x": _vectors(rows)})


def part_batch(places: np.ndarray, rows: np.ndarray) -> pa.RecordBatch:
    """Places int [n] and rows float32 [n, width] as a part."""
    return pa.record_batch({"place": pa.array(places.astype(np.int32)), "x": _vectors(rows)})


def rows_of(batch: pa.RecordBatch) -> np.ndarray:
    """The vectors of a batch, a read-only view. float32 [n, width]."""
    column = batch.column("x")
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)


def places_of(batch: pa.RecordBatch) -> np.ndarray:
    return batch.column("place").to_numpy(zero_copy_only=True)


def _vectors(rows: np.ndarray) -> pa.FixedSizeListArray:
    if rows.dtype != np.float32 or rows.ndim != 2:
        raise ValueError(f"rows must be float32 [n, width], got {rows.dtype} {rows.shape}")
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
