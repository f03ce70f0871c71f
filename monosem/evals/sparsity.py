"""What a dictionary does to held-out rows: L0, FVU, density, dead features, cosine and shrinkage, and by domain.

Agrees with SAELens' `run_evals` where that measures the same: l0, explained variance, mse, cosine, shrinkage (its
`l2_ratio`) and the relative reconstruction bias.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from monosem.sae.model import Sae

ULTRALOW = 1e-6
"""Density below which a feature is in the ultralow-density cluster. Bricken et al. 2023."""
DENSE = 1e-2
"""Density above which a feature is too common to mean one thing: many of them say that L1 is too low. Same place."""
CHUNK_ELEMENTS = 1 << 25
"""Feature activations held at a time; rows are taken in chunks of this many elements."""
COUNTED_ELEMENTS = 1 << 22
"""Of those, how many are counted at a time."""


def row_chunks(x: Tensor, d_sae: int) -> tuple[Tensor, ...]:
    """Rows [n, d_in] in pieces whose feature activations stay within CHUNK_ELEMENTS."""
    return x.split(max(1, CHUNK_ELEMENTS // d_sae))


@dataclass(frozen=True)
class Sparsity:
    """Counts over held-out rows.

    rows         how many
    l0           mean number of active features per row
    fvu          fraction of variance unexplained: sum |y - y_hat|^2 / sum |y - mean|^2, y being x but in transcoders
    density_F    share of rows on which each feature is active, float64 [d_sae]
    cosine       mean over rows of the cosine of y and y_hat (rows of zeros count as 0)
    shrinkage    mean over rows of |y_hat| / |y|; 1: none
    bias         relative reconstruction bias: mean |y_hat|^2 / mean y . y_hat (Rajamanoharan et al. 2024a, eq. 10)
    mse          mean over rows of |y - y_hat|^2
    domains      by name: {"rows", "l0", "fvu"}, the variance about the domain's own mean; empty without labels
    """

    rows: int
    l0: float
    fvu: float
    density_F: Tensor
    cosine: float = float("nan")
    shrinkage: float = float("nan")
    bias: float = float("nan")
    mse: float = float("nan")
    domains: dict[str, dict] = field(default_factory=dict)

    @property
    def dead_fraction(self) -> float:
        """Share of features that were active on none of the rows."""
        return float((self.density_F == 0).double().mean())

    @property
    def ultralow_fraction(self) -> float | None:
        """Share of features that are active, but on less than ULTRALOW of the rows; None: too few rows to tell."""
        if self.rows < 1 / ULTRALOW:
            return None
        return float(((self.density_F > 0) & (self.density_F < ULTRALOW)).double().mean())

    @property
    def dense_fraction(self) -> float:
        """Share of features that are active on more than DENSE of the rows."""
        return float((self.density_F > DENSE).double().mean())


class _Moments:
    """Sums over the rows of each group, float64: count, active features, squared error, y and its squares."""

    def __init__(self, groups: int, width: int):
        self.n, self.active, self.error, self.squares = (torch.zeros(groups, dtype=torch.float64) for _ in range(4))
        self.sum_GO = torch.zeros(groups, width, dtype=torch.float64)

    def add(self, group_n: Tensor, active_n: Tensor, error_n: Tensor, y_nO: Tensor) -> None:
        ones = torch.ones(len(group_n), dtype=torch.float64)
        squares = y_nO.double().square().sum(dim=1).cpu()
        for total, values in ((self.n, ones), (self.active, active_n), (self.error, error_n), (self.squares, squares)):
            total.index_add_(0, group_n, values.double().cpu())
        self.sum_GO.index_add_(0, group_n, y_nO.double().cpu())

    def l0(self) -> Tensor:
        return self.active / self.n

    def fvu(self) -> Tensor:
        return self.error / (self.squares - self.sum_GO.square().sum(dim=1) / self.n)

    def whole(self) -> "_Moments":
        """Of all groups together."""
        one = _Moments(1, self.sum_GO.shape[1])
        for name in ("n", "active", "error", "squares"):
            setattr(one, name, getattr(self, name).sum().view(1))
        one.sum_GO = self.sum_GO.sum(dim=0, keepdim=True)
        return one


@torch.no_grad()
def measure_sparsity(sae: Sae, batches: Iterable[Sequence[Tensor]], domains: Sequence[str] = ("",)) -> Sparsity:
    """Pass all rows through the dictionary; sums in float64.

    batches  of rows x [n, d_in], what is to be reconstructed, y [n, d_out]: x itself, or a transcoder's target, and
             perhaps the domain of each, int64 [n]: a place in `domains`
    """
    F, out = sae.config.d_sae, sae.config.width_out
    moments = _Moments(len(domains), out)
    fired_F = torch.zeros(F, dtype=torch.int64)
    totals = torch.zeros(4, dtype=torch.float64)  # cosine, ratio of norms, |y_hat|^2, y . y_hat
    for x_whole, y_whole, *rest in batches:
        group = rest[0] if rest else torch.zeros(len(x_whole), dtype=torch.int64)
        chunks = (row_chunks(t, F) for t in (x_whole, y_whole, group))
        for x, y, group_n in zip(*chunks, strict=True):
            y_hat, active_n, active_F = _pass(sae, x)
            fired_F += active_F.cpu()
            error = (y_hat - y).double().square().sum(dim=1)
            moments.add(group_n, active_n, error, y)
            totals += _alike(y.double(), y_hat.double()).cpu()
    all_rows = moments.whole()
    rows = int(all_rows.n)
    if rows == 0:
        raise ValueError("no rows to measure")
    cosine, ratio, squares, product = (totals / rows).tolist()
    return Sparsity(
        rows, float(all_rows.l0()), float(all_rows.fvu()), fired_F.double() / rows,
        cosine, ratio, squares / product if product else float("nan"), float(all_rows.error) / rows,
        _by_domain(moments, domains),
    )  # fmt: skip


def _pass(sae: Sae, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstructions; active features per row, and rows per active feature, int64.

    Counted in pieces: a sum of booleans makes integers of 8 bytes of all of them first.
    """
    f = sae.encode(x)
    pieces = (f != 0).split(max(1, COUNTED_ELEMENTS // f.shape[1]))
    active_n = torch.cat([piece.sum(dim=1) for piece in pieces])
    active_F = sum(piece.sum(dim=0) for piece in pieces)
    return sae.decode(f, x), active_n, active_F


def _alike(y_nO: Tensor, y_hat_nO: Tensor) -> Tensor:
    """Sums over rows: cosine, |y_hat| / |y| (divided by 1 where y is next to nothing), |y_hat|^2, y . y_hat."""
    norm, norm_hat, product = y_nO.norm(dim=1), y_hat_nO.norm(dim=1), (y_nO * y_hat_nO).sum(dim=1)
    both = norm * norm_hat
    cosine = torch.where(both > 0, product / torch.where(both > 0, both, 1.0), 0.0)
    ratio = norm_hat / torch.where(norm < 1e-4, 1.0, norm)
    return torch.stack([cosine.sum(), ratio.sum(), norm_hat.square().sum(), product.sum()])


def _by_domain(moments: _Moments, domains: Sequence[str]) -> dict[str, dict]:
    if tuple(domains) == ("",):
        return {}
    l0, fvu, rows = moments.l0().tolist(), moments.fvu().tolist(), moments.n.int().tolist()
    return {
        name: {"rows": rows[i], "l0": l0[i], "fvu": fvu[i] if math.isfinite(fvu[i]) else None}
        for i, name in enumerate(domains)
        if rows[i]
    }


def density_histogram(density_F: Tensor, lowest: float = -7.0, bins_per_decade: int = 4) -> dict:
    """Counts of log10 density: {"edges": [...], "counts": [...], "dead": n}. Lower ones go to the first bin."""
    alive = density_F[density_F > 0].double().log10().clamp(lowest, -1e-9)
    n = int(-lowest * bins_per_decade)
    counts = torch.histc(alive, bins=n, min=lowest, max=0.0)
    edges = [lowest + i / bins_per_decade for i in range(n + 1)]
    return {"edges": edges, "counts": counts.int().tolist(), "dead": int((density_F == 0).sum())}
