"""From rows to entries: the encoder's product some rows by some columns at a time, so that it is read from the cache.

Cost beside the product grows with rows and entries, and next to nothing with features.

Shape letters: n rows, D d_in, F d_sae, C columns of a tile.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from monosem.errors import InputError
from monosem.features import loops
from monosem.features.entries import Entries
from monosem.features.rough import factor, key_of, keys_of, number_of, rough_kind, slack
from monosem.sae.heads import head_of
from monosem.sae.kernels import kernels_for
from monosem.sae.kernels.cpu import shared_out
from monosem.sae.kernels.numba_find import FEW, FLAGS, first_flag, keep, kth_largest, nth_largest
from monosem.sae.kernels.numba_loops import ranged
from monosem.sae.model import Sae
from monosem.sae.products import Product

ROWS, COLUMNS = 1024, 4096
"""Of a tile: 8 MiB in bfloat16. Larger ones fall out of the cache, smaller ones make slower products."""
SHARE = 1 / 16
"""Share of active features that room is kept for at first; where a tile has more, there is room for all."""
CLASSES = 256
"""See `numba_find.largest`."""
WORDS = 8
"""Of flags that are looked at together: few are set."""


def active_entries(sae: Sae, rows_nD: Tensor) -> Entries:
    """Entries of rows [n, D]; places are row numbers. The same numbers as `sae.encode`, but for rounding."""
    if sae.config.variant in ("batch_topk", "matryoshka"):
        raise InputError(f"variant {sae.config.variant}: its features depend on the batch; convert it for use first")
    x = rows_nD - sae.b_dec if sae.config.subtract_b_dec else rows_nD
    found = list(_largest(sae, x) if sae.config.variant == "topk" else _above(sae, x))
    row, feature, value = (np.concatenate([part[i] for part in found]) for i in range(3))
    start = np.zeros(sae.config.d_sae + 1, np.int64)
    place, ordered = np.empty(len(row), np.int32), np.empty(len(row), np.float32)
    loops.by_feature(feature, row, value, start, place, ordered)
    return Entries(start, place, ordered)


def _columns(sae: Sae) -> Iterator[tuple[slice, Tensor]]:
    """Some features at a time, and their encoder [D, C], in one piece."""
    for lo in range(0, sae.config.d_sae, COLUMNS):
        at = slice(lo, min(lo + COLUMNS, sae.config.d_sae))
        yield at, sae.W_enc[:, at].contiguous()


def _above(sae: Sae, x_nD: Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    """(row, feature, value) of the entries, by tiles, by row within one. Features are above a bound of their own."""
    head, b_enc = head_of(sae.config, sae.tensors()), sae.tensors()["b_enc"]
    bound_F, kernels = head.bound_F().expand(len(b_enc)), kernels_for(x_nD)
    room = x_nD.new_empty(min(ROWS, len(x_nD)) * min(COLUMNS, len(b_enc)))
    for at, W_DC in _columns(sae):
        for lo in range(0, len(x_nD), ROWS):
            part = x_nD[lo : lo + ROWS]
            product = Product(part, W_DC, room=room)
            found = kernels.above(product, b_enc[at].contiguous(), bound_F[at], SHARE)
            found = found or kernels.above(product, b_enc[at].contiguous(), bound_F[at], 1.0)
            head.view = replace(found, feature_n=found.feature_n + at.start, features=len(b_enc))
            f = head.features(found.pre_n).numpy()
            on = f > 0
            yield found.row_n.numpy()[on] + lo, head.view.feature_n.numpy()[on], f[on]


def _largest(sae: Sae, x_nD: Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    """The same of the k largest of each row: of what came so far, the k largest are kept, and bound what comes.

    A rough product says which they may be, and each of those is summed by itself: no number depends on the product.
    """
    n, k = len(x_nD), min(sae.config.k, sae.config.d_sae)
    count, bound = np.zeros(n, np.int64), np.zeros(n, np.float32)
    value, feature = np.empty((n, 2 * k), np.float32), np.empty((n, 2 * k), np.int32)
    kind, exact = rough_kind(), x_nD.contiguous()
    rough_x, half = factor(exact, None, kind), np.float32(1.01 * torch.finfo(kind).eps / 2)
    room = x_nD.new_empty(min(ROWS, n) * min(COLUMNS, sae.config.d_sae), dtype=kind)
    for first in range(0, sae.config.d_sae, COLUMNS):
        W_CD, bias = sae.W_enc[:, first : first + COLUMNS].T.contiguous(), sae.b_enc[first : first + COLUMNS]
        rough_W, C, last = factor(W_CD, bias, kind), len(bias), first + COLUMNS >= sae.config.d_sae
        columns = (W_CD.numpy(), bias.numpy(), first, k, CLASSES, last)
        off = slack(rough_x, rough_W)
        for lo in range(0, n, ROWS):
            x = rough_x.rounded[lo : lo + ROWS]
            tile = torch.mm(x, rough_W.rounded.T, out=room[: len(x) * C].view(len(x), C))
            held = (array[lo:] for array in (off, exact.numpy(), count, bound, value, feature))
            shared_out(grow, len(x), keys_of(tile), half, *columns, *held)
    there = np.arange(2 * k)[None, :] < count[:, None]
    yield np.nonzero(there)[0], feature[there], value[there]


@ranged
def grow(rough, half, W, bias, first, k, classes, last, off, x, count, bound, value, feature, lo, hi):
    """A tile's columns, of features from `first` on, join what is held of rows lo to hi: up to 2 k candidates by
    feature, none of which is below the row's bound. After the last tile the k largest above zero are left.

    At least k values of the row, seen or not, reach the bound; of equal ones the first features are kept.

    rough   `rough.keys_of` the tile: off by off[row] (`rough.slack`) before it was rounded, by `half` of itself after
    x, W    float32 [n, D] and [C, D]: what, with the bias, a candidate's value is the product of
    """
    C, limit = rough.shape[1], value.shape[1]
    flags = np.zeros(-(-C // (FLAGS * WORDS)) * FLAGS * WORDS, np.uint8)
    words = flags.view(np.uint64)
    kept, kept_at = np.empty(limit + C + FEW, np.float32), np.empty(limit + C + FEW, np.int32)
    ranked, tops = np.empty(limit + C, np.float32), np.empty(classes, rough.dtype)
    for b in range(lo, hi):
        row, n, least, few = rough[b], count[b], bound[b], count[b] < k
        kept[:n], kept_at[:n] = value[b, :n], feature[b, :n]
        if few and k <= classes <= C:
            class_tops(row, tops)
            seen = number_of(nth_largest(tops, classes, k))
            least = max(least, seen - seen * half - off[b])
        flag(row, least - off[b], half, flags)
        for c in range(0, len(words), WORDS):
            if not any_of(words[c : c + WORDS]):
                continue
            for w in range(c, c + WORDS):
                word = words[w]
                while word != 0:
                    j = w * FLAGS + np.int64(first_flag(word))
                    kept[n], kept_at[n] = dot(x[b], W[j]) + bias[j], first + j
                    n += (kept[n] > 0) & (kept[n] >= least)
                    word &= word - np.uint64(1)
        if n > limit or (n > k and (few or last)):
            least = kth_largest(kept, n, k, ranked)
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
def any_of(words):
    found = np.uint64(0)
    for i in range(WORDS):
        found |= words[i]
    return found != 0


@ranged
def dot(a, b):
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
