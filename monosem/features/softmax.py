"""The loop over ablated tokens where the rest of the pass is one norm and one linear map: see `onward.Linear`.

Compiled by numba, as `loops`. An exponential of its own, since the C library's does not go into vectors.
"""

import numpy as np

from monosem.features.loops import CLASSES, class_tops, ends
from monosem.sae.kernels.numba_loops import power_of_2, ranged, towards_0

BLOCK = 256
"""So many exponentials are summed in float32, their sums in float64."""
_LOG2_E, _LN_2, _HALF = np.float32(1.4426950408889634), np.float32(0.6931471805599453), np.float32(0.5)
_LEAST = np.float32(-87)
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / n) for n in (2, 6, 24, 120, 720, 5040))
_ONE, _ZERO = np.float32(1), np.float32(0)


@ranged
def exp(x):
    """e^x of a float32 not above 0, to 2e-7 of itself; below -87 as at -87."""
    x = max(x, _LEAST)
    n = towards_0(x * _LOG2_E - _HALF)
    r = x - n * _LN_2
    series = _C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))
    return (_ONE + r * (_ONE + r * series)) * power_of_2(n)


@ranged
def log_sum_exp(x, tops):
    """log of the sum of e^x, float64; `tops` is room to work in."""
    class_tops(x, _ONE, tops)
    most = tops[0]
    for i in range(len(tops)):
        most = max(most, tops[i])
    total = 0.0
    for lo in range(0, len(x), BLOCK):
        some, part = x[lo : lo + BLOCK], _ZERO
        for v in range(len(some)):
            part += exp(some[v] - most)
        total += np.float64(part)
    return np.log(total) + np.float64(most)


@ranged
def losses(clean, bias, scale, following, out, lo, hi):
    """-log p of the tokens that follow rows lo to hi, float64 [n]: logits are scale[i] * clean[i] + bias."""
    x, tops = np.empty(clean.shape[1], np.float32), np.empty(CLASSES, np.float32)
    for i in range(lo, hi):
        row, s = clean[i], scale[i]
        for v in range(len(x)):
            x[v] = s * row[v] + bias[v]
        out[i] = log_sum_exp(x, tops) - np.float64(x[following[i]])


@ranged
def scales(base, moves, row, feature, act, eps, out, lo, hi):
    """One over the norm's scale of rows that ablations lo to hi leave: base[row[i]] - act[i] * moves[feature[i]]."""
    D = base.shape[1]
    x = np.empty(D, np.float32)
    for i in range(lo, hi):
        p, q, a, total, square = base[row[i]], moves[feature[i]], act[i], _ZERO, _ZERO
        for d in range(D):
            x[d] = p[d] - a * q[d]
            total += x[d]
        mean = total / np.float32(D)
        for d in range(D):
            square += (x[d] - mean) * (x[d] - mean)
        out[i] = _ONE / np.sqrt(square / np.float32(D) + eps)


@ranged
def ablated(
    clean, moves, bias, scale, following, before, row, feature, act, after_scale, ends_at, k,
    out, up, up_values, down, down_values, lo, hi,
):  # fmt: skip
    """Ablations lo to hi: act[i] of a feature taken from a row.

    clean, moves     [n, V], [F, V]: logits of rows before scale and bias, and what an activation of 1 adds to them
    scale, before    [n]: of the clean rows, and their losses; after_scale [m]: with the ablation
    ends_at          [m]: which row of `up` and the others gets the ends of the logits' changes; -1: none
    out              [m]: by how much the loss on the token that follows rises
    """
    x, tops = np.empty(clean.shape[1], np.float32), np.empty(CLASSES, np.float32)
    for i in range(lo, hi):
        p, q, a = clean[row[i]], moves[feature[i]], act[i]
        s, was = after_scale[i], scale[row[i]]
        for v in range(len(x)):
            x[v] = s * (p[v] - a * q[v]) + bias[v]
        out[i] = log_sum_exp(x, tops) - np.float64(x[following[row[i]]]) - before[row[i]]
        at = ends_at[i]
        if at >= 0:
            for v in range(len(x)):
                x[v] -= was * p[v] + bias[v]
            ends(x, k, tops, up[at], up_values[at], down[at], down_values[at])
