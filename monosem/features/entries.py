"""Sparse entries: where features are active, and how much, by feature or by place. `tiles.py` finds them.

Shape letters: n rows, D d_in, F d_sae, m entries.
"""

from dataclasses import dataclass

import numpy as np

from monosem.features import loops
from monosem.sae.kernels.cpu import shared_out

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
