"""From rows to sparse entries: where features are active, and how much, by feature. Cost after the encoder's product
grows with the entries.

Shape letters: n rows, D d_in, F d_sae, m entries.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from monosem.errors import InputError
from monosem.features import loops
from monosem.sae.heads import head_of
from monosem.sae.kernels.cpu import shared_out
from monosem.sae.model import Sae
from monosem.sae.products import encoder_product

CHUNK_ROWS, CHUNK_VALUES = (256, 2048), 1 << 25
"""Rows encoded at a time: so many, within the limits, that the product holds no more values (128 MiB). Fewer rows cost
more: the encoder is read anew for each product."""
SHARE = 1 / 16
"""Share of active features that room is kept for at first; where a group of rows has more, fewer rows at a time."""

DENSE = 1 / 8
"""Share of active features from which on sums of products are made densely."""


@dataclass(frozen=True)
class Entries:
    """Activations above zero of features [0, F), feature by feature and by place within one.

    start [F + 1] int64, place [m] int32 or int64, value [m] float32
    """

    start: np.ndarray
    place: np.ndarray
    value: np.ndarray

    @property
    def features(self) -> int:
        return len(self.start) - 1

    def before(self, place: int) -> "Entries":
        """Those at places below `place`; of all features."""
        kept = self.place < place
        counts = np.add.reduceat(np.append(kept, False), np.minimum(self.start[:-1], len(kept)), dtype=np.int64)
        counts[np.diff(self.start) == 0] = 0
        start = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        return Entries(start, self.place[kept], self.value[kept])

    def slice(self, lo: int, hi: int) -> "Entries":
        """Of features [lo, hi), numbered from 0 again; views."""
        a, b = int(self.start[lo]), int(self.start[hi])
        return Entries(self.start[lo : hi + 1] - a, self.place[a:b], self.value[a:b])


def active_entries(sae: Sae, rows_nD: Tensor) -> Entries:
    """Entries of rows [n, D]; places are row numbers. The same numbers as `sae.encode`, but for rounding."""
    if sae.config.variant in ("batch_topk", "matryoshka"):
        raise InputError(f"variant {sae.config.variant}: its features depend on the batch; convert it for use first")
    chunk = chunk_rows(sae.config.d_sae)
    # One block for all: blocks of this size, asked for again and again, leave the C library with gigabytes of holes.
    room = rows_nD.new_empty(min(chunk, len(rows_nD)) * sae.config.d_sae)
    found = [part for lo in range(0, len(rows_nD), chunk) for part in _encoded(sae, rows_nD, lo, chunk, SHARE, room)]
    row, feature, value = (np.concatenate([part[i] for part in found]) for i in range(3))
    start = np.zeros(sae.config.d_sae + 1, np.int64)
    place, ordered = np.empty(len(row), np.int32), np.empty(len(row), np.float32)
    loops.by_feature(feature, row, value, start, place, ordered)
    return Entries(start, place, ordered)


def chunk_rows(features: int) -> int:
    return min(max(CHUNK_ROWS[0], CHUNK_VALUES // features), CHUNK_ROWS[1])


def _encoded(
    sae: Sae, rows_nD: Tensor, lo: int, n: int, share: float, room: Tensor
) -> Iterator[tuple[np.ndarray, ...]]:
    """(row, feature, value) of rows [lo, lo + n), by row and by feature within one."""
    x = rows_nD[lo : lo + n]
    xc = x - sae.b_dec if sae.config.subtract_b_dec else x
    head = head_of(sae.config, sae.tensors())
    at = head.entries(replace(encoder_product(xc, sae.W_enc, "fp32"), room=room), share)
    if at is None:  # more are active than there was room for
        for part in range(lo, min(lo + n, len(rows_nD)), max(1, n // 8)):
            yield from _encoded(sae, rows_nD, part, max(1, n // 8), 1.0, room)
        return
    head.view, head.xc_BD = at, xc
    f = head.features(at.pre_n).cpu().numpy()
    on = f > 0
    row = at.row_n.cpu().numpy()[on]
    yield (row + lo).astype(np.int32), at.feature_n.cpu().numpy()[on].astype(np.int32), f[on]


def cross_products(entries: Entries, rows_nD: np.ndarray) -> np.ndarray:
    """Sums over rows of activation times coordinate. float64 [F, D]."""
    if len(entries.place) > DENSE * entries.features * len(rows_nD):
        return _dense_cross_products(entries, rows_nD)
    out = np.zeros((entries.features, rows_nD.shape[1]))
    shared_out(loops.cross, entries.features, entries.start, entries.place, entries.value, rows_nD, out)
    return out


def _dense_cross_products(entries: Entries, rows_nD: np.ndarray) -> np.ndarray:
    """The same by a matrix product: cheaper where much is active, as with neurons."""
    f = np.zeros((len(rows_nD), entries.features))
    f[entries.place, np.repeat(np.arange(entries.features), np.diff(entries.start))] = entries.value
    return f.T @ rows_nD.astype(np.float64)


def joined(parts: list[Entries], offsets: list[int]) -> Entries:
    """The entries of one slice of features over several stretches of tokens, in order; places move by the offsets."""
    counts = np.stack([np.diff(part.start) for part in parts])
    start = np.concatenate([np.zeros(1, np.int64), counts.sum(axis=0).cumsum()])
    place, value = np.empty(start[-1], np.int64), np.empty(start[-1], np.float32)
    at = start[:-1].copy()
    for part, offset, count in zip(parts, offsets, counts, strict=True):
        to = np.repeat(at - part.start[:-1], count) + np.arange(len(part.place))
        place[to] = part.place.astype(np.int64) + offset
        value[to] = part.value
        at += count
    return Entries(start, place, value)


def stacked(parts: list[Entries]) -> Entries:
    """The entries of several sets of features over the same tokens, as one set: features one set after another."""
    offsets = np.cumsum([0] + [int(e.start[-1]) for e in parts])
    starts = [np.zeros(1, np.int64), *(e.start[1:] + o for e, o in zip(parts, offsets, strict=False))]
    return Entries(
        np.concatenate(starts), np.concatenate([e.place for e in parts]), np.concatenate([e.value for e in parts])
    )


def by_place(entries: Entries, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by place: (row_start int64 [places + 1], feature int32 [m], value float32 [m])."""
    row_start = np.zeros(places + 1, np.int64)
    feature, value = np.empty(len(entries.place), np.int32), np.empty(len(entries.place), np.float32)
    loops.by_place(entries.start, entries.place, entries.value, row_start, feature, value)
    return row_start, feature, value
