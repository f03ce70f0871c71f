"""Blocks of an activation dataset: read one by one, so that no file is ever held whole, and each is checked.

Uncompressed files on a local disk are read by `preadv` straight into memory of our own: one copy from the page
cache, no page faults of a mapping. Everything else (S3, a column `row`, zstd, bf16, int8) goes through Arrow, which
asks for the bytes of one record batch at a time. No torch here: tasks that read blocks stay small.
"""

import io
import os
from functools import lru_cache

import numpy as np
import pyarrow as pa
import xxhash

from monosem.dataset.codec import decode
from monosem.dataset.manifest import Dataset, Shard, block_digest
from monosem.errors import IntegrityError
from monosem.store.store import Store

Block = tuple[int, int]
"""(number of the shard, number of the record batch in it)."""

PIECE_BYTES = 1 << 19


class StoredFile(io.RawIOBase):
    """An object of a store as a file of `size` bytes to read from: each read asks for its range only."""

    def __init__(self, store: Store, path: str, size: int):
        self.store, self.path, self.size, self.at = store, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        size = self.size - self.at if size < 0 else min(size, self.size - self.at)
        data = self.store.get_range(self.path, self.at, size)
        self.at += len(data)
        return data


class BlockReader:
    """Record batches of a dataset as float32 rows of their own memory, checked against their digests."""

    def __init__(self, dataset: Dataset):
        self.dataset, self.manifest = dataset, dataset.manifest
        root = getattr(dataset.store, "root", None)
        plain = self.manifest.codec == "raw" and not self.manifest.has_rows
        self.local = root / dataset.prefix if root is not None and plain else None
        self._open = lru_cache(maxsize=2)(self._open_shard)
        self._layout = lru_cache(maxsize=2)(self._local_layout)

    def read(self, block: Block) -> np.ndarray:
        """float32 [rows of the block, width]."""
        number, k = block
        shard = self.manifest.shards[number]
        if self.local is not None:
            return self._read_local(shard, number, k)
        rows = decode(self.record_batch(block), self.manifest.codec)
        return rows if rows.flags.writeable else np.array(rows)

    def record_batch(self, block: Block) -> pa.RecordBatch:
        """The block as it is stored, checked."""
        number, k = block
        shard = self.manifest.shards[number]
        try:
            batch = self._open(number).get_batch(k)
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{self.dataset.uri}/{shard.name}: block {k} is not readable: {error}") from error
        self._check(shard, k, block_digest(batch))
        return batch

    def _open_shard(self, number: int) -> pa.RecordBatchFileReader:
        shard = self.manifest.shards[number]
        file = StoredFile(self.dataset.store, self.dataset.path(shard.name), shard.bytes)
        try:
            return pa.ipc.open_file(pa.PythonFile(file, "r"))
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{self.dataset.uri}/{shard.name}: not readable: {error}") from error

    def _read_local(self, shard: Shard, number: int, k: int) -> np.ndarray:
        offsets, handle = self._layout(number)
        offset, n = offsets[k]
        rows = np.empty((n, self.manifest.width), dtype=np.float32)
        view = memoryview(rows).cast("B")
        digest = xxhash.xxh3_128()
        for at in range(0, len(view), PIECE_BYTES):  # hashed while still in the cache
            piece = view[at : at + PIECE_BYTES]
            if os.preadv(handle.fileno(), [piece], offset + at) != len(piece):
                raise IntegrityError(f"{self.dataset.uri}/{shard.name}: ends early")
            digest.update(piece)
        self._check(shard, k, digest.hexdigest())
        return rows

    def _local_layout(self, number: int) -> tuple[list[tuple[int, int]], object]:
        """(offset of the values in the file, rows) of each record batch, and the open file."""
        path = self.local / self.manifest.shards[number].name
        try:
            mapped = pa.memory_map(str(path)).read_buffer()
            file = pa.ipc.open_file(pa.BufferReader(mapped))
            offsets = []
            for k in range(file.num_record_batches):
                column = file.get_batch(k).column("x")
                offsets.append((column.flatten().buffers()[1].address - mapped.address, len(column)))
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{path}: not readable: {error}") from error
        return offsets, open(path, "rb")

    def _check(self, shard: Shard, k: int, digest: str) -> None:
        if digest != shard.blocks[k]:
            raise IntegrityError(f"{self.dataset.uri}/{shard.name}: block {k} does not match its digest")
