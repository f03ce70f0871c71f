"""From rows to entries: the encoder's product some rows by some columns at a time, so that it is read from the cache.

Cost beside the product grows with rows and entries, and with features only by a look at each value.

Shape letters: n rows, D d_in, F d_sae, C columns of a tile.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from monosem.errors import InputError
from monosem.features import loops, seek
from monosem.features.entries import Entries
from monosem.features.rough import UNIT, RoughProduct, rough_kind
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
Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(row, feature, value) of some entries."""


def active_entries(sae: Sae, rows_nD: Tensor) -> Entries:
    """Entries of rows [n, D]; places are row numbers. The same numbers as `sae.encode`, but for rounding."""
    if sae.config.variant in ("batch_topk", "matryoshka"):
        raise InputError(f"variant {sae.config.variant}: its features depend on the batch; convert it for use first")
    x = (rows_nD - sae.b_dec if sae.config.subtract_b_dec else rows_nD).contiguous()
    found = list(_largest(sae, x) if sae.config.variant == "topk" else _above(sae, x))
    row, feature, value = (np.concatenate([part[i] for part in found]) for i in range(3))
    start = np.zeros(sae.config.d_sae + 1, np.int64)
    place, ordered = np.empty(len(row), np.int32), np.empty(len(row), np.float32)
    loops.by_feature(feature, row, value, start, place, ordered)
    return Entries(start, place, ordered)


def _columns(sae: Sae) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some features at a time: their encoder [C, D], each feature's in one piece, and their bias [C]."""
    for lo in range(0, sae.config.d_sae, COLUMNS):
        at = slice(lo, min(lo + COLUMNS, sae.config.d_sae))
        yield at, sae.W_enc[:, at].T.contiguous(), sae.b_enc[at].contiguous()


def _tile_rows(kind: torch.dtype) -> int:
    return TILE_BYTES // (COLUMNS * kind.itemsize)


def _room(sae: Sae, x_nD: Tensor, kind: torch.dtype) -> int:
    """Numbers of the largest tile."""
    return min(_tile_rows(kind), len(x_nD)) * min(COLUMNS, sae.config.d_sae)


# -- features above bounds of their own ------------------------------------------------------------


def _above(sae: Sae, x_nD: Tensor) -> Iterator[Part]:
    """By tiles, by row within one: by rough products while these find few, then by whole ones."""
    head = head_of(sae.config, sae.tensors())
    bound_F = head.bound_F().expand(sae.config.d_sae).contiguous()
    ways = [_AboveWholly(sae, x_nD)] + [_AboveRoughly(sae, x_nD)] * (rough_kind() != torch.float32)
    for at, *columns in _columns(sae):
        ways[-1].turn_to(*columns, bound_F[at])
        lo = 0
        while lo < len(x_nD):
            found = ways[-1].find(lo)
            if found is None:
                ways.pop()
                ways[-1].turn_to(*columns, bound_F[at])
                continue
            head.view = replace(found, feature_n=found.feature_n + at.start, features=sae.config.d_sae)
            f = head.features(found.pre_n).numpy()
            on = f > 0
            yield found.row_n.numpy()[on] + lo, head.view.feature_n.numpy()[on], f[on]
            lo += found.rows


class _AboveWholly:
    """Finds all of a tile that the last columns given make."""

    def __init__(self, sae: Sae, x_nD: Tensor):
        self.x, self.kernels, self.rows = x_nD, kernels_for(x_nD), _tile_rows(x_nD.dtype)
        self.room = x_nD.new_empty(_room(sae, x_nD, x_nD.dtype))

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
        self.x, self.product, self.rows = x_nD, RoughProduct(x_nD, kind, _room(sae, x_nD, kind)), _tile_rows(kind)
        self.lift, self.summed, shape = np.float32(0), 0.0, (self.rows, min(COLUMNS, sae.config.d_sae) + 1)
        self.found = (np.empty(shape, np.int32), np.empty(shape, np.float32))  # of whose memory little is touched

    def turn_to(self, W_CD: Tensor, bias_C: Tensor, bound_C: Tensor) -> None:
        self.columns = (W_CD.numpy(), bias_C.numpy(), bound_C.numpy())
        rounding = np.float32(8 * UNIT * float(bias_C.abs().max() + bound_C.abs().max()))
        for _ in range(3):  # the lift is itself a part of what may be off, a small one
            self.product.turn_to(W_CD, bias_C - bound_C + float(self.lift))
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


def _largest(sae: Sae, x_nD: Tensor) -> Iterator[Part]:
    """Of what came so far, the k largest of each row are kept, and bound what comes.

    A rough product says which they may be, and each of those is summed by itself: no number depends on the product.
    """
    n, k = len(x_nD), min(sae.config.k, sae.config.d_sae)
    count, bound, vain = np.zeros(n, np.int64), np.zeros(n, np.float32), np.zeros(n, np.int64)
    value, feature = np.empty((n, 2 * k), np.float32), np.empty((n, 2 * k), np.int32)
    product = RoughProduct(x_nD, rough_kind(), _room(sae, x_nD, rough_kind()))
    for at, W_CD, bias in _columns(sae):
        product.turn_to(W_CD, bias)
        columns, last = (W_CD.numpy(), bias.numpy()), at.stop == sae.config.d_sae
        rows = _tile_rows(product.kind)
        for lo in range(0, n, rows):
            x = x_nD[lo : lo + rows].numpy()
            rough = (product.tile(lo, lo + rows), product.half, product.off_n[lo:])
            held = (array[lo:] for array in (count, bound, value, feature, vain))
            shared_out(seek.grow, len(x), *rough, *columns, x, at.start, k, CLASSES, last, *held)
        if product.kind != torch.float32 and vain.sum() > SHARE * n * len(bias):
            product = RoughProduct(x_nD, torch.float32, _room(sae, x_nD, torch.float32))
    there = np.arange(2 * k)[None, :] < count[:, None]
    yield np.nonzero(there)[0], feature[there], value[there]
