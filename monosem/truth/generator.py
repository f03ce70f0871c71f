"""Rows whose features are known: sparse sums of fixed directions, so that a dictionary can be marked like an exam.

    row = bias + sum over active features i of s_i d_i + noise

- d_i: random unit vectors, more of them than dimensions
- feature i is active with probability p_i ~ (i + 1)^-zipf, the sum of all p_i being `active`
- correlation: feature i takes its group's draw instead of its own with that probability, so that a group's features
  tend to come together; p_i stays exact
- hierarchy: that share of the features have a parent, a more frequent feature, and are active only with it; one with
  an ancestor in its own group never takes the group's draw; p_i stays exact
- s_i: 0.5 plus an exponential of mean 0.5, so mean 1

Row t is a pure function of (config, t). float32 out; drawn in blocks of BLOCK rows.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from monosem.rows.permute import TRUTH, uniforms

BLOCK = 1024
"""Rows drawn at a time; part of the definition of the rows."""
DIRECTIONS, BIAS, PARENTS, FIRST_ROW = 0, 1, 2, 16
"""Counters of the random words: the fixed parts first, then three per block of rows."""
MOST = 0.5
"""No feature is active on more than half of the rows."""


@dataclass(frozen=True, kw_only=True)
class TruthConfig:
    """See above; `d_in` is the width of a row, `group` how many features share a draw."""

    features: int = 1024
    d_in: int = 256
    active: float = 12.0
    zipf: float = 0.7
    correlation: float = 0.0
    group: int = 8
    hierarchy: float = 0.0
    noise: float = 0.0
    bias: float = 0.5
    seed: int = 0


class Truth:
    """directions [F, D] of unit norm, probability [F], parent [F] (-1: none); `draw(lo, hi)` for rows."""

    def __init__(self, config: TruthConfig):
        self.config = config

    @cached_property
    def directions(self) -> np.ndarray:
        F, D = self.config.features, self.config.d_in
        d = _normals(self.config.seed, DIRECTIONS, F * D).reshape(F, D)
        return (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32)

    @cached_property
    def bias(self) -> np.ndarray:
        return (self.config.bias * _normals(self.config.seed, BIAS, self.config.d_in)).astype(np.float32)

    @cached_property
    def probability(self) -> np.ndarray:
        """Zipf, scaled to sum to `active`; what would be above MOST is cut and the rest scaled up."""
        c = self.config
        if c.active > MOST * c.features:
            raise ValueError(f"active={c.active}: too many for {c.features} features of probability {MOST} at most")
        shape = (np.arange(c.features) + 1.0) ** -c.zipf
        capped = 0  # the most frequent ones
        while True:
            p = np.full(c.features, MOST)
            if capped < c.features:
                p[capped:] = shape[capped:] / shape[capped:].sum() * (c.active - MOST * capped)
            if capped == c.features or p[capped] <= MOST:
                return p
            capped += 1

    @cached_property
    def parent(self) -> np.ndarray:
        """Parent of each feature, one of the first half of those before it, or -1. int64 [F]."""
        F = self.config.features
        u = uniforms(self.config.seed, TRUTH, PARENTS, 2 * F)
        number = np.arange(F)
        chosen = (u[:F] * (number // 2)).astype(np.int64)
        return np.where((u[F:] < self.config.hierarchy) & (number >= 2), chosen, -1)

    @cached_property
    def alone(self) -> np.ndarray:
        """Which features have an ancestor in their own group. bool [F]."""
        group = np.arange(self.config.features) // self.config.group
        found, ancestor = np.zeros(self.config.features, dtype=bool), self.parent
        while (ancestor >= 0).any():
            found |= (ancestor >= 0) & (group[ancestor] == group)
            ancestor = np.where(ancestor >= 0, self.parent[ancestor], -1)
        return found

    def draw(self, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [lo, hi): float32 [n, D], and the strengths of their features (0: not active), float32 [n, F]."""
        blocks = [self._block(b) for b in range(lo // BLOCK, -(-hi // BLOCK))]
        first = lo // BLOCK * BLOCK
        rows, strengths = (np.concatenate(part)[lo - first : hi - first] for part in zip(*blocks, strict=True))
        return rows, strengths

    def rows(self, lo: int, hi: int) -> np.ndarray:
        """Rows [lo, hi) alone: float32 [n, D]. Strengths, which take much more memory, go block by block."""
        rows = np.empty((hi - lo, self.config.d_in), dtype=np.float32)
        for b in range(lo // BLOCK, -(-hi // BLOCK)):
            first, last = max(lo, b * BLOCK), min(hi, (b + 1) * BLOCK)
            rows[first - lo : last - lo] = self._block(b)[0][first - b * BLOCK : last - b * BLOCK]
        return rows

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        return _draw_block(self, block)

    def __hash__(self) -> int:
        return hash(self.config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Truth) and self.config == other.config


@lru_cache(maxsize=4)
def _draw_block(truth: Truth, block: int) -> tuple[np.ndarray, np.ndarray]:
    c, p = truth.config, truth.probability
    F, first = c.features, FIRST_ROW + 3 * block
    u = uniforms(c.seed, TRUTH, first, BLOCK * F).reshape(BLOCK, F)
    if c.correlation:
        groups = -(-F // c.group)
        more = uniforms(c.seed, TRUTH, first + 1, BLOCK * (F + groups)).reshape(BLOCK, F + groups)
        shared = np.repeat(more[:, F:], c.group, axis=1)[:, :F]
        u = np.where((more[:, :F] < c.correlation) & ~truth.alone, shared, u)
    active = _with_parents(truth, u)
    drawn = np.nonzero(active)
    strengths = np.zeros((BLOCK, F), dtype=np.float32)
    # the draw below its own bound is uniform again, and independent of whether it was below
    bound = np.where(truth.parent < 0, p, p / np.where(truth.parent < 0, 1.0, p[truth.parent]))
    within = np.minimum(u[drawn] / bound[drawn[1]], 1 - 2**-53)
    strengths[drawn] = 0.5 - 0.5 * np.log1p(-within)
    rows = strengths @ truth.directions + truth.bias
    if c.noise:
        rows += (c.noise * _normals(c.seed, first + 2, rows.size)).reshape(rows.shape)
    return rows.astype(np.float32), strengths


def _with_parents(truth: Truth, u: np.ndarray) -> np.ndarray:
    """Which features are active. A child's own draw decides only where its parent is.

    A feature c_k below the ancestors c_0 (at the top) to c_{k-1} is active if all k + 1 draws are below their bounds:
    u(c_0) < p(c_0) and u(c_j) < p(c_j) / p(c_{j-1}). Each of these draws is the feature's own or its group's. Of those
    in one group only the topmost may take the group's (`Truth.alone`), so no two of them are the same number and they
    are independent: the probability is the product of the bounds, p(c_k).
    """
    p, parent = truth.probability, truth.parent
    active = u < p
    for child in np.nonzero(parent >= 0)[0]:
        active[:, child] = active[:, parent[child]] & (u[:, child] < p[child] / p[parent[child]])
    return active


def _normals(seed: int, counter: int, n: int) -> np.ndarray:
    """Standard normal numbers by Box and Muller. float64 [n]."""
    half = -(-n // 2)
    u = uniforms(seed, TRUTH, counter, 2 * half)
    radius, angle = np.sqrt(-2 * np.log1p(-u[:half])), 2 * np.pi * u[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]
