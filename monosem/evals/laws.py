"""Scaling laws and Pareto fronts over finished runs: pure arithmetic.

A law is y = a C^b with C the training compute in FLOPs: least squares in log y against log C. The April 2024 update
("Scaling laws") finds loss, best number of features and of steps to be such laws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np

from monosem.config.job import LARGEST_FACTOR

PRODUCTS = 5
"""Matrix products of a step: two forward, three back (rows need no gradient). Each costs 2 rows d_in d_sae FLOPs."""
WIDE_GAP = 1.6
"""Neighbours on a front whose L0 differ by this factor leave room for a run between them."""
WORTH = 0.02
"""A doubling that lowers FVU by at least this share is worth a run."""
SPAN = 1.5
"""Computes that lie closer together say nothing of a law."""


@dataclass(frozen=True)
class PowerLaw:
    """y = a C^b. error: standard error of b, None with only two points; n: points."""

    a: float
    b: float
    error: float | None
    n: int

    def at(self, compute: float) -> float:
        return self.a * compute**self.b


def compute_of(row: dict) -> float:
    """Training FLOPs of a run, dense: 10 rows d_in d_sae."""
    return 2.0 * PRODUCTS * row["rows"] * row["d_in"] * row["d_sae"]


def fit_power_law(compute: Sequence[float], y: Sequence[float]) -> PowerLaw | None:
    """The law through positive values; None unless their computes differ by a factor of SPAN."""
    pairs = [(log(c), log(v)) for c, v in zip(compute, y, strict=True) if c > 0 and v > 0]
    if len(pairs) < 2 or max(pairs)[0] - min(pairs)[0] < log(SPAN):
        return None
    x, z = np.array(pairs).T
    dx = x - x.mean()
    b = float((dx * (z - z.mean())).sum() / (dx * dx).sum())
    a = float(np.exp(z.mean() - b * x.mean()))
    if not 0 < a < np.inf:  # too steep for a float
        return None
    error = None
    if len(pairs) > 2:
        left = z - z.mean() - b * dx
        error = float(np.sqrt((left * left).sum() / (len(pairs) - 2) / (dx * dx).sum()))
    return PowerLaw(a, b, error, len(pairs))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other is at most equal to in both, and smaller in one; by the first coordinate."""
    front, best = [], float("inf")
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if points[i][1] < best:
            front.append(i)
            best = points[i][1]
    return front


def next_run(rows: Sequence[dict], law: PowerLaw | None, asked: tuple[str, float]) -> tuple[dict, str]:
    """The run that would tell most: overrides of the job file, and why. No overrides if none would.

    rows   of one hook point and variant, with l0, fvu, d_in, d_sae, rows, expansion_factor, and `asked`: the name and
           value of its sparsity field
    law    of FVU, of those rows that have this `asked`
    """
    there = {(r["expansion_factor"], *r["asked"]) for r in rows}
    largest = max((r for r in rows if r["asked"] == asked), key=lambda r: r["d_sae"])
    if law is not None and law.b < 0 and 2 * largest["expansion_factor"] <= LARGEST_FACTOR:
        gain = 1 - 2.0**law.b
        if gain >= WORTH:
            factor = 2 * largest["expansion_factor"]
            fvu = law.at(2 * compute_of(largest))
            return {"expansion_factor": factor, asked[0]: asked[1]}, (
                f"twice the features should lower FVU by {gain:.0%}, to about {fvu:.3f}"
            )
    front = [rows[i] for i in pareto_front([(r["l0"], r["fvu"]) for r in rows])]
    gaps = [(b["l0"] / max(a["l0"], 1e-9), a, b) for a, b in pairwise(front)]
    gaps = [gap for gap in gaps if gap[0] >= WIDE_GAP and _between(*gap[1:]) not in (None, *there)]
    if gaps:
        _, a, b = max(gaps, key=lambda gap: gap[0])
        size, name, value = _between(a, b)
        return {"expansion_factor": size, name: value}, (
            f"nothing on the front between L0 {a['l0']:.1f} ({a['run']}) and {b['l0']:.1f} ({b['run']})"
        )
    return {}, "the front has no wide gap, and more features promise little"


def _between(a: dict, b: dict) -> tuple[int, str, float] | None:
    """The larger factor of two runs, their sparsity field, and a value of it between those that they asked for; None if
    a short number cannot be."""
    ends = a["asked"][1], b["asked"][1]
    value = (ends[0] * ends[1]) ** 0.5
    value = round(value) if a["asked"][0] == "k" else float(f"{value:.2g}")
    size = max(a["expansion_factor"], b["expansion_factor"])
    return (size, a["asked"][0], value) if min(ends) < value < max(ends) else None
