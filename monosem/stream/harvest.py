"""Harvest: run the host on one work item and keep the sampled rows of every hook point.

A work item is the launch: a fixed number of contexts in a fixed order, never re-batched, so its
bits do not depend on who computed it, when, or what else was asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from monosem.host.model import HostModel
from monosem.rows.order import StreamOrder
from monosem.stream.records import columns_of, item_batch
from monosem.text.index import context_tokens
from monosem.text.selection import Selection
from monosem.text.tokens import TokenIndex
from monosem.threads import torch_threads

CANARY = 0
"""The work item that every worker computes first, to show that it makes the sweep's bits."""


@dataclass(frozen=True)
class StreamText:
    """What the stream's tokens are: the index, which of its contexts and positions count, and their order."""

    index: TokenIndex
    selection: Selection
    order: StreamOrder

    def item(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts of the token index [contexts_per_item] and sampled positions by tile [G, contexts, r // G]."""
        places = self.order.item_places(item)
        contexts = self.selection.contexts[self.order.context(np.asarray(places))]
        tokens = [self.tokens(j, int(c)) for j, c in zip(places, contexts, strict=True)]
        return contexts, self.order.by_tile(np.stack(tokens))

    def tokens(self, j: int, context: int) -> np.ndarray:
        """Sampled positions of stream context j, which is `context` of the token index. int64 [r]."""
        return self.order.tokens(j, self.selection.keep(context))


class Harvester:
    """`item(n)` is a pure function of n: the activations of work item n."""

    def __init__(self, model: HostModel, text: StreamText, hook_points: Sequence[str], threads: int):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.text, self.order = model.to(self.device), text, text.order
        self.hook_points, self.threads = tuple(hook_points), threads

    def item(self, item: int) -> pa.RecordBatch:
        """Rows of a work item in tile order, a column per hook point: float32 [G * tile_rows, width] each."""
        [columns] = self._rows(item, 1)
        return item_batch(columns)

    def tiles(self, item: int) -> Iterator[list[np.ndarray]]:
        """The same rows by tile, by hook point: one after the other, so that each is in the cache when it comes."""
        return self._rows(item, self.order.generations)

    def _rows(self, item: int, parts: int) -> Iterator[list[np.ndarray]]:
        """An item's rows in tile order, in `parts` equal parts, by hook point."""
        contexts, tokens_gci = self.text.item(item)
        with torch_threads(self.threads):
            batch = context_tokens(self.text.index, contexts).to(self.device)
            captured = self.model.capture(batch, self.hook_points)
        found = [captured[name] for name in self.hook_points]
        c = torch.arange(len(contexts))[None, :, None]
        for t in torch.from_numpy(tokens_gci).chunk(parts):
            with torch_threads(self.threads):
                part = [_masked(x[c.to(x.device), t.to(x.device)]) for x in found]
            yield part


def item_digest(item: pa.RecordBatch) -> str:
    """Names the bits of an item: XXH3-128 of its rows, hook point by hook point."""
    digest = xxhash.xxh3_128()
    for rows in columns_of(item):
        digest.update(rows.data)
    return digest.hexdigest()


def _masked(rows: Tensor) -> np.ndarray:
    """Rows [..., width] as float32 [n, width]; those with a NaN or an infinity are NaN throughout."""
    rows = rows.reshape(-1, rows.shape[-1]).float().cpu()
    suspects = ~torch.isfinite(rows.sum(dim=1))  # a sum of finite values may overflow, so look again
    if suspects.any():
        bad = suspects & ~torch.isfinite(rows).all(dim=1)
        rows[bad] = torch.nan
    return rows.numpy()
