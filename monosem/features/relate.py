"""Features of different dictionaries that do the same: by correlation of activations, and by decoder cosine.

Cost grows with pairs of features that are active on the same token; no matrix of all features against all is made, but
for cosines, a slice at a time. Bricken et al. 2023, "Universality" and "Feature Splitting".

Shape letters: F features of the slice, G features of the other dictionary, k listed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.features import loops
from monosem.features.entries import Entries, by_place
from monosem.sae.kernels.cpu import shared_out

LISTED = 3
"""Features of another dictionary listed by correlation. As published."""
COSINES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Related:
    """Rows for RELATED by feature and rank, [m] each; `feature` counts in the slice, what was not measured is NaN."""

    feature: np.ndarray
    other: np.ndarray
    rank: np.ndarray
    cosine: np.ndarray
    r: np.ndarray


def stats_of(entries: Entries) -> np.ndarray:
    """Sums of activations and of their squares, float64 [2, F]."""
    feature = np.repeat(np.arange(entries.features), np.diff(entries.start))
    v = entries.value.astype(np.float64)
    return np.stack([np.bincount(feature, weights, entries.features) for weights in (v, v * v)])


def related(
    entries: Entries, others: Entries, places: int, n: int, d_FO: Tensor | None, other_GO: Tensor | None
) -> Related:
    """What features of a slice have to do with those of another dictionary, over places that n rows are at.

    d_FO, other_GO   decoder vectors if both write to the same place, else None
    """
    F = entries.features
    best, best_r = np.full((F, LISTED), -1, np.int32), np.zeros((F, LISTED))
    rows = by_place(others, places)
    arrays = (entries.start, entries.place, entries.value, *rows, n, stats_of(entries), stats_of(others), best, best_r)
    shared_out(loops.correlate, F, *arrays, together=256)
    nearest, cosine = _cosines(best, d_FO, other_GO)
    other = np.concatenate([best, nearest[:, None]], axis=1)
    keep = other >= 0
    keep[:, LISTED] &= (best != nearest[:, None]).all(axis=1)
    rank = np.cumsum(keep, axis=1) - 1
    r = np.concatenate([best_r, np.full((F, 1), np.nan)], axis=1)
    feature, at = np.nonzero(keep)
    return Related(feature.astype(np.int32), other[feature, at], rank[feature, at].astype(np.int8), cosine[feature, at],
                   r[feature, at])  # fmt: skip


@torch.no_grad()
def _cosines(best: np.ndarray, d_FO: Tensor | None, other_GO: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """The feature with the nearest decoder vector [F] (-1: none), and cosines of those in `best` and it, [F, k + 1]."""
    F, k = best.shape
    nearest, cosine = np.full(F, -1, np.int32), np.full((F, k + 1), np.nan)
    if d_FO is None or other_GO is None:
        return nearest, cosine
    a, b = (torch.nn.functional.normalize(d, dim=1) for d in (d_FO, other_GO))
    step = max(1, COSINES_AT_ONCE // len(b))
    for lo in range(0, F, step):
        c = a[lo : lo + step] @ b.T
        highest = c.max(dim=1)
        nearest[lo : lo + step] = highest.indices.numpy()
        at = torch.from_numpy(best[lo : lo + step].astype(np.int64)).clamp_min(0)
        cosine[lo : lo + step, :k] = np.where(best[lo : lo + step] >= 0, c.gather(1, at).numpy(), np.nan)
        cosine[lo : lo + step, k] = highest.values.numpy()
    return nearest, cosine
