"""Harvest: run the host on one work item and keep the sampled rows.

A work item is the launch: a fixed number of contexts in a fixed order, never re-batched, so its
bits do not depend on who computed it, when, or what else was asked for.
"""

import numpy as np
import pyarrow as pa
import torch

from monosem.host.transformer import OneLayerTransformer
from monosem.rows.order import StreamOrder
from monosem.stream.records import item_batch
from monosem.text.index import context_tokens
from monosem.text.tokens import TokenIndex
from monosem.threads import torch_threads


class Harvester:
    """`item(n)` is a pure function of n: the activations of work item n."""

    def __init__(
        self, model: OneLayerTransformer, index: TokenIndex, order: StreamOrder, hook_point: str, threads: int
    ):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.index, self.order = model.to(self.device), index, order
        self.hook_point, self.threads = hook_point, threads

    def item(self, item: int) -> pa.RecordBatch:
        """Rows of a work item in tile order: float32 [G * tile_rows, width]."""
        contexts = self.order.item_contexts(item)
        tokens_gci = torch.from_numpy(self.order.item_tokens(item))
        with torch_threads(self.threads):
            batch = context_tokens(self.index, contexts).to(self.device)
            acts_ctd = self.model.capture(batch, self.hook_point)
            rows = acts_ctd[torch.arange(len(contexts))[None, :, None], tokens_gci]
        return item_batch(rows.reshape(-1, rows.shape[-1]).float().cpu().numpy().astype(np.float32, copy=False))
