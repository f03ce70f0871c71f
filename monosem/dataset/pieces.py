"""The tasks of a shuffle: plain records of what to do, small enough to be sent anywhere.

    <out>/scratch/pass-1/<task>/ids                  int64: source rows, sorted by bucket
    <out>/scratch/pass-1/<task>/<bucket>             float32: the rows of one bucket, in the same order
    <out>/scratch/pass-1/records/<task>.json         rows and digest of each piece: the commit of the task

A task writes the same bytes whoever runs it and how often, commits last, and finds out by digest if what it reads
was changed. It never holds more rows than its share or its bucket. No Ray, no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xxhash

from monosem.dataset.blocks import Block, BlockReader
from monosem.dataset.manifest import BLOCK_ROWS, Dataset, Manifest
from monosem.dataset.passes import READ_BYTES
from monosem.dataset.writer import Plan, ShardWriter
from monosem.errors import IntegrityError, StoreError
from monosem.rows.permute import SHUFFLE, Feistel
from monosem.store.plain import pack_json
from monosem.store.store import Store, open_store

MAPPED = 1 << 16
"""Rows that are sent through the permutation at once: it takes some ten words for each."""
SCRATCH = "scratch"


@dataclass(frozen=True)
class Place:
    """A prefix in a store, as it is sent to a task."""

    url: str
    prefix: str

    def path(self, *names: object) -> str:
        return "/".join(str(part) for part in (self.prefix, *names) if part != "")


@dataclass(frozen=True)
class Piece:
    """Rows of one bucket that one task of a pass of splitting has written; `start`: where in the task's ids."""

    level: int
    task: int
    bucket: int
    start: int
    rows: int
    digest: str


