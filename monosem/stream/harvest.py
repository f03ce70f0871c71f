"""Harvest: run the host on one work item and keep the sampled rows of every hook point.

A work item is the launch: a fixed number of contexts in a fixed order, never re-batched, so its
bits do not depend on who computed it, when, or what else was asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

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

Memory = np.ndarray | Tensor
"""Rows in this process's memory, or on a device."""
Place = Callable[[int, list[int]], tuple[list[Memory], np.ndarray] | None]
"""Of a tile's number and the hook points' widths: where its rows go, (rows of each hook point, places among them)."""

CHUNK = 4096
"""Places of the stream whose contexts are worked out together."""
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
        contexts = self.contexts(places)
        keep = self.selection.keep_of_all()
        if keep is not None:
            return contexts, self.order.by_tile(self.order.tokens_each(places, keep))
        tokens = [self.tokens(j, int(c)) for j, c in zip(places, contexts, strict=True)]
        return contexts, self.order.by_tile(np.stack(tokens))

    def contexts(self, places: range) -> np.ndarray:
        """Contexts of the token index at some places of the stream. int64 [n]"""
        parts = [
            self._chunk(chunk)[max(places.start - chunk * CHUNK, 0) : places.stop - chunk * CHUNK]
            for chunk in range(places.start // CHUNK, -(-places.stop // CHUNK))
        ]
        return np.concatenate(parts)

    @cached_property
    def _chunk(self) -> Callable[[int], np.ndarray]:
        """The contexts at CHUNK places in a row: to work out a few by themselves takes as long."""

        def chunk(n: int) -> np.ndarray:
            return self.selection.contexts[self.order.context(np.arange(n * CHUNK, (n + 1) * CHUNK))]

        return lru_cache(maxsize=4)(chunk)

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
        found, tokens_gci = self._captured(item)
        with torch_threads(self.threads):
            return item_batch([_masked(_sampled(x, tokens_gci)) for x in found])

    def put(self, item: int, place: Place) -> None:
        """The same rows, each tile's straight to where it goes: one pass over them beyond the forward pass."""
        from monosem.sae.kernels.cpu import shared_out  # numba: not for those who only hand items on
        from monosem.stream.gather import gather

        found, tokens_gci = self._captured(item)
        columns, source_gn = _sources(found, tokens_gci)
        widths = [column.shape[1] for column in columns]
        for g, source_n in enumerate(source_gn):
            target = place(g, widths)
            if target is not None:
                rows, at_n = target
                with torch_threads(self.threads):
                    for column, out in zip(columns, rows, strict=True):
                        shared_out(gather, len(source_n), column, source_n, out, at_n)

    def put_on_device(self, item: int, place: Place) -> None:
        """`put` for places on the host's own device, which the rows then never leave."""
        found, tokens_gci = self._captured(item)
        columns = [_finite(_sampled(x, tokens_gci).flatten(1, 2)) for x in found]
        widths = [column.shape[2] for column in columns]
        targets = [(g, *target) for g in range(len(tokens_gci)) if (target := place(g, widths)) is not None]
        if targets:
            at = torch.from_numpy(np.stack([at_n for *_, at_n in targets])).to(self.device)
            for (g, rows, _), at_n in zip(targets, at, strict=True):
                for column, out in zip(columns, rows, strict=True):
                    out.index_copy_(0, at_n, column[g])

    def _captured(self, item: int) -> tuple[list[Tensor], np.ndarray]:
        """Activations [contexts, tokens, width] of an item at every hook point, and its positions by tile."""
        contexts, tokens_gci = self.text.item(item)
        with torch_threads(self.threads):
            batch = context_tokens(self.text.index, contexts).to(self.device)
            captured = self.model.capture(batch, self.hook_points)
        return [captured[name] for name in self.hook_points], tokens_gci


def item_digest(item: pa.RecordBatch) -> str:
    """Names the bits of an item: XXH3-128 of its rows, hook point by hook point."""
    digest = xxhash.xxh3_128()
    for rows in columns_of(item):
        digest.update(rows.data)
    return digest.hexdigest()


def _sampled(x: Tensor, tokens_gci: np.ndarray) -> Tensor:
    """Rows [G, contexts, r // G, width] of activations [contexts, tokens, width]."""
    t = torch.from_numpy(tokens_gci).to(x.device)
    return x[torch.arange(t.shape[1], device=x.device)[None, :, None], t]


def _sources(found: list[Tensor], tokens_gci: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows float32 [n, width] of each hook point on this side of the device, and which of them are a tile's, [G, ...].

    What is float32 in this process's memory already is read where it lies; of the rest only the sampled rows come.
    """
    tiles, contexts, _ = tokens_gci.shape
    if all(x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous() for x in found):
        tokens = found[0].shape[1]
        source = tokens_gci + np.arange(contexts)[None, :, None] * tokens
        return [x.reshape(-1, x.shape[-1]).numpy() for x in found], source.reshape(tiles, -1)
    rows = [_here(_sampled(x, tokens_gci).reshape(-1, x.shape[-1])).numpy() for x in found]
    return rows, np.arange(tokens_gci.size).reshape(tiles, -1)


def _here(t: Tensor) -> Tensor:
    """As float32 in this process's memory; from a GPU by way of pinned memory, which is some times as fast."""
    if not t.is_cuda:
        return t.float().cpu()
    here = torch.empty(t.shape, dtype=torch.float32, pin_memory=True)
    here.copy_(t.float(), non_blocking=True)
    torch.cuda.current_stream(t.device).synchronize()
    return here


def _finite(rows: Tensor) -> Tensor:
    """Rows [..., width] as float32, perhaps the same memory; those with a NaN or an infinity are NaN throughout."""
    rows = rows.float()
    return rows.masked_fill_(~torch.isfinite(rows).all(dim=-1, keepdim=True), torch.nan)


def _masked(rows: Tensor) -> np.ndarray:
    """Rows [..., width] as float32 [n, width]; those with a NaN or an infinity are NaN throughout."""
    rows = _here(rows.reshape(-1, rows.shape[-1]))
    suspects = ~torch.isfinite(rows.sum(dim=1))  # a sum of finite values may overflow, so look again
    if suspects.any():
        bad = suspects & ~torch.isfinite(rows).all(dim=1)
        rows[bad] = torch.nan
    return rows.numpy()
