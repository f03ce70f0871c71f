"""Reading an activation dataset as a stream: batches by index, two blocks ahead, every block checked.

How a block is read, and at what cost, is told in `monosem.dataset.blocks`.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

import monosem.mkl  # noqa: F401
from monosem.dataset.blocks import Block, BlockReader
from monosem.dataset.manifest import BLOCK_ROWS, Dataset

AHEAD = 2
"""Blocks that are being read while one is being used."""


class DatasetRows:
    """Rows of a dataset by their position in its order, as learners take them: see `monosem.stream.reader.Rows`."""

    computes = False

    def __init__(self, dataset: Dataset):
        self.manifest = dataset.manifest
        self.blocks = BlockReader(dataset)
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
            self.held = (block, self._fetch(block))
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