@dataclass(frozen=True)
class SourceRows:
    """Blocks of the source. `manifest` names only the files they are in."""

    place: Place
    manifest: Manifest
    blocks: tuple[Block, ...]

    @property
    def ids(self) -> np.ndarray:
        """Numbers of the rows. int64 [rows]."""
        return np.concatenate([np.arange(lo, hi) for lo, hi in map(self._range, self.blocks)])

    def chunks(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """The rows in the order of `ids`. float32 [n, width] each."""
        reader = BlockReader(Dataset(open_store(self.place.url), self.place.prefix, self.manifest))
        for block in self.blocks:
            yield reader.read(block)

    def _range(self, block: Block) -> tuple[int, int]:
        shard = self.manifest.shards[block[0]]
        lo = shard.first + block[1] * BLOCK_ROWS
        return lo, min(lo + BLOCK_ROWS, shard.first + shard.rows)


@dataclass(frozen=True)
class PieceRows:
    """Pieces that earlier tasks have left in the scratch of `place`."""

    place: Place
    width: int
    pieces: tuple[Piece, ...]

    @property
    def ids(self) -> np.ndarray:
        """Numbers of the rows. int64 [rows]."""
        store = open_store(self.place.url)
        return np.concatenate([self._ids(store, piece) for piece in self.pieces])

    def chunks(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """The rows in the order of `ids`. float32 [n, width] each; a piece that was changed is an IntegrityError."""
        store, step, at = open_store(self.place.url), max(1, READ_BYTES // (4 * self.width)), 0
        for piece in self.pieces:
            path = self.place.path(SCRATCH, f"pass-{piece.level}", piece.task, piece.bucket)
            digest = xxhash.xxh3_128(ids[at : at + piece.rows])
            at += piece.rows
            for first in range(0, piece.rows, step):
                n = min(step, piece.rows - first)
                data = _read(store, path, first * 4 * self.width, n * 4 * self.width)
                digest.update(data)
                yield np.frombuffer(data, dtype=np.float32).reshape(n, self.width)
            if digest.hexdigest() != piece.digest:
                raise IntegrityError(f"{store.url}/{path}: does not match its digest; delete {SCRATCH} and start again")

    def _ids(self, store: Store, piece: Piece) -> np.ndarray:
        path = self.place.path(SCRATCH, f"pass-{piece.level}", piece.task, "ids")
        return np.frombuffer(_read(store, path, piece.start * 8, piece.rows * 8), dtype=np.int64)


@dataclass(frozen=True)
class SplitTask:
    """Write the rows of a share as one piece for each bucket of `unit` destinations."""

    place: Place
    level: int
    number: int
    seed: int
    total: int
    width: int
    unit: int
    rows: int
    share: SourceRows | PieceRows

    @property
    def name(self) -> str:
        return f"split-{self.level}-{self.number}"

    def run(self) -> None:
        store = open_store(self.place.url)
        ids = self.share.ids
        bucket = destinations(ids, self.total, self.seed) // self.unit
        order = np.argsort(bucket, kind="stable")
        slots = np.empty_like(order)
        slots[order] = np.arange(len(order))
        held, at = np.empty((len(ids), self.width), dtype=np.float32), 0
        for rows in self.share.chunks(ids):  # every piece of the share is checked when this ends
            held[slots[at : at + len(rows)]] = rows
            at += len(rows)
        self._write(store, ids[order], bucket[order], held)

    def _write(self, store: Store, ids: np.ndarray, bucket: np.ndarray, held: np.ndarray) -> None:
        home = self.place.path(SCRATCH, f"pass-{self.level}", self.number)
        store.put(f"{home}/ids", _bytes(ids))
        pieces = []
        names, starts = np.unique(bucket, return_index=True)
        for k, lo, hi in zip(names, starts, [*starts[1:], len(ids)], strict=True):
            digest = xxhash.xxh3_128(ids[lo:hi])
            digest.update(_bytes(held[lo:hi]))
            store.put(f"{home}/{k}", _bytes(held[lo:hi]))
            pieces.append([int(k), int(lo), int(hi - lo), digest.hexdigest()])
        path = self.place.path(SCRATCH, f"pass-{self.level}", "records", f"{self.number}.json")
        _create(store, path, pack_json({"pieces": pieces}))


@dataclass(frozen=True)
class FinishTask:
    """Write the finished files of destinations [first, first + rows)."""

    place: Place
    number: int
    seed: int
    total: int
    plan: Plan
    first: int
    rows: int
    share: SourceRows | PieceRows

    @property
    def name(self) -> str:
        return f"finish-{self.number}"

    def run(self) -> None:
        writer = ShardWriter(open_store(self.place.url), self.place.prefix, self.plan)
        missing = [lo for lo in range(self.first, self.first + self.rows, self.plan.shard_rows) if not writer.has(lo)]
        if not missing:
            return
        ids = self.share.ids
        slots = destinations(ids, self.total, self.seed) - self.first
        self._check(slots)
        held, at = np.empty((self.rows, self.plan.width), dtype=np.float32), 0
        for rows in self.share.chunks(ids):
            held[slots[at : at + len(rows)]] = rows
            at += len(rows)
        sources = np.empty_like(ids)
        sources[slots] = ids
        for lo in missing:
            here = slice(lo - self.first, min(lo - self.first + self.plan.shard_rows, self.rows))
            writer.write(lo, held[here], sources[here])

    def _check(self, slots: np.ndarray) -> None:
        """Every place of the bucket must be filled, each by one row."""
        seen = np.zeros(self.rows, dtype=bool)
        inside = slots[(slots >= 0) & (slots < self.rows)]
        seen[inside] = True
        if len(slots) != self.rows or not seen.all():
            raise IntegrityError(
                f"{self.place.url}/{self.place.path(SCRATCH)}: rows of destinations {self.first} to "
                f"{self.first + self.rows} are missing or twice; delete {SCRATCH} and start again"
            )


Task = SplitTask | FinishTask


def destinations(ids: np.ndarray, total: int, seed: int) -> np.ndarray:
    """P(ids): where rows of the source go. int64 [n]. A number that is no row is an IntegrityError."""
    permutation = Feistel(total, seed, SHUFFLE, 0)
    found = np.empty(len(ids), dtype=np.int64)
    try:
        for at in range(0, len(ids), MAPPED):
            found[at : at + MAPPED] = permutation(ids[at : at + MAPPED])
    except ValueError as error:
        raise IntegrityError(f"numbers of rows are damaged: {error}; delete {SCRATCH} and start again") from error
    return found


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array)).cast("B")


def _read(store: Store, path: str, start: int, size: int) -> bytes:
    try:
        data = store.get_range(path, start, size)
    except FileNotFoundError:
        raise IntegrityError(f"{store.url}/{path}: is missing; delete {SCRATCH} and start again") from None
    if len(data) != size:
        raise IntegrityError(f"{store.url}/{path}: ends early; delete {SCRATCH} and start again")
    return data


def _create(store: Store, path: str, record: bytes) -> None:
    """Create-only; the same record again is fine."""
    if not store.create(path, record) and store.get(path) != record:
        raise StoreError(f"{store.url}/{path}: was written by another process with other bytes")
