"""Which activation row stands at which position of the stream: a pure, invertible function.

Contexts are taken in a fresh permutation per epoch; of the positions that each keeps, r are sampled. K contexts
form a block; each context deals its r rows evenly to G generations; segment s is made of generation
0 of block s, generation 1 of block s-1, ... generation G-1 of block s-G+1, permuted. So at any time
about K*r*(G+1)/2 rows are at hand, and rows of one context are spread over G segments.

    place of (j, rho), context number j of the stream and its rho-th sampled token:
        b, kappa = divmod(j, K)         block, place in the block
        g, i = rho % G, rho // G        generation
        s = b + g                       segment
        w = (g*K + kappa)*(r//G) + i    canonical place in the segment
        t = (s - (G-1))*K*r + Phi_s[w]  global row

The first G-1 segments lack some generations and are not emitted. Nothing here mentions workers,
shards, learners, time or history. Numbers are int64 arrays of any shape unless said otherwise.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from monosem.rows.permute import CONTEXTS, SEGMENT, TOKENS, Feistel, shuffled, shuffled_each

MAX_GENERATIONS = 16
"""More generations spread a context further but make segments smaller than a few batches."""
LARGEST_TABLE = 1 << 22
"""Segments up to this many rows are permuted by a table, larger ones by a Feistel network."""


@dataclass(frozen=True)
class StreamOrder:
    """Everything the order depends on.

    seed                of the stream
    n_contexts          contexts that may be used (N), numbered from 0
    context_length      tokens per context (T)
    rows_per_context    sampled token positions per context (r)
    contexts_per_item   contexts of one work item, the fixed shape of a forward pass
    items_per_block     work items per block (V); K = V * contexts_per_item
    generations         G, divides r
    """

    seed: int
    n_contexts: int
    context_length: int
    rows_per_context: int
    contexts_per_item: int
    items_per_block: int
    generations: int

    def __post_init__(self) -> None:
        if self.rows_per_context % self.generations:
            raise ValueError("generations must divide rows_per_context")
        if self.rows_per_context > self.context_length:
            raise ValueError("rows_per_context exceeds context_length")
        if self.n_contexts < self.contexts_per_block:
            raise ValueError("fewer contexts than one block")

    @property
    def contexts_per_block(self) -> int:
        return self.items_per_block * self.contexts_per_item

    @property
    def segment_rows(self) -> int:
        return self.contexts_per_block * self.rows_per_context

    @property
    def contexts_per_epoch(self) -> int:
        """Whole blocks only; which contexts are left over changes with every epoch's permutation."""
        return self.n_contexts // self.contexts_per_block * self.contexts_per_block

    @property
    def tile_rows(self) -> int:
        """Rows of one work item that belong to one generation."""
        return self.contexts_per_item * self.rows_per_context // self.generations

    # -- forward and inverse maps ------------------------------------------------------------

    def place(self, j: np.ndarray, rho: np.ndarray) -> np.ndarray:
        """Global row of (j, rho); negative for rows of the segments that are not emitted."""
        j, rho = np.asarray(j), np.asarray(rho)
        K, r, G = self.contexts_per_block, self.rows_per_context, self.generations
        b, kappa = np.divmod(j, K)
        g, i = rho % G, rho // G
        s = b + g
        w = (g * K + kappa) * (r // G) + i
        x = _by_segment(s, w, lambda segment, places: self.phi(segment)(places))
        return (s - (G - 1)) * (K * r) + x

    def row(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(j, rho) of global rows `t` >= 0: the inverse of `place`."""
        K, r, G = self.contexts_per_block, self.rows_per_context, self.generations
        s, x = np.divmod(np.asarray(t), K * r)
        s = s + (G - 1)
        w = _by_segment(s, x, lambda segment, places: self.phi(segment).inverse(places))
        g, rest = np.divmod(w, K * (r // G))
        kappa, i = np.divmod(rest, r // G)
        return (s - g) * K + kappa, i * G + g

    def context(self, j: np.ndarray) -> np.ndarray:
        """Context at place j of the stream, below n_contexts."""
        epoch, a = np.divmod(np.asarray(j), self.contexts_per_epoch)
        return _by_segment(epoch, a, lambda e, places: self._contexts(e)(places))

    def place_of_context(self, context: np.ndarray, epoch: int) -> np.ndarray:
        """Place j of each context in `epoch`, or -1 where that epoch leaves it over: the inverse of `context`."""
        a = self._contexts(epoch).inverse(context)
        return np.where(a < self.contexts_per_epoch, epoch * self.contexts_per_epoch + a, -1)

    def tokens(self, j: int, keep: np.ndarray | None = None) -> np.ndarray:
        """The r sampled token positions of stream context j, in order of rho. int64 [r].

        keep   positions to sample from, int64 [at least r]; all of the context if None
        """
        if keep is None:
            return shuffled(self.seed, TOKENS, j, self.context_length)[: self.rows_per_context]
        if len(keep) < self.rows_per_context:
            raise ValueError(f"context {j} of the stream keeps {len(keep)} positions, needs {self.rows_per_context}")
        return keep[shuffled(self.seed, TOKENS, j, len(keep))[: self.rows_per_context]]

    def tokens_each(self, places: range, keep: np.ndarray) -> np.ndarray:
        """`tokens` of each of the stream contexts `places`, all of which keep the same positions. int64 [n, r]."""
        return keep[shuffled_each(self.seed, TOKENS, places, len(keep))[:, : self.rows_per_context]]

    def phi(self, segment: int) -> "Permutation":
        """The permutation of the places of `segment` (counted with the unemitted ones)."""
        return _phi(self.seed, segment, self.segment_rows)

    def _contexts(self, epoch: int) -> Feistel:
        return Feistel(self.n_contexts, self.seed, CONTEXTS, epoch)

    # -- work items --------------------------------------------------------------------------

    def item_contexts(self, item: int) -> np.ndarray:
        """Contexts of work item `item` (block item // V). int64 [contexts_per_item]."""
        return self.context(np.arange(item * self.contexts_per_item, (item + 1) * self.contexts_per_item))

    def item_places(self, item: int) -> range:
        """Places j of work item `item` in the stream."""
        return range(item * self.contexts_per_item, (item + 1) * self.contexts_per_item)

    def by_tile(self, tokens_cr: np.ndarray) -> np.ndarray:
        """The sampled positions of an item's contexts, [contexts_per_item, r], tile by tile in canonical order.

        int64 [G, contexts_per_item, r // G]: entry (g, c, i) is rho = i*G + g of the item's context c.
        """
        return tokens_cr.reshape(self.contexts_per_item, -1, self.generations).transpose(2, 0, 1)

    def tile_segment(self, item: int, generation: int) -> int:
        """The emitted segment that a tile goes to; negative if that is not emitted."""
        return item // self.items_per_block + generation - (self.generations - 1)

    def items_of_segment(self, u: int) -> list[tuple[int, int]]:
        """(item, generation) of all tiles of emitted segment u, in canonical order of w."""
        s = u + self.generations - 1
        return [
            ((s - g) * self.items_per_block + v, g)
            for g in range(self.generations)
            for v in range(self.items_per_block)
        ]

    def tile_places(self, u: int, item: int, generation: int) -> np.ndarray:
        """Where the rows of a tile go within emitted segment u. int64 [tile_rows]."""
        s = u + self.generations - 1
        v = item % self.items_per_block
        first = (generation * self.items_per_block + v) * self.tile_rows
        return self.phi(s)(np.arange(first, first + self.tile_rows))

    def segment_places(self, u: int) -> np.ndarray:
        """Where the rows of emitted segment u go, tile by tile as in `items_of_segment`. int64 [segment_rows]."""
        return self.phi(u + self.generations - 1)(np.arange(self.segment_rows))


def plan_order(
    seed: int, n_contexts: int, context_length: int, rows_per_context: int, contexts_per_item: int, shuffle_rows: int
) -> StreamOrder:
    """The order whose shuffle keeps about `shuffle_rows` rows at hand; ValueError if none fits.

    Generations: the largest divisor of r up to MAX_GENERATIONS that leaves at least one work item
    per block.
    """
    r = rows_per_context
    for generations in sorted((g for g in range(1, MAX_GENERATIONS + 1) if r % g == 0), reverse=True):
        items = 2 * shuffle_rows // ((generations + 1) * r * contexts_per_item)
        if items >= 1:
            return StreamOrder(seed, n_contexts, context_length, r, contexts_per_item, items, generations)
    raise ValueError(f"shuffle_rows must be at least rows_per_context * contexts_per_item = {r * contexts_per_item}")


def segment_pieces(lo: int, hi: int, segment_rows: int) -> list[tuple[int, int, int]]:
    """Global rows [lo, hi) as (segment, first, last) pieces, in order."""
    pieces = []
    while lo < hi:
        segment, first = divmod(lo, segment_rows)
        n = min(hi - lo, segment_rows - first)
        pieces.append((segment, first, first + n))
        lo += n
    return pieces


class Permutation(Protocol):
    def __call__(self, x: np.ndarray) -> np.ndarray: ...
    def inverse(self, y: np.ndarray) -> np.ndarray: ...


class _Table:
    """A uniform permutation kept as a table, and its inverse once that is asked for."""

    def __init__(self, table: np.ndarray):
        self.table = table
        self.table.setflags(write=False)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.table[x]

    def inverse(self, y: np.ndarray) -> np.ndarray:
        return self._inverse[y]

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.argsort(self.table, kind="stable")


@lru_cache(maxsize=4)
def _phi(seed: int, segment: int, n: int) -> Permutation:
    """A table up to LARGEST_TABLE; beyond it a Feistel network, which needs no memory."""
    if n <= LARGEST_TABLE:
        return _Table(shuffled(seed, SEGMENT, segment, n))
    return Feistel(n, seed, SEGMENT, segment)


def _by_segment(groups: np.ndarray, places: np.ndarray, look_up) -> np.ndarray:
    """`look_up(group, places of that group)` put back in order, for arrays of any shape."""
    groups, places = np.broadcast_arrays(groups, places)
    out = np.empty(groups.shape, dtype=np.int64)
    for group in np.unique(groups):
        at = groups == group
        out[at] = look_up(int(group), places[at])
    return out
