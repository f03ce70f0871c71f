"""What a dictionary does to held-out rows: L0, FVU, density, dead features."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.model import Sae

ULTRALOW = 1e-6
"""Density below which a feature is in the ultralow-density cluster. Bricken et al. 2023."""
CHUNK_ELEMENTS = 1 << 26
"""Feature activations held at a time; rows are taken in chunks of this many elements."""


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
    """

    rows: int
    l0: float
    fvu: float
    density_F: Tensor

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


@torch.no_grad()
def measure_sparsity(sae: Sae, batches: Iterable[tuple[Tensor, Tensor]]) -> Sparsity:
    """Pass all rows through the dictionary; sums in float64.

    batches  of rows x [n, d_in] and what is to be reconstructed, y [n, d_out]: x itself, or a transcoder's target
    """
    F, out = sae.config.d_sae, sae.config.width_out
    rows, error = 0, 0.0
    fired_F = torch.zeros(F, dtype=torch.int64)
    sum_O, squares = torch.zeros(out, dtype=torch.float64), 0.0
    for whole_x, whole_y in batches:
        for x, y in zip(row_chunks(whole_x, F), row_chunks(whole_y, F), strict=True):
            f = sae.encode(x)
            error += float((sae.decode(f, x) - y).double().square().sum())
            fired_F += torch.count_nonzero(f, dim=0).cpu()
            sum_O += y.double().sum(dim=0).cpu()
            squares += float(y.double().square().sum())
            rows += len(x)
    if rows == 0:
        raise ValueError("no rows to measure")
    variance = squares - float(sum_O.square().sum()) / rows
    return Sparsity(rows, float(fired_F.sum()) / rows, error / variance, fired_F.double() / rows)


def density_histogram(density_F: Tensor, lowest: float = -7.0, bins_per_decade: int = 4) -> dict:
    """Counts of log10 density: {"edges": [...], "counts": [...], "dead": n}. Lower ones go to the first bin."""
    alive = density_F[density_F > 0].double().log10().clamp(lowest, -1e-9)
    n = int(-lowest * bins_per_decade)
    counts = torch.histc(alive, bins=n, min=lowest, max=0.0)
    edges = [lowest + i / bins_per_decade for i in range(n + 1)]
    return {"edges": edges, "counts": counts.int().tolist(), "dead": int((density_F == 0).sum())}
