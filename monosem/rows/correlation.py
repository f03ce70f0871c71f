"""What companions cost: how alike the rows of one context are, and how much that spreads batch means."""

import numpy as np


def kish_design_effect(companions: float, icc: float) -> float:
    """Variance of a batch mean over that of independent rows: 1 + companions * icc.

    Exact where every row of a batch has the same number of companions; with unequal numbers, `companions` is
    the mean over rows. A batch of B rows is worth B divided by this.
    """
    return 1 + companions * icc


def measure_icc(rows: np.ndarray, groups: np.ndarray) -> float:
    """Intra-class correlation of `rows` [n, d] within `groups` [n]: one-way analysis of variance, over the trace.

    Sums of squares are added over the d columns, in float64. With between- and within-group mean squares b and w, and
    k = (n - sum(n_g^2) / n) / (groups - 1) rows in a group of average size, the estimate is (b - w) / (b + (k-1) w):
    unbiased about 0, at most 1, negative where rows of a group differ more than rows of different groups.
    ValueError for other shapes, non-finite rows, fewer than two groups, no group of two rows, or rows all alike.
    """
    rows, groups = np.asarray(rows), np.asarray(groups)
    if rows.ndim != 2 or groups.shape != rows.shape[:1]:
        raise ValueError(f"rows [n, d] and groups [n] expected, got {rows.shape} and {groups.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("rows hold numbers that are not finite")
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n, n_groups = len(rows), len(sizes)
    if not 2 <= n_groups < n:
        raise ValueError(f"{n} rows in {n_groups} groups: two groups are needed, and a group of two rows")
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    sums = np.add.reduceat(centred[np.argsort(member, kind="stable")], np.cumsum(sizes) - sizes)
    between = (sums**2 / sizes[:, None]).sum()
    within = max((centred**2).sum() - between, 0.0)  # rounding may take it below nothing
    if between + within == 0:
        raise ValueError("all rows are alike: there is no variance to share out")
    b, w = between / (n_groups - 1), within / (n - n_groups)
    k = (n - (sizes.astype(np.float64) ** 2).sum() / n) / (n_groups - 1)
    return float((b - w) / (b + (k - 1) * w))


def batch_mean_ratio(means: np.ndarray, batch_size: int, row_variance: float) -> float:
    """Observed design effect: trace of the covariance of batch `means` [m, d], times batch size, over that of rows.

    `row_variance` is the trace of the covariance of single rows. 1 for independent rows; with m means of d
    dimensions of equal weight it is known to about sqrt(2 / (m * d)).
    ValueError for other shapes, fewer than two means, or a variance that is not positive.
    """
    means = np.asarray(means, dtype=np.float64)
    if means.ndim != 2 or len(means) < 2:
        raise ValueError(f"means [m, d] of at least two batches expected, got {means.shape}")
    if not (np.isfinite(row_variance) and row_variance > 0):
        raise ValueError(f"the variance of rows must be positive, got {row_variance}")
    return float(means.var(axis=0, ddof=1).sum() * batch_size / row_variance)
