"""The loops that seek large values in a rough product's tiles, compiled by numba, as `loops`. See `rough.py`.

What a rough value says may be large is summed from whole vectors, and only that number counts.

    rough      [n, C] the tile, by `keys_of`: off by off[row] before it was rounded, and by `half` of itself after
    x, W       float32 [n, D], [C, D]: what, with the bias [C], the values are the product of
    vain       int64 [n] out: how many values of a row were summed that are not large
"""

import numpy as np
import torch
from torch import Tensor

from monosem.sae.kernels.numba_find import FEW, FLAGS, first_flag, keep, kth_largest
from monosem.sae.kernels.numba_loops import key_of, number_of, ranged, widen

WORDS = 8
"""Of flags that are looked at together: few are set."""


def keys_of(t: Tensor) -> np.ndarray:
    """Floats' bits as whole numbers. Of floats above zero they are in the same order, and above all others'."""
    return t.view(torch.int16 if t.dtype == torch.bfloat16 else torch.int32).numpy()


@ranged
def lengths(whole, more, rounded, length, lost, lo, hi):
    """Of vectors [m, D] with [m, 2] more coordinates: their lengths, and those of what rounding took off.

    Summed in float64: in float32 squares of tiny numbers are zero, and a bound that is made of them is none.
    """
    D = whole.shape[1]
    for i in range(lo, hi):
        a, b = whole[i], rounded[i]
        square, off = 0.0, 0.0
        for d in range(D):
            v = np.float64(a[d])
            apart = v - np.float64(widen(b[d]))
            square += v * v
            off += apart * apart
        for d in range(more.shape[1]):
            v = np.float64(more[i, d])
            apart = v - np.float64(widen(b[D + d]))
            square += v * v
            off += apart * apart
        length[i], lost[i] = np.sqrt(square), np.sqrt(off)


@ranged
def above(rough, half, off, W, bias, x, bound, lift, features, pres, counts, vain, lo, hi):
    """Of rows lo to hi, the columns whose value is above a bound of their own, and the values.

    features, pres  [n, C + 1] out; counts [n] out: how many
    lift            the rough product is of columns with bias - bound + lift, so that what matters in it is above zero
    """
    flags = np.zeros(-(-rough.shape[1] // (FLAGS * WORDS)) * FLAGS * WORDS, np.uint8)
    words, at = flags.view(np.uint64), np.empty(len(flags), np.int32)
    for b in range(lo, hi):
        flag(rough[b], lift - off[b], half, flags)
        seen, n = flagged(words, at), 0
        for i in range(seen):
            j = at[i]
            pre = dot(x[b], W[j]) + bias[j]
            features[b, n], pres[b, n] = j, pre
            n += pre > bound[j]
        counts[b], vain[b] = n, seen - n


@ranged
def grow(rough, half, off, W, bias, x, first, k, want, classes, last, count, bound, value, feature, vain, lo, hi):
    """A tile's columns, of features from `first` on, join what is held of rows lo to hi: up to 2 k candidates by
    feature, none of which is below the row's bound. After the last tile the k largest above zero are left.

    The bound is reached by at least `want` values of the row, seen or not; of equal ones the first features are kept.
    With k of them it is right. With fewer it is a guess, which was too high if less than k candidates are left.
    """
    C, limit = rough.shape[1], value.shape[1]
    flags = np.zeros(-(-C // (FLAGS * WORDS)) * FLAGS * WORDS, np.uint8)
    words, at = flags.view(np.uint64), np.empty(len(flags), np.int32)
    kept, kept_at = np.empty(limit + C + FEW, np.float32), np.empty(limit + C + FEW, np.int32)
    ranked, tops = np.empty(limit + C, np.float32), np.empty(classes, rough.dtype)
    for b in range(lo, hi):
        n, least, begun = count[b], bound[b], bound[b] > 0
        kept[:n], kept_at[:n] = value[b, :n], feature[b, :n]
        if not begun and want <= classes <= C:
            class_tops(rough[b], tops)
            reached = number_of(nth_key(tops, want))
            least = max(least, reached - reached * half - off[b])
        flag(rough[b], least - off[b], half, flags)
        seen, before = flagged(words, at), n
        for i in range(seen):
            j = at[i]
            kept[n], kept_at[n] = dot(x[b], W[j]) + bias[j], first + j
            n += (kept[n] > 0) & (kept[n] >= least)
        vain[b] = seen - (n - before)
        if n > want + want // 4 or (n > want and (last or not begun)):
            least = max(least, kth_largest(kept, n, want, ranked))
            n = keep(kept, kept_at, n, k, least, kept_at, kept)
        value[b, :n], feature[b, :n] = kept[:n], kept_at[:n]
        count[b], bound[b] = n, least


@ranged
def class_tops(row, tops):
    """Maxima, at least zero, of the columns that leave the same remainder; the last few columns may be left out."""
    classes = len(tops)
    tops[:] = 0
    for c in range(0, len(row) - classes + 1, classes):
        some = row[c : c + classes]
        for i in range(classes):
            tops[i] = max(some[i], tops[i])


@ranged
def nth_key(keys, n):
    """The n-th largest (from 1) of keys that are not negative: the largest number that n of them reach, bit by bit."""
    one, zero, found = keys.dtype.type(1), keys.dtype.type(0), keys.dtype.type(0)
    for bit in range(8 * keys.itemsize - 2, -1, -1):
        more, reach = keys.dtype.type(found | (one << bit)), zero
        for i in range(len(keys)):
            reach += one if keys[i] >= more else zero
        found = more if reach >= n else found
    return found


@ranged
def flag(row, least, half, flags):
    """A flag for every column whose value may have been `least` before the product was rounded."""
    least -= abs(least) * half
    if least > 0:
        key = key_of(least, row[0])
        for j in range(len(row)):
            flags[j] = np.uint8(row[j] >= key)
    else:
        for j in range(len(row)):
            flags[j] = np.uint8(number_of(row[j]) >= least)


@ranged
def flagged(words, at):
    """How many flags are set; which they are goes to `at`."""
    n = 0
    for c in range(0, len(words), WORDS):
        if not any_of(words, c):
            continue
        for w in range(c, c + WORDS):
            word = words[w]
            while word != 0:
                at[n] = w * FLAGS + np.int64(first_flag(word))
                n += 1
                word &= word - np.uint64(1)
    return n


@ranged
def any_of(words, first):
    """Whether one of WORDS words from `first` on is not zero."""
    found = np.uint64(0)
    for i in range(WORDS):
        found |= words[first + i]
    return found != 0


@ranged
def dot(a, b):
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
