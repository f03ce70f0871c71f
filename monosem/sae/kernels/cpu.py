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

from monosem.sae.kernels import numba_loops as loops
from monosem.sae.kernels.entries import Decoded, Entries
from monosem.sae.kernels.plain import GROUP, capacity

TOGETHER = 16
"""Rows or features that a thread takes at a time: few enough to share evenly, enough for a call to cost nothing."""


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="monosem-kernels")


def shared_out(loop: Callable, n: int, *arguments: object, together: int = TOGETHER) -> None:
    """loop(*arguments, lo, hi) for ranges that make up n, by as many threads as torch uses."""
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


def above(product_BF: Tensor, bias_F: Tensor, bound_F: Tensor, share: float) -> Entries | None:
    product, bias = _bits(product_BF), bias_F.numpy()
    B, F = product.shape
    groups, most = -(-B // GROUP), capacity(F, share)
    features = np.empty((groups, most + loops.BLOCK), np.int32)
    pres = np.empty((groups, most + loops.BLOCK), bias.dtype)
    counts, overfull = np.zeros(B, np.int64), np.zeros(1, np.bool_)
    bound = np.ascontiguousarray(bound_F.expand(F).numpy())
    shared_out(
        loops.above, groups, product, bias, bound, GROUP, most, counts, features, pres, overfull, together=1
    )
    return None if overfull[0] else _packed(F, counts, GROUP, features, pres)


def largest(product_BF: Tensor, bias_F: Tensor, k: int, share: float) -> Entries | None:
    product, bias = _bits(product_BF), bias_F.numpy()
    B, F = product.shape
    if k * min(B, GROUP) > capacity(F, share):
        return None
    features, pres = np.empty((B, k), np.int32), np.empty((B, k), bias.dtype)
    counts = np.empty(B, np.int64)
    shared_out(loops.largest, B, product, bias, k, features, pres, counts)
    return _packed(F, counts, 1, features, pres)


def largest_values(product_BF: Tensor, bias_F: Tensor, n: int) -> Tensor:
    """By a histogram of the values' leading bits, then those that reach its bin with the n-th."""
    product, bias = _bits(product_BF), bias_F.numpy()
    B = len(product)
    parts = np.zeros((-(-B // GROUP), 1 << 16), np.int64)
    shared_out(_histogram_of_group, len(parts), product, bias, parts, together=1)
    from_above = parts.sum(axis=0)[::-1].cumsum()
    bits = max(0, len(from_above) - 1 - int(np.searchsorted(from_above, n)))
    starts, nothing = np.zeros(B, np.int64), np.empty(0, bias.dtype)
    shared_out(loops.gather_above, B, product, bias, bits, starts, nothing)
    out = np.empty(int(starts.sum()), bias.dtype)
    if len(out):
        shared_out(loops.gather_above, B, product, bias, bits, starts.cumsum() - starts, out)
    return torch.from_numpy(out)


def decode(
    at: Entries, f_n: Tensor, W_dec: Tensor, yc_BO: Tensor, ends: Sequence[int], weight: float, keep_r: bool
) -> Decoded:
    B, O = yc_BO.shape
    dtype = W_dec.numpy().dtype
    g, squares = np.empty((len(ends), B, O), dtype), np.empty((B, len(ends)), dtype)
    back_n, r = np.empty(len(f_n), dtype), np.empty((B if keep_r else 0, O), dtype)
    shared_out(
        loops.decode, B, at.start_B.numpy(), at.feature_n.numpy(), f_n.numpy(), W_dec.numpy(), yc_BO.numpy(),
        np.array(ends), dtype.type(weight), squares, g, back_n, r,
    )  # fmt: skip
    found = map(torch.from_numpy, (squares, g, back_n))
    return Decoded(*found, torch.from_numpy(r) if keep_r else None)


def outer(at: Entries, v_n: Tensor, rows_BO: Tensor, out_FO: Tensor, first: int, last: int) -> None:
    shared_out(
        loops.outer, last - first, at.start_F[first:].numpy(), at.order_n.numpy(), at.row_n.numpy(), v_n.numpy(),
        rows_BO.numpy(), out_FO[first:].numpy(),
    )  # fmt: skip


def sum_F(at: Entries, v_n: Tensor) -> Tensor:
    out = v_n.new_empty(at.features)
    loops.sum_F(at.start_F.numpy(), at.order_n.numpy(), v_n.numpy(), out.numpy())
    return out


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
        loops.histogram(product, bias, parts[group], group * GROUP, min(len(product), (group + 1) * GROUP))


def _bits(product_BF: Tensor) -> np.ndarray:
    """The product for numpy, which has no bfloat16: its bits."""
    if product_BF.dtype == torch.bfloat16:
        product_BF = product_BF.view(torch.uint16)
    return product_BF.numpy()


def _packed(F: int, counts: np.ndarray, group_rows: int, features: np.ndarray, pres: np.ndarray) -> Entries:
    start_B = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    n = int(start_B[-1])
    feature_n, row_n, order_n = (np.empty(n, np.int64) for _ in range(3))
    pre_n, start_F = np.empty(n, pres.dtype), np.zeros(F + 1, np.int64)
    loops.pack(group_rows, start_B, features, pres, feature_n, row_n, pre_n, 0, len(features))
    loops.by_feature(feature_n, start_F, order_n)
    arrays = (start_B, feature_n, row_n, pre_n, start_F, order_n)
    return Entries(*map(torch.from_numpy, arrays), kernels=sys.modules[__name__])
