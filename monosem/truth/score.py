"""Marks of a dictionary whose true features are known."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.sae.model import Sae
from monosem.truth.generator import Truth

FOUND = 0.95
"""Cosine from which on a feature counts as recovered."""
FREQUENT = 1e-3
"""Features on at least this share of the rows are asked for."""


@dataclass(frozen=True)
class Score:
    """Of the features that are frequent enough.

    recovered   share with a dictionary element of cosine at least FOUND
    mcc         mean cosine under the best one-to-one matching (mean max cosine of matched pairs)
    precision   of matched pairs: share of rows with the dictionary's feature active on which the true one is
    recall      share of rows with the true feature active on which the dictionary's is
    shrinkage   median over pairs of the mean activation over the mean true strength, where both are active; 1: none
    l0, fvu     of the whole dictionary on the same rows
    dead        share of dictionary features that are never active on them
    """

    features: int
    recovered: float
    mcc: float
    precision: float
    recall: float
    shrinkage: float
    l0: float
    fvu: float
    dead: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@torch.no_grad()
def score(sae: Sae, truth: Truth, lo: int, hi: int, chunk: int = 4096) -> Score:
    """Marks on the truth's rows [lo, hi), which should not be those of training."""
    asked = np.nonzero(truth.probability >= FREQUENT)[0]
    if len(asked) == 0:
        raise ValueError(f"no feature is active on {FREQUENT} of the rows")
    unit = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosine = torch.from_numpy(truth.directions[asked]) @ unit.T  # [asked, d_sae]
    true_at, ours = match(cosine.numpy())
    counts = _counts(sae, truth, asked[true_at], ours, range(lo, hi, chunk), hi, chunk)
    both = counts["both"].clamp_min(1)
    seen = counts["both"] > 0
    norms = sae.W_dec.norm(dim=1)[ours].double()
    ratio = (counts["activation"] * norms / both) / (counts["strength"] / both).clamp_min(1e-12)
    return Score(
        features=len(asked),
        recovered=float((cosine.amax(dim=1) >= FOUND).double().mean()),
        mcc=float(cosine[true_at, ours].double().mean()),
        precision=float((counts["both"] / counts["ours"].clamp_min(1)).mean()),
        recall=float((counts["both"] / counts["true"].clamp_min(1)).mean()),
        shrinkage=float(ratio[seen].median()) if seen.any() else float("nan"),
        l0=float(counts["l0"] / (hi - lo)),
        fvu=float(counts["error"] / (counts["squares"] - counts["sum"].square().sum() / (hi - lo))),
        dead=float((~counts["fired"]).double().mean()),
    )


def match(cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The one-to-one matching of rows and columns with the largest sum (Hungarian method): two index arrays."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cosine, maximize=True)


def _counts(
    sae: Sae, truth: Truth, asked: np.ndarray, ours: Sequence[int], starts: range, hi: int, chunk: int
) -> dict[str, Tensor]:
    """Sums over the rows, chunk by chunk. Of pairs: ours, true, both, activation, strength; of all: the others."""
    total: dict[str, Tensor] = {}
    for lo in starts:
        rows, strengths = truth.draw(lo, min(hi, lo + chunk))
        x = torch.from_numpy(rows)
        f = sae.encode(x)
        mine, true = f[:, ours].double(), torch.from_numpy(strengths[:, asked]).double()
        both = (mine > 0) & (true > 0)
        part = {
            "ours": (mine > 0).sum(dim=0).double(),
            "true": (true > 0).sum(dim=0).double(),
            "both": both.sum(dim=0).double(),
            "activation": (mine * both).sum(dim=0),
            "strength": (true * both).sum(dim=0),
            "l0": (f > 0).sum().double(),
            "error": (sae.decode(f, x) - x).double().square().sum(),
            "squares": x.double().square().sum(),
            "sum": x.double().sum(dim=0),
        }
        fired = (f > 0).any(dim=0)
        total["fired"] = fired | total["fired"] if "fired" in total else fired
        total |= {name: value + total[name] if name in total else value for name, value in part.items()}
    return total
