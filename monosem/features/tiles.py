"""From rows to entries: the encoder's product some rows by some columns at a time, so that it is read from the cache.

Cost beside the product grows with rows and entries, and with features only by a look at each value.

Shape letters: n rows, D d_in, F d_sae, C columns of a tile.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from monosem.errors import InputError
from monosem.features import loops, seek
from monosem.features.entries import Entries
from monosem.features.rough import UNIT, Factor, RoughProduct, factor, rough_kind
from monosem.sae.heads import head_of
from monosem.sae.kernels import Entries as Found
from monosem.sae.kernels import kernels_for
from monosem.sae.kernels.cpu import packed, shared_out
from monosem.sae.model import Sae
from monosem.sae.products import Product

COLUMNS, TILE_BYTES = 4096, 8 << 20
"""Of a tile. Larger ones fall out of the cache, smaller ones make slower products."""
SHARE = 1 / 16
"""Share of active features that room is kept for at first; where a tile has more, there is room for all. Also of
values that may be summed one by one: more of them would take as long as a whole product."""
CLASSES = 256
"""See `numba_find.largest`."""
MARGIN = 3.0
"""Standard deviations by which the k largest may lie unevenly among tiles: more make more candidates, fewer make more
rows be sought twice."""
Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(row, feature, value) of some entries."""


@dataclass(frozen=True)
class Columns:
    """Some features: their encoder [C, D], each feature's in one piece, their bias [C], and both as factors."""

    at: slice
    W_CD: Tensor
    bias_C: Tensor
    factors: dict[torch.dtype, Factor] = field(default_factory=dict)

    def factor(self, kind: torch.dtype) -> Factor:
        if kind not in self.factors:
            self.factors[kind] = factor(self.W_CD, self.bias_C, kind)
        return self.factors[kind]


def active_entries(sae: Sae, rows_nD: Tensor) -> Entries:
    """Entries of rows [n, D]; places are row numbers. The same numbers as `sae.encode`, but for rounding."""
    if sae.config.variant in ("batch_topk", "matryoshka"):
        raise InputError(f"variant {sae.config.variant}: its features depend on the batch; convert it for use first")
    x = (rows_nD - sae.b_dec if sae.config.subtract_b_dec else rows_nD).contiguous()
    find = _largest if sae.config.variant == "topk" else _above
    found = list(find(sae, x, _columns(sae)))
    row, feature, value = (np.concatenate([part[i] for part in found]) for i in range(3))
    start = np.zeros(sae.config.d_sae + 1, np.int64)
    place, ordered = np.empty(len(row), np.int32), np.empty(len(row), np.float32)
    loops.by_feature(feature, row, value, start, place, ordered)
    return Entries(start, place, ordered)


def _columns(sae: Sae) -> Iterator[Columns]:
    """All features, in the columns of tiles."""
    for lo in range(0, sae.config.d_sae, COLUMNS):
        at = slice(lo, min(lo + COLUMNS, sae.config.d_sae))
        yield Columns(at, sae.W_enc[:, at].T.contiguous(), sae.b_enc[at].contiguous())


def _tile_rows(kind: torch.dtype) -> int:
    return TILE_BYTES // (COLUMNS * kind.itemsize)


def _room(F: int, n: int, kind: torch.dtype) -> int:
    """Numbers of the largest tile."""
    return min(_tile_rows(kind), n) * min(COLUMNS, F)


# -- features above bounds of their own ------------------------------------------------------------


def _above(sae: Sae, x_nD: Tensor, columns: Iterable[Columns]) -> Iterator[Part]:
    """By tiles, by row within one: by rough products while these find few, then by whole ones."""
    head = head_of(sae.config, sae.tensors())
    bound_F = head.bound_F().expand(sae.config.d_sae).contiguous()
    ways = [_AboveWholly(sae, x_nD)] + [_AboveRoughly(sae, x_nD)] * (rough_kind() != torch.float32)
    for c in columns:
        given = (c.W_CD, c.bias_C, bound_F[c.at])
        ways[-1].turn_to(*given)
        lo = 0
        while lo < len(x_nD):
            found = ways[-1].find(lo)
            if found is None:
                ways.pop()
                ways[-1].turn_to(*given)
                continue
            head.view = replace(found, feature_n=found.feature_n + c.at.start, features=sae.config.d_sae)
            f = head.features(found.pre_n).numpy()
            on = f > 0
            yield found.row_n.numpy()[on] + lo, head.view.feature_n.numpy()[on], f[on]
            lo += found.rows


class _AboveWholly:
    """Finds all of a tile that the last columns given make."""

    def __init__(self, sae: Sae, x_nD: Tensor):
        self.x, self.kernels, self.rows = x_nD, kernels_for(x_nD), _tile_rows(x_nD.dtype)
        self.room = x_nD.new_empty(_room(sae.config.d_sae, len(x_nD), x_nD.dtype))

    def turn_to(self, W_CD: Tensor, bias_C: Tensor, bound_C: Tensor) -> None:
        self.W_DC, self.bias, self.bound = W_CD.T, bias_C, bound_C

    def find(self, lo: int) -> Found:
        product = Product(self.x[lo : lo + self.rows], self.W_DC, room=self.room)
        found = self.kernels.above(product, self.bias, self.bound, SHARE)
        return found or self.kernels.above(product, self.bias, self.bound, 1.0)


