"""The sparse step's kernels on CPU: numba's loops, shared out among torch's number of threads.

Signatures and meaning are those of `plain.py`.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from monosem.sae.kernels import numba_find as find
from monosem.sae.kernels import numba_loops as loops
from monosem.sae.kernels.entries import Decoded, Entries
from monosem.sae.kernels.plain import GROUP, capacity
from monosem.sae.kernels.plain import total as total
from monosem.sae.products import Product

TOGETHER = (64, 256)
"""Least and most rows or features that a thread takes at a time: enough for a call to cost nothing, few enough for
threads to get at least EVEN turns each, so that none waits long for another."""
EVEN = 8
SLOTS_TOGETHER = True
"""Sums over rows are made slot by slot and added by the tree while they are made: see `Entries.slot_ends`."""
MIN_CLASSES = 256
"""See `numba_find.largest`: more classes make a tighter bound, and more maxima to rank."""
SAMPLED = 64
"""See `_suggested_bound`."""


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="monosem-kernels")


def shared_out(loop: Callable, n: int, *arguments: object, together: int | None = None) -> None:
    """loop(*arguments, lo, hi) for ranges of `together` that make up n, by as many threads as torch uses."""
    together = together or min(max(TOGETHER[0], n // (EVEN * torch.get_num_threads())), TOGETHER[1])
    threads = min(torch.get_num_threads(), -(-n // together))
    if threads <= 1:
        loop(*arguments, 0, n)
        return
    turns = itertools.count()

    def work() -> None:
        while (lo := next(turns) * together) < n:
            loop(*arguments, lo, min(n, lo + together))

    futures = [_pool(threads).submit(work) for _ in range(threads - 1)]
    work()
    for future in futures:
        future.result()


def above(product: Product, bias_F: Tensor, bound_F: Tensor, share: float) -> Entries | None:
    F = product.shape[1]
    bound = np.ascontiguousarray(bound_F.expand(F).numpy())
    counts, pres, features = _above(product, bias_F.numpy(), bound, capacity(F, share))
    return None if counts is None else packed(F, counts, GROUP, features, pres)


def _above(product: Product, bias: np.ndarray, bound: np.ndarray, most: int) -> tuple:
    """Counts of rows, and by group of rows the values and their features; None if a group has more than `most`."""
    B, groups = product.shape[0], -(-product.shape[0] // GROUP)
    features = np.empty((groups, most + find.FLAGS), np.int32)
    pres = np.empty((groups, most + find.FLAGS), bias.dtype)
    counts, overfull, least = np.zeros(B, np.int64), np.zeros(1, np.bool_), None
    for row, tile in product.tiles(GROUP):
        group, n = row // GROUP, -(-len(tile) // GROUP)
        if least is None:
            least = np.empty(len(bias), _ordered(tile))
            find.below(bits_of(tile), bias, bound, least)
        found = (counts[row:], features[group:], pres[group:], overfull)
        shared_out(find.above, n, bits_of(tile), bias, bound, least, GROUP, most, *found, together=1)
        if overfull[0]:
            return None, None, None
    return counts, pres, features


def largest(product: Product, bias_F: Tensor, k: int, share: float) -> Entries | None:
    bias, (B, F) = bias_F.numpy(), product.shape
    if k > share * F:
        return None
    features, pres = np.empty((B, k), np.int32), np.empty((B, k), bias.dtype)
    counts = np.empty(B, np.int64)
    classes = min(F, max(MIN_CLASSES, 4 * k))
    for row, tile in product.tiles(GROUP):
        found = (features[row:], pres[row:], counts[row:])
        shared_out(find.largest, len(tile), bits_of(tile), bias, np.empty(0, _ordered(tile)), k, classes, *found)
    return packed(F, counts, 1, features, pres)


def largest_values(product: Product, bias_F: Tensor, n: int) -> Tensor:
    """Those above a bound that some rows suggest; if it was too high or far too low, by a histogram."""
    bias, (B, F) = bias_F.numpy(), product.shape
    whole = product.whole()  # it will be asked for again, for the entries
    bound = np.full(F, _suggested_bound(whole, bias_F, n), bias.dtype)
    counts, pres, _ = _above(product, bias, bound, min(GROUP * F, 8 * (n * GROUP // max(1, B) + GROUP)))
    if counts is None or counts.sum() < n:
        return _by_histogram(bits_of(whole), bias, n)
    in_group = np.add.reduceat(counts, np.arange(0, B, GROUP))
    return torch.from_numpy(np.concatenate([row[:m] for row, m in zip(pres, in_group, strict=True)]))


def _suggested_bound(product_BF: Tensor, bias_F: Tensor, n: int) -> float:
    """What twice as many values as wanted are likely to exceed, by every SAMPLED-th row; 0 if there are too few."""
    sample = (product_BF[::SAMPLED].to(bias_F.dtype) + bias_F).flatten()
    sample = sample[sample > 0].numpy()
    wanted = 2 * n // SAMPLED + SAMPLED
    return float(np.partition(sample, len(sample) - wanted)[len(sample) - wanted]) if wanted < len(sample) else 0.0


def _by_histogram(product: np.ndarray, bias: np.ndarray, n: int) -> Tensor:
    """By a histogram of the values' leading bits, then those that reach the bin that holds the n-th."""
    B = len(product)
    parts = np.zeros((-(-B // GROUP), 1 << 16), np.int64)
    shared_out(_histogram_of_group, len(parts), product, bias, parts, together=1)
    from_above = parts.sum(axis=0)[::-1].cumsum()
    bits = max(0, len(from_above) - 1 - int(np.searchsorted(from_above, n)))
    starts, nothing = np.zeros(B, np.int64), np.empty(0, bias.dtype)
    shared_out(find.gather_above, B, product, bias, bits, starts, nothing)
    out = np.empty(int(starts.sum()), bias.dtype)
    if len(out):
        shared_out(find.gather_above, B, product, bias, bits, starts.cumsum() - starts, out)
    return torch.from_numpy(out)


def decode(
    at: Entries, f_n: Tensor, W_dec: Tensor, yc_BO: Tensor, ends: Sequence[int], weight: float, keep_r: bool
) -> Decoded:
    B, wide = yc_BO.shape
    dtype = f_n.numpy().dtype
    g, squares = np.empty((len(ends), B, wide), dtype), np.empty((B, len(ends)), dtype)
    back_n, r = np.empty(len(f_n), dtype), np.empty((B if keep_r else 0, wide), dtype)
    shared_out(
        loops.decode, B, at.start_B.numpy(), at.feature_n.numpy(), f_n.numpy(), bits_of(W_dec), yc_BO.numpy(),
        np.array(ends), dtype.type(weight), squares, g, back_n, r,
    )  # fmt: skip
    found = map(torch.from_numpy, (squares, g, back_n))
    return Decoded(*found, torch.from_numpy(r) if keep_r else None)


def reconstruct(at: Entries, f_n: Tensor, W_dec: Tensor, ends: Sequence[int]) -> Tensor:
    parts = f_n.new_empty(len(ends), at.rows, W_dec.shape[1])
    lists = (t.numpy() for t in (at.start_B, at.feature_n, f_n))
    shared_out(loops.reconstruct, at.rows, *lists, bits_of(W_dec), np.array(ends), parts.numpy())
    return parts


def back(at: Entries, W_dec: Tensor, g_PBO: Sequence[Tensor], ends: Sequence[int]) -> Tensor:
    out = g_PBO[0].new_empty(len(at.feature_n))
    for which, g in enumerate(g_PBO):
        lo, hi = (0, *ends)[which], ends[which]
        lists = (t.numpy() for t in (at.start_B, at.feature_n))
        shared_out(loops.back, at.rows, *lists, bits_of(W_dec), g.numpy(), lo, hi, out.numpy())
    return out


def outer(at: Entries, v_n: Tensor, rows_BO: Tensor, out_FO: Tensor, first: int, last: int) -> None:
    lists = (t.numpy() for t in (at.start_F[first:], at.order_n, at.row_n, v_n))
    shared_out(loops.outer, last - first, *lists, bits_of(rows_BO), _ends(at), out_FO[first:].numpy())


def sum_F(at: Entries, v_n: Tensor) -> Tensor:
    out = v_n.new_empty(at.features)
    loops.sum_F(at.start_F.numpy(), at.order_n.numpy(), v_n.numpy(), _ends(at), out.numpy())
    return out


def _ends(at: Entries) -> np.ndarray:
    """Where the entries of each slot end."""
    return np.array([at.start_B[b] for b in at.slot_ends], np.int64)


def fired_F(at: Entries, v_n: Tensor) -> Tensor:
    out = torch.zeros(at.features, dtype=torch.bool)
    loops.fired_F(at.feature_n.numpy(), v_n.numpy(), out.numpy())
    return out


def spread(rows_BO: Tensor) -> Tensor:
    groups = -(-len(rows_BO) // GROUP)
    sums, squares = np.zeros((groups, rows_BO.shape[1])), np.zeros(groups)
    shared_out(loops.spread, groups, rows_BO.numpy(), sums, squares, together=1)
    total = squares.sum() - np.square(sums.sum(axis=0)).sum() / max(1, len(rows_BO))
    return torch.tensor(total).to(rows_BO.dtype)


def sum_B(at: Entries, v_n: Tensor) -> Tensor:
    out = v_n.new_empty(at.rows)
    loops.sum_B(at.start_B.numpy(), v_n.numpy(), out.numpy())
    return out


def adam(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor,
    step: int, lr: float, beta1: float, beta2: float, eps: float, unit: bool,
) -> None:  # fmt: skip
    kind = param.numpy().dtype.type
    numbers = (lr / (1 - beta1**step), 1 - beta1, beta1, 1 - beta2, beta2, (1 - beta2**step) ** 0.5, eps)
    arrays = (t.numpy() for t in (param, grad, m, v))
    shared_out(loops.adam, len(param), *arrays, *map(kind, numbers), unit)


def _histogram_of_group(product, bias, parts, lo, hi) -> None:
    for group in range(lo, hi):
        find.histogram(product, bias, parts[group], group * GROUP, min(len(product), (group + 1) * GROUP))


def bits_of(t: Tensor) -> np.ndarray:
    """A tensor for numpy, which has no bfloat16: its bits."""
    return (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy()


def _ordered(t: Tensor) -> np.dtype:
    """What `numba_find.ordered` makes of a tensor's numbers."""
    return np.dtype(np.int16) if t.dtype == torch.bfloat16 else t.numpy().dtype


def packed(F: int, counts: np.ndarray, group_rows: int, features: np.ndarray, pres: np.ndarray) -> Entries:
    start_B = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    n = int(start_B[-1])
    feature_n, row_n = (np.empty(n, np.int64) for _ in range(2))
    pre_n = np.empty(n, pres.dtype)
    loops.pack(group_rows, start_B, features, pres, feature_n, row_n, pre_n, 0, len(features))
    return Entries(*map(torch.from_numpy, (start_B, feature_n, row_n, pre_n)), F, sys.modules[__name__])


def by_feature(feature_n: Tensor, features: int) -> tuple[Tensor, Tensor]:
    start_F, order_n = np.zeros(features + 1, np.int64), np.empty(len(feature_n), np.int64)
    loops.by_feature(feature_n.numpy(), start_F, order_n)
    return torch.from_numpy(start_F), torch.from_numpy(order_n)
