"""Writing an activation dataset: rows come in order, files go out whole, and a stopped writer goes on where it was."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from monosem.dataset.codec import CodecError, decode, encode, measure
from monosem.dataset.manifest import (
    BEGIN,
    BLOCK_ROWS,
    MANIFEST,
    SHARDS,
    Dataset,
    Manifest,
    Shard,
    block_digest,
    open_dataset,
    read_manifest,
    shard_name,
)
from monosem.errors import InputError
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store

MEASURED_ROWS = 1024
"""Rows whose rounding is measured at once: the sums are taken in float64, which costs memory."""


@dataclass(frozen=True)
class Plan:
    """What a dataset is going to be; two writers of one dataset must agree on all of it."""

    width: int
    rows: int
    first_row: int
    codec: str
    shard_rows: int
    order: dict
    lineage: dict = field(default_factory=dict)
    has_rows: bool = False

    def shards(self) -> Iterator[tuple[int, int]]:
        """(first row, rows) of every file."""
        for first in range(0, self.rows, self.shard_rows):
            yield first, min(self.shard_rows, self.rows - first)


class ShardWriter:
    """Writes the shards of a planned dataset, in any order and from any number of processes."""

    def __init__(self, store: Store, prefix: str, plan: Plan):
        self.store, self.prefix, self.plan = store, prefix, plan

    def path(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def begin(self) -> None:
        """Claim the place. Another dataset there, finished or not, is an InputError."""
        record = pack_json({**self.plan.__dict__})
        if self.store.create(self.path(BEGIN), record):
            return
        if self.store.get(self.path(BEGIN)) != record:
            raise InputError(
                f"{self.store.url}/{self.prefix}: another activation dataset is there; choose another place"
            )

    def finished(self) -> bool:
        return self.store.exists(self.path(MANIFEST))

    def done(self) -> set[int]:
        """First rows of the shards that are written."""
        names = self.store.list(self.path(SHARDS))
        return {int(n.removesuffix(".json")) for n in names if n.endswith(".json")}

    def has(self, first: int) -> bool:
        """Whether the shard that begins at row `first` is written."""
        return self.store.exists(self.path(f"{SHARDS}/{first:015d}.json"))

    def write(self, first: int, rows: np.ndarray, source_rows: np.ndarray | None = None) -> None:
        """Write the shard that begins at row `first`: float32 [n, width], and int64 [n] where each came from."""
        codec = self.plan.codec
        blocks, error = [], None
        sink = io.BytesIO()  # grows by an eighth at a time, and is read without a copy
        options = pa.ipc.IpcWriteOptions(compression="zstd" if codec == "zstd" else None)
        writer = None
        for at in range(0, len(rows), BLOCK_ROWS):
            piece = rows[at : at + BLOCK_ROWS]
            columns = encode(piece, codec)
            if source_rows is not None:
                columns["row"] = pa.array(source_rows[at : at + BLOCK_ROWS].astype(np.int64))
            batch = pa.record_batch(columns)
            writer = writer or pa.ipc.new_file(pa.PythonFile(sink, "w"), batch.schema, options=options)
            writer.write_batch(batch)
            blocks.append(block_digest(batch))
            found = _error(piece, batch, codec)
            error = found if error is None else error + found
        writer.close()
        self._commit(first, len(rows), sink.getbuffer(), blocks, error, _count_masked(rows))

    def _commit(self, first: int, n: int, data: memoryview, blocks: list, error: CodecError, masked: int) -> None:
        self.store.put(self.path(shard_name(first)), data)
        record = {
            "first": first,
            "rows": n,
            "bytes": len(data),
            "sha256": sha256(data),
            "blocks": blocks,
            "masked": masked,
            "error": {**error.__dict__, "sums": list(error.sums)},
        }
        self.store.put(self.path(f"{SHARDS}/{first:015d}.json"), pack_json(record))

    def finish(self) -> Dataset:
        """Write the manifest, once every shard is there; and let the shards' own records go."""
        if self.finished():
            self._forget()  # a kill may have left some
            return open_dataset(self.store.url, self.prefix)
        records = [self._record(first) for first, _ in self.plan.shards()]
        error = records[0]["error"]
        for other in records[1:]:
            error = error + other["error"]
        p = self.plan
        manifest = Manifest(
            width=p.width,
            rows=p.rows,
            first_row=p.first_row,
            codec=p.codec,
            order=p.order,
            lineage=p.lineage,
            error=error.summary(),
            masked=sum(r["masked"] for r in records),
            has_rows=p.has_rows,
            shards=tuple(Shard(r["first"], r["rows"], r["bytes"], r["sha256"], tuple(r["blocks"])) for r in records),
        )
        self.store.create(self.path(MANIFEST), pack_json(manifest.as_json()))
        written = unpack_json(self.store.get(self.path(MANIFEST)), MANIFEST)
        self._forget()
        return Dataset(self.store, self.prefix, read_manifest(written, self.path(MANIFEST)))

    def _forget(self) -> None:
        for first in self.done():
            self.store.delete(self.path(f"{SHARDS}/{first:015d}.json"))

    def _record(self, first: int) -> dict:
        path = self.path(f"{SHARDS}/{first:015d}.json")
        record = unpack_json(self.store.get(path), path)
        e = record["error"]
        return record | {"error": CodecError(**(e | {"sums": tuple(e["sums"])}))}


class DatasetWriter:
    """Writes a dataset from rows that come in order. `next_row` says where to go on."""

    def __init__(self, store: Store, prefix: str, plan: Plan):
        self.shards, self.plan = ShardWriter(store, prefix, plan), plan
        self.shards.begin()
        self.pending: list[np.ndarray] = []
        self.complete = self.shards.finished()
        done = set() if self.complete else self.shards.done()
        written = plan.rows if self.complete else 0
        for first, n in () if self.complete else plan.shards():
            if first not in done:
                break
            written = first + n
        self.written = written
        self.held = 0

    @property
    def next_row(self) -> int:
        """The row of the order that `add` expects next."""
        return self.plan.first_row + self.written + self.held

    @property
    def end_row(self) -> int:
        return self.plan.first_row + self.plan.rows

    def add(self, rows: np.ndarray) -> None:
        """Rows from `next_row` on: float32 [n, width], copied. What lies beyond the planned end is left out."""
        rows = rows[: self.end_row - self.next_row]
        while len(rows):
            want = min(self.plan.shard_rows, self.plan.rows - self.written) - self.held
            piece, rows = rows[:want], rows[want:]
            self.pending.append(piece.copy())
            self.held += len(piece)
            if len(piece) == want:
                self._flush()

    def finish(self) -> Dataset:
        if self.next_row != self.end_row:
            raise ValueError(f"rows from {self.next_row} to {self.end_row} are still missing")
        return self.shards.finish()

    def _flush(self) -> None:
        whole = np.concatenate(self.pending)
        self.pending = []
        self.shards.write(self.written, whole)
        self.written, self.held = self.written + len(whole), 0


def _error(rows: np.ndarray, batch: pa.RecordBatch, codec: str) -> CodecError:
    if codec in ("raw", "zstd"):
        return CodecError(len(rows), 0.0, (0.0,) * rows.shape[1], 0.0, 0, 0.0)
    found = None
    for at in range(0, len(rows), MEASURED_ROWS):
        piece = rows[at : at + MEASURED_ROWS]
        one = measure(piece, decode(batch.slice(at, len(piece)), codec))
        found = one if found is None else found + one
    return found


def _count_masked(rows: np.ndarray) -> int:
    return int(np.isnan(rows[:, 0]).sum())