class _AboveRoughly:
    """The same by a rough product, or None if that is not worth it: when more of the last tile than SHARE was summed.

    Values are looked for above `lift`, not above zero: bits of numbers above zero are in order.
    """

    def __init__(self, sae: Sae, x_nD: Tensor):
        kind = rough_kind()
        self.product = RoughProduct(x_nD, kind, _room(sae.config.d_sae, len(x_nD), kind))
        self.x, self.rows = x_nD, _tile_rows(kind)
        self.lift, self.summed, shape = np.float32(0), 0.0, (self.rows, min(COLUMNS, sae.config.d_sae) + 1)
        self.found = (np.empty(shape, np.int32), np.empty(shape, np.float32))  # of whose memory little is touched

    def turn_to(self, W_CD: Tensor, bias_C: Tensor, bound_C: Tensor) -> None:
        self.columns = (W_CD.numpy(), bias_C.numpy(), bound_C.numpy())
        rounding = np.float32(8 * UNIT * float(bias_C.abs().max() + bound_C.abs().max()))
        for _ in range(3):  # the lift is itself a part of what may be off, a small one
            self.product.turn_to(factor(W_CD, bias_C - bound_C + float(self.lift), self.product.kind))
            self.off = self.product.off_n + rounding
            if self.off.max() < self.lift:
                return
            self.lift = np.float32(1.5) * self.off.max()
        self.summed = np.inf

    def find(self, lo: int) -> Found | None:
        if self.summed > SHARE:
            return None
        (W, bias, bound), hi = self.columns, min(len(self.x), lo + self.rows)
        n, C = hi - lo, len(bias)
        counts, vain = np.empty(n, np.int64), np.empty(n, np.int64)
        rough = (self.product.tile(lo, hi), self.product.half, self.off[lo:hi])
        shared_out(
            seek.above, n, *rough, W, bias, self.x[lo:hi].numpy(), bound, self.lift, *self.found, counts, vain
        )  # fmt: skip
        self.summed = (counts.sum() + vain.sum()) / (n * C)
        return packed(C, counts, 1, *(part[:n] for part in self.found))


# -- the k largest ---------------------------------------------------------------------------------


def _largest(sae: Sae, x_nD: Tensor, columns: Iterable[Columns]) -> Iterator[Part]:
    """A rough product says which they may be, and each of those is summed by itself: no number depends on the product.

    Nor on guesses: rows that one was too high for are sought again without.
    """
    k, columns = min(sae.config.k, sae.config.d_sae), list(columns)
    count, bound, value, feature = _candidates(columns, x_nD, k, MARGIN)
    missed = np.flatnonzero((count < k) & (bound > 0))
    if len(missed):
        again = _candidates(columns, x_nD[torch.from_numpy(missed)], k, None)
        for target, values in zip((count, bound, value, feature), again, strict=True):
            target[missed] = values
    there = np.arange(value.shape[1])[None, :] < count[:, None]
    yield np.nonzero(there)[0], feature[there], value[there]


def _candidates(columns: list[Columns], x_nD: Tensor, k: int, margin: float | None) -> tuple[np.ndarray, ...]:
    """Of each row how many are found, the bound they reach, their values and features [n, 2 k]: see `seek.grow`.

    The largest of what came so far bound what comes: `_wanted` of them.
    """
    n, F = len(x_nD), columns[-1].at.stop
    count, bound, vain = np.zeros(n, np.int64), np.zeros(n, np.float32), np.zeros(n, np.int64)
    value, feature = np.empty((n, 2 * k), np.float32), np.empty((n, 2 * k), np.int32)
    product = RoughProduct(x_nD, rough_kind(), _room(F, n, rough_kind()))
    for c in columns:
        product.turn_to(c.factor(product.kind))
        given, last, share = (c.W_CD.numpy(), c.bias_C.numpy()), c.at.stop == F, c.at.stop / F
        want, rows = _wanted(k, share, margin), _tile_rows(product.kind)
        for lo in range(0, n, rows):
            x = x_nD[lo : lo + rows].numpy()
            rough = (product.tile(lo, lo + rows), product.half, product.off_n[lo:])
            held = (array[lo:] for array in (count, bound, value, feature, vain))
            shared_out(seek.grow, len(x), *rough, *given, x, c.at.start, k, want, CLASSES, last, *held)
        if product.kind != torch.float32 and vain.sum() > SHARE * n * len(c.bias_C):
            product = RoughProduct(x_nD, torch.float32, _room(F, n, torch.float32))
    return count, bound, value, feature


def _wanted(k: int, share: float, margin: float | None) -> int:
    """How many of the k largest, at most, a share of all columns may have; None: all.

    If they lie anywhere, `share` of them, give or take a standard deviation sqrt(k share (1 - share)).
    """
    return k if margin is None else min(k, math.ceil(k * share + margin * math.sqrt(k * share * (1 - share))))
