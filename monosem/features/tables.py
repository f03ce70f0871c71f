"""The tables of `schema` as Parquet bytes, and back. Of one version of pyarrow, the same values give the same bytes."""

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monosem.features.schema import TABLES, Column

ROW_GROUP = {"features": 4096, "examples": 65_536, "texts": 65_536, "related": 262_144, "vocab": 65_536}
"""Rows of a row group."""
KINDS = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "binary": pa.binary(),
}


class Ragged:
    """A list column: values one after another, and how many each row has. mask: rows that are null."""

    def __init__(self, values: np.ndarray, lengths: np.ndarray, mask: np.ndarray | None = None):
        self.values, self.mask = values, mask
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    @classmethod
    def cut(cls, rows: np.ndarray, width: np.ndarray, mask: np.ndarray | None = None) -> "Ragged":
        """The first `width` of each of rows [n, w]; none of those masked."""
        if mask is not None:
            width = np.where(mask, 0, width)
        return cls(rows[np.arange(rows.shape[1])[None, :] < width[:, None]], width, mask)


Values = np.ndarray | list | Ragged | None
"""[n], [n, k] for a list column of one length, a list with None for nulls, or None: null throughout."""


def kind_of(column: Column) -> pa.DataType:
    inner = column.kind.removeprefix("list<").removesuffix(">")
    return pa.list_(KINDS[inner]) if inner != column.kind else KINDS[inner]


def schema_of(table: str) -> pa.Schema:
    return pa.schema([pa.field(c.name, kind_of(c), c.nullable) for c in TABLES[table]])


def make_table(table: str, columns: Mapping[str, Values], rows: int) -> pa.Table:
    """The table from its columns by name; every column of the schema must be there."""
    schema = schema_of(table)
    return pa.table([_array(columns[f.name], f.type, rows) for f in schema], schema=schema)


def to_parquet(name: str, table: pa.Table) -> bytes:
    """Without dictionaries of values but for text: token ids and floats come out smaller and in half the time."""
    out, text = io.BytesIO(), [field.name for field in table.schema if field.type == pa.string()]
    sizes = {"row_group_size": ROW_GROUP[name], "use_dictionary": text or False}
    pq.write_table(table, out, compression="zstd", write_statistics=False, **sizes)
    return out.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def joined_tables(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables)


def _array(values: Values, kind: pa.DataType, rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(rows, kind)
    if isinstance(values, Ragged):
        mask = None if values.mask is None else pa.array(values.mask)
        flat = pa.array(values.values, kind.value_type)
        return pa.ListArray.from_arrays(pa.array(values.offsets.astype(np.int32)), flat, kind, mask=mask)
    if isinstance(values, np.ndarray) and values.ndim == 2:
        n, k = values.shape
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * k)
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.ListArray.from_arrays(offsets, flat, kind)
    return pa.array(values, kind)
