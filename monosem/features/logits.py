"""Direct logit effects of features: median-centred, with the tokens at both ends and a histogram over the vocabulary.

Shape letters: F features, V vocabulary, k tokens at each end.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.features import loops, schema
from monosem.host.direct import DirectPath
from monosem.sae.kernels.cpu import shared_out

ENDS = 10
"""Tokens listed at each end, as published."""
AT_ONCE = 1 << 24
"""Effects held at a time."""


@dataclass(frozen=True)
class LogitEffects:
    """top, bottom int32 [F, k] token ids and their effects float32 [F, k]; counts int32 [F, BUCKETS] of all effects
    between lo and hi, float32 [F]."""

    top: np.ndarray
    top_values: np.ndarray
    bottom: np.ndarray
    bottom_values: np.ndarray
    counts: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


@torch.no_grad()
def logit_effects(direct: DirectPath, d_FW: Tensor, scale: float) -> LogitEffects:
    """Of decoder vectors [F, W], per unit of activation; `scale`: see `DirectPath.effects`."""
    step = max(1, AT_ONCE // len(direct.unembed_VD))
    parts = [_described(centred(direct.effects(d, scale)).numpy()) for d in d_FW.split(step)]
    return LogitEffects(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def centred(effects_FV: Tensor) -> Tensor:
    """Each row shifted so that its median (the lower one, if V is even) is 0. Bricken et al. 2023."""
    return effects_FV - effects_FV.median(dim=1, keepdim=True).values


def _described(v_FV: np.ndarray) -> tuple[np.ndarray, ...]:
    F, k = len(v_FV), min(ENDS, v_FV.shape[1])
    ends = tuple(np.zeros((F, k), kind) for kind in (np.int32, np.float32) * 2)
    shared_out(loops.extremes, F, v_FV, k, *ends)
    lo, hi = v_FV.min(axis=1), v_FV.max(axis=1)
    counts = np.zeros((F, schema.BUCKETS), np.int32)
    shared_out(loops.histogram, F, v_FV, lo, hi, counts)
    return (*ends, counts, lo, hi)
