"""Reading an activation dataset as a stream: batches by index, two blocks ahead, every block checked.

Uncompressed files on a local disk are read by `preadv` straight into the memory that batches are views of: one
copy from the page cache, no page faults of a mapping. Everything else (S3, zstd, bf16, int8) goes through Arrow.
"""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from monosem.errors import IntegrityError
from monosem.stream.codec import decode
from monosem.stream.dataset import BLOCK_ROWS, Dataset, Shard, block_digest

Block = tuple[int, int]
"""(number of the shard, number of the record batch in it)."""

PIECE_BYTES = 1 << 19
AHEAD = 2
"""Blocks that are being read while one is being used."""


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
        batch = self.record_batch(block)
        return np.array(decode(batch, self.manifest.codec))

    def record_batch(self, block: Block) -> pa.RecordBatch:
        """The block as it is stored, checked."""
        number, k = block
        batch = self._open(number).get_batch(k)
        self._check(self.manifest.shards[number], k, block_digest(batch))
        return batch

    def _open_shard(self, number: int) -> pa.RecordBatchFileReader:
        shard = self.manifest.shards[number]
        data = self.dataset.store.get(self.dataset.path(shard.name))
        return pa.ipc.open_file(pa.BufferReader(data))

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


class DatasetRows:
    """Rows of a dataset by their position in its order, as learners take them: see `monosem.stream.reader.Rows`."""

    def __init__(self, dataset: Dataset):
        self.manifest = dataset.manifest
        self.blocks = BlockReader(dataset)
        self.wait_s = 0.0
        self.held: tuple[Block, np.ndarray] | None = None
        self.ahead: dict[Block, Future] = {}
        self.threads = ThreadPoolExecutor(max_workers=AHEAD)

    def rows(self, lo: int, hi: int) -> Tensor:
        """Rows [lo, hi) of the order: float32 [hi - lo, width]; a view of a block where they lie in one."""
        first = self.manifest.first_row
        if lo < first or hi > first + self.manifest.rows:
            raise ValueError(f"rows {lo}..{hi} are outside the dataset's {first}..{first + self.manifest.rows}")
        pieces, at = [], lo - first
        while at < hi - first:
            block, start, n = self._find(at)
            take = min(n - start, hi - first - at)
            pieces.append(self._block(block)[start : start + take])
            at += take
        return torch.from_numpy(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

    def _find(self, row: int) -> tuple[Block, int, int]:
        """(block, place in it, its rows) of a row of the dataset. All files but the last have the same size."""
        shards = self.manifest.shards
        number = row // shards[0].rows
        inside = row - shards[number].first
        k, start = divmod(inside, BLOCK_ROWS)
        return (number, k), start, min(BLOCK_ROWS, shards[number].rows - k * BLOCK_ROWS)

    def _block(self, block: Block) -> np.ndarray:
        if self.held is None or self.held[0] != block:
            self.held = None
            start = time.monotonic()
            self.held = (block, self._fetch(block))
            self.wait_s += time.monotonic() - start
        return self.held[1]

    def _fetch(self, block: Block) -> np.ndarray:
        coming = self.ahead.pop(block, None)
        following, wanted = block, []
        for _ in range(AHEAD):
            following = self._after(following) if following else None
            wanted += [following] if following else []
        self.ahead = {b: self.ahead.get(b) or self.threads.submit(self.blocks.read, b) for b in wanted}
        return coming.result() if coming else self.blocks.read(block)

    def _after(self, block: Block) -> Block | None:
        number, k = block
        if k + 1 < len(self.manifest.shards[number].blocks):
            return number, k + 1
        return (number + 1, 0) if number + 1 < len(self.manifest.shards) else None
