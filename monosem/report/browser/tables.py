"""The feature tables of a run, read for the site slice by slice (monosem/features/schema.py says what is in them)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monosem.errors import IntegrityError
from monosem.features import schema
from monosem.report.browser.pack import rounded
from monosem.store.plain import unpack_json
from monosem.store.store import Store


@dataclass(frozen=True)
class Ragged:
    """A list column: row i is values[starts[i]:starts[i + 1]]; `present` [rows] is False where the list is null."""

    values: np.ndarray
    starts: np.ndarray
    present: np.ndarray

    def __getitem__(self, i: int) -> np.ndarray | None:
        return self.values[self.starts[i] : self.starts[i + 1]] if self.present[i] else None

    def rows(self, a: int, b: int) -> "Ragged":
        """Rows [a, b), with starts from 0."""
        first, last = self.starts[a], self.starts[b]
        return Ragged(self.values[first:last], self.starts[a : b + 1] - first, self.present[a:b])


class Table:
    """Columns of a Parquet file by name: numpy arrays, `Ragged` for lists, lists of str or None for text."""

    def __init__(self, table: pa.Table):
        self.table, self.length = table, table.num_rows
        self._columns: dict[str, object] = {}
        self._rounded: dict[str, np.ndarray | Ragged] = {}
        self._valid: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str):
        if name not in self._columns:
            self._columns[name] = _column(self.table.column(name))
        return self._columns[name]

    def rounded(self, name: str) -> "np.ndarray | Ragged":
        """The column with the few digits that pages show, float64."""
        if name not in self._rounded:
            whole = self[name]
            ragged = isinstance(whole, Ragged)
            self._rounded[name] = replace(whole, values=rounded(whole.values)) if ragged else rounded(whole)
        return self._rounded[name]

    def valid(self, name: str) -> np.ndarray:
        """[rows] bool: where the column is not null."""
        if name not in self._valid:
            self._valid[name] = self.table.column(name).is_valid().to_numpy()
        return self._valid[name]


def _column(chunks: pa.ChunkedArray):
    array = chunks.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a column without rows
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        starts = array.offsets.to_numpy().astype(np.int64)
        values = array.values.to_numpy(zero_copy_only=False)[starts[0] : starts[-1]] if len(starts) else np.zeros(0)
        return Ragged(values, starts - starts[0], array.is_valid().to_numpy(zero_copy_only=False))
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return array.to_pylist()
    return array.to_numpy(zero_copy_only=False)


def read_table(store: Store, path: str, wanted: tuple[schema.Column, ...], only: bool = False) -> Table:
    """A table of the store, whole or only the columns `wanted`; IntegrityError if it is not Parquet or lacks one."""
    names = [column.name for column in wanted]
    try:
        file = pq.ParquetFile(pa.BufferReader(store.get(path)))
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            raise IntegrityError(f"{store.url}/{path}: lacks the column {missing[0]!r}")
        return Table(file.read(columns=names if only else None))
    except pa.ArrowException as error:
        raise IntegrityError(f"{store.url}/{path}: not a readable Parquet file: {error}") from error


@dataclass(frozen=True)
class FeatureTables:
    """What the feature pass left of one run (or of the neurons) at `prefix`."""

    store: Store
    prefix: str
    manifest: dict

    @classmethod
    def open(cls, store: Store, prefix: str) -> "FeatureTables | None":
        """None if the pass has not finished there."""
        path = f"{prefix}/{schema.MANIFEST}"
        try:
            manifest = unpack_json(store.get(path), path)
        except FileNotFoundError:
            return None
        if manifest.get("format") != schema.FORMAT:
            raise IntegrityError(
                f"{store.url}/{path}: format {manifest.get('format')}, this version reads {schema.FORMAT}"
            )
        return cls(store, prefix, manifest)

    @property
    def size(self) -> int:
        return self.manifest["d_sae"]

    def slices(self) -> Iterator[tuple[Table, Table]]:
        """(features, examples) of each slice, in order of the features."""
        names = sorted(n for n in self.manifest["files"] if n.startswith("features-"))
        for name in names:
            examples = name.replace("features-", "examples-", 1)
            yield (
                read_table(self.store, f"{self.prefix}/{name}", schema.FEATURES),
                read_table(self.store, f"{self.prefix}/{examples}", schema.EXAMPLES),
            )

    def column(self, table: str, *names: str) -> Iterator[Table]:
        """Some columns of a table, slice by slice."""
        for file in sorted(n for n in self.manifest["files"] if n.startswith(f"{table}-")):
            wanted = tuple(c for c in schema.TABLES[table] if c.name in names)
            yield read_table(self.store, f"{self.prefix}/{file}", wanted, only=True)

    @cached_property
    def largest(self) -> np.ndarray:
        """[features] float32: largest activation of each."""
        return self._whole("max_activation")

    @cached_property
    def importance(self) -> np.ndarray:
        """[features] float64: share of the rows' variance that each accounts for."""
        return self._whole("importance")

    def _whole(self, name: str) -> np.ndarray:
        parts = [part[name] for part in self.column("features", name)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    @cached_property
    def texts(self) -> Table | None:
        if schema.TEXTS_FILE not in self.manifest["files"]:
            return None
        return read_table(self.store, f"{self.prefix}/{schema.TEXTS_FILE}", schema.TEXTS)
