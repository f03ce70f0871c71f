"""The sparse step's kernels for CUDA, in Triton: what `plain.py` says, in float32, with the same bits on every call.

Entries are found in two passes over the encoder's product, one that counts and one that writes, so that no matrix
[rows, features] is made beside it. Top-k needs no sort of a row: the k-th largest of the maxima of a row's segments
is a bound that at least k values reach and few others do, and the k largest are chosen among those.

Shape letters: B rows, F features, O width of the output, n entries, P nested prefixes, S segments of a row.
"""

import sys
from collections.abc import Callable, Sequence

import torch
import triton
from torch import Tensor
from torch.nn.functional import pad

from monosem.sae.kernels import triton_kernels as programs
from monosem.sae.kernels.entries import Decoded, Entries
from monosem.sae.kernels.plain import GROUP, SLOTS_TOGETHER, back, capacity, reconstruct
from monosem.sae.products import Product

__all__ = ["GROUP", "above", "adam", "capacity", "decode", "encode_above", "largest", "largest_values"]
__all__ += ["SLOTS_TOGETHER", "back", "by_feature", "fired_F", "outer", "reconstruct", "spread", "sum_B", "sum_F"]
__all__ += ["total"]

BLOCK = 1024
"""Features of a row that a program looks at together. Like the others here a power of two."""
COLUMNS = 2048
"""Columns that a program of `decode` holds at most; `outer` takes a quarter, its programs being fewer and longer."""
CHUNK = 32
"""Entries of one feature that are summed together."""
PIECE, SPAN = 128, 64
"""Features that are counted together, and how many times as many one program writes the entries of."""
TILE = 8192
"""Elements of several rows that a program holds at a time."""
LISTED = 256
"""Numbers of a list that a program looks at together."""
PRODUCT = (128, 128, 64)
"""Rows, features and inputs of a block of `encode_above`'s product."""
SEGMENTS = 4
"""Segments of a row per value wanted of it: the more there are, the fewer values reach the bound for nothing."""


def above(product: Product, bias_F: Tensor, bound_F: Tensor, share: float) -> Entries | None:
    """Entries where product + bias > bound; None if any group of rows has more than `share` of its features active.

    With a `Room` of some size neither is asked: what does not fit shows there.
    """
    product_BF, most = product.whole(), capacity(product.shape[1], share)
    bound_BF = bound_F.expand(product_BF.shape)
    counts = _count(product_BF, bias_F, bound_BF, None)
    start, start_B = _span_starts(counts)
    room = product.expected
    if room is not None and room.size is not None:
        room.note(start_B[-1], _fullest(start_B) <= most)
        start_B = start_B.clamp(max=room.size)
        written = _write(product_BF, bias_F, bound_BF, counts, start, room.size, padded=True)
        return _entries(start_B, *written, product_BF.shape[1], start_B[-1])
    fullest, n = torch.stack([_fullest(start_B), start_B[-1]]).tolist()
    if fullest > most:
        return None
    if room is not None:
        room.last = max(room.last, n)
    return _entries(start_B, *_write(product_BF, bias_F, bound_BF, counts, start, n), product_BF.shape[1])


def encode_above(x_BD: Tensor, W_enc_FD: Tensor, bias_F: Tensor, bound_F: Tensor, share: float) -> Entries | None:
    """`above` of the product x W_enc^T, of which no matrix [rows, features] is made but one of single bits.

    x_BD, W_enc_FD   bfloat16
    pre_n            is multiplied out again at the entries: the sum's order is another one than the bits were found
                     by, so that an entry can lie at or below its bound by an error of rounding
    """
    (B, D), F = x_BD.shape, len(W_enc_FD)
    blocks = triton.cdiv(F, PRODUCT[1])
    words = blocks * PRODUCT[1] // 32
    bits, counts = (torch.empty(B, n, dtype=torch.int32, device=bias_F.device) for n in (words, blocks))
    _launch(
        programs.encode_bits, (triton.cdiv(B, PRODUCT[0]), blocks), x_BD, W_enc_FD, bias_F, bound_F, bits, counts,
        B, F, D, words, blocks, *x_BD.stride(), *W_enc_FD.stride(),
        ROWS=PRODUCT[0], FEATURES=PRODUCT[1], INPUTS=PRODUCT[2], num_warps=8, num_stages=3,
    )  # fmt: skip
    start_B = _starts(counts.sum(dim=1))
    fullest, n = torch.stack([_fullest(start_B), start_B[-1]]).tolist()
    if fullest > capacity(F, share):
        return None
    feature_n, row_n, pre_n = _room(n, n, bias_F)
    per = max(1, BLOCK // PRODUCT[1])
    _launch(
        programs.write_bits, (B,), bits, counts, start_B, feature_n, row_n, words, blocks,
        BLOCK=per * PRODUCT[1], PER=per,
    )  # fmt: skip
    block, _, tile = _tiling(D, COLUMNS)
    _launch(
        programs.back_rows, (B,), start_B, feature_n, W_enc_FD, x_BD.contiguous(), pre_n, B, D, 1, *W_enc_FD.stride(),
        P=1, BLOCK=block, TILE=tile,
    )  # fmt: skip
    return _entries(start_B, feature_n, row_n, pre_n.add_(bias_F[feature_n]), F)


def largest(product: Product, bias_F: Tensor, k: int, share: float) -> Entries | None:
    """Entries of the k <= F largest of product + bias in each row, if above zero; None if k is too large a share."""
    B, F = product.shape
    if k > share * F:
        return None
    product_BF, room = product.whole(), product.expected
    width = _width(F, k)
    maxima_BS = _maxima(product_BF, bias_F, width)
    S = maxima_BS.shape[1]
    kth_B = _kth(maxima_BS, torch.arange(B + 1, device=bias_F.device) * S, k)
    bound_BF = _below(kth_B)[:, None].expand(B, F)
    counts = _count(product_BF, bias_F, bound_BF, maxima_BS, width)
    start, start_c = _span_starts(counts)
    padded = room is not None and room.size is not None
    if padded:
        room.note(start_c[-1])
        n_c, n = room.size, B * k
        start_c = start_c.clamp(max=n_c)
    start_B = _starts(start_c.diff().clamp(max=k))
    if not padded:
        n_c, n = torch.stack([start_c[-1], start_B[-1]]).tolist()
        if room is not None:
            room.last = max(room.last, n_c)
    feature_c, _, pre_c = _write(product_BF, bias_F, bound_BF, counts, start, n_c, padded=padded)
    feature_n, row_n, pre_n = _room(n, n, bias_F, padded)
    _launch(
        programs.keep_largest, (B,), feature_c, pre_c, start_c, _kth(pre_c, start_c, k), start_B,
        feature_n, row_n, pre_n, k, BLOCK=LISTED,
    )  # fmt: skip
    return _entries(start_B, feature_n, row_n, pre_n, F, start_B[-1] if padded else None)


def largest_values(product: Product, bias_F: Tensor, n: int) -> Tensor:
    """The n largest of product + bias that are above zero, in any order, and perhaps some that are smaller."""
    product_BF = product.whole()
    B, F = product_BF.shape
    width = _width(F, triton.cdiv(n, max(B, 1)))
    maxima_BS = _maxima(product_BF, bias_F, width)
    least = bias_F.new_zeros(())
    if maxima_BS.numel() > n > 0:
        least = maxima_BS.flatten().topk(n, sorted=False).values.amin()
    bound_BF = _below(least.view(torch.int32)).expand(B, F)
    counts = _count(product_BF, bias_F, bound_BF, maxima_BS, width)
    start, _ = _span_starts(counts)
    return _write(product_BF, bias_F, bound_BF, counts, start, int(start[-1]), places=False)[2]


def decode(
    at: Entries, f_n: Tensor, W_dec: Tensor, yc_BO: Tensor, ends: Sequence[int], weight: float, keep_r: bool
) -> Decoded:
    """x_hat - y of every prefix, and the gradient of  weight/2 * (sum over prefixes of squares)  from there."""
    (B, width), P = yc_BO.shape, len(ends)
    block, blocks, tile = _tiling(width, COLUMNS)
    shape = {"P": P, "BLOCK": block, "TILE": min(4, tile), "num_warps": max(2, _warps(block) // 2)}
    at_once = P == 1 and blocks == 1
    squares = yc_BO.new_empty(P, B * blocks)
    g_PBO, back_n = yc_BO.new_empty(P, B, width), torch.empty_like(f_n)
    r_BO = torch.empty_like(g_PBO[0]) if keep_r else None
    cut, cut_b = _cuts(at, ends)
    _launch(
        programs.decode_rows, (B, blocks), cut, at.feature_n, f_n, W_dec, yc_BO, squares, g_PBO,
        g_PBO if r_BO is None else r_BO, back_n, weight, B, width, cut_b, *W_dec.stride(), *yc_BO.stride(),
        KEEP=keep_r, BACK=at_once, **shape,
    )  # fmt: skip
    if not at_once:
        _launch(
            programs.back_rows, (B,), cut, at.feature_n, W_dec, g_PBO, back_n, B, width, cut_b, *W_dec.stride(),
            **shape,
        )  # fmt: skip
    return Decoded(squares.view(P, B, blocks).sum(dim=2).T, g_PBO, back_n, r_BO)


def outer(at: Entries, v_n: Tensor, rows_BO: Tensor, out_FO: Tensor, first: int, last: int) -> None:
    """out[f] = sum over f's entries of v * (the entry's row of rows_BO), for features first to last.

    A feature that is active in many rows would keep one program busy when all others have ended: its entries are
    summed in chunks, side by side.
    """
    width, n = rows_BO.shape[1], len(v_n)
    block, blocks, tile = _tiling(width, COLUMNS // 4)
    chunks = rows_BO.new_empty(n // CHUNK, width, dtype=v_n.dtype)
    shape = {"CHUNK": CHUNK, "BLOCK": block, "TILE": min(8, tile), "num_warps": 2}
    _launch(
        programs.outer_chunks, (len(chunks), blocks), at.order_n, at.feature_n, at.row_n, v_n, rows_BO, chunks,
        first, last, width, *rows_BO.stride(), **shape,
    )  # fmt: skip
    _launch(
        programs.outer_rows, (last - first, blocks), at.start_F, at.order_n, at.row_n, v_n, rows_BO, chunks, out_FO,
        first, width, *rows_BO.stride(), *out_FO.stride(), **shape,
    )  # fmt: skip


def sum_F(at: Entries, v_n: Tensor) -> Tensor:
    """v summed over each feature's entries, [F]."""
    return _sums(at.start_F, at.order_n, v_n)


def fired_F(at: Entries, v_n: Tensor) -> Tensor:
    """Features with v above zero at one of their entries. bool [F]"""
    fired = torch.zeros(at.features + 1, dtype=torch.bool, device=v_n.device)
    fired.scatter_(0, torch.where(v_n > 0, at.feature_n, at.features), True)  # the one after the last is nobody's
    return fired[: at.features]


def total(at: Entries, v_n: Tensor) -> Tensor:
    """All of v, by rows: whatever follows the entries does not show."""
    return sum_B(at, v_n).sum()


def sum_B(at: Entries, v_n: Tensor) -> Tensor:
    """v summed over each row's entries, [B]."""
    return _sums(at.start_B, None, v_n)


def spread(rows_BO: Tensor) -> Tensor:
    """Squared distances of the rows from their mean, summed, a scalar. In float64, of which no matrix is made."""
    squares = torch.linalg.vector_norm(rows_BO, dtype=torch.float64).square()
    return (squares - rows_BO.sum(dim=0, dtype=torch.float64).square().sum() / max(1, len(rows_BO))).to(rows_BO.dtype)


def adam(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor,
    step: int, lr: float, beta1: float, beta2: float, eps: float, unit: bool,
    numbers: Tensor | None = None, ok: Tensor | None = None,
) -> None:  # fmt: skip
    """Step `step` (from 1) of Adam in place, all tensors of one dense layout; `unit`: rows of [rows, columns].

    numbers   `adam_numbers` on the device, which then count
    ok        int32 [1] on the device; 0: nothing is done
    """
    tensors = (param, grad, m, v)
    assert len({t.stride() for t in tensors}) == 1 and (param.is_contiguous() or param.T.is_contiguous())
    if numbers is None:
        numbers = torch.tensor(adam_numbers(step, lr, beta1, beta2, eps), device=param.device)
    ok = torch.ones(1, dtype=torch.int32, device=param.device) if ok is None else ok
    if unit:
        rows, columns = param.shape
        block = triton.next_power_of_2(columns)
        _launch(
            programs.adam_rows, (rows,), *tensors, numbers, ok, columns, *param.stride(), BLOCK=block,
            num_warps=_warps(block),
        )  # fmt: skip
    else:
        size = param.numel()
        _launch(programs.adam_elements, (triton.cdiv(size, BLOCK),), *tensors, numbers, ok, size, BLOCK=BLOCK)


def adam_numbers(step: int, lr: float, beta1: float, beta2: float, eps: float) -> list[float]:
    """What Adam's programs need of a step."""
    return [lr / (1 - beta1**step), (1 - beta2**step) ** 0.5, 1 - beta1, 1 - beta2, eps]


def _launch(program: Callable, grid: tuple[int, ...], *arguments: object, **constants: object) -> None:
    """Run a program on the device of its first argument; nothing to do for an empty grid.

    Whether a * b + c is rounded once or twice is said here, for Triton's default changes with its versions.
    """
    if all(grid):
        with torch.cuda.device_of(arguments[0]):
            program[grid](*arguments, enable_fp_fusion=True, **constants)


def _sums(start: Tensor, order_n: Tensor | None, v_n: Tensor) -> Tensor:
    """v summed over each list of entries, start[i] to start[i + 1], of `order_n` if there is one."""
    out = v_n.new_empty(len(start) - 1)
    _launch(
        programs.sum_lists, (len(out),), start, start if order_n is None else order_n, v_n, out,
        ORDERED=order_n is not None, BLOCK=LISTED, num_warps=1,
    )  # fmt: skip
    return out


def _width(features: int, k: int) -> int:
    """Features in a segment, so that a row has some SEGMENTS * k segments if it has so many features."""
    return min(BLOCK, 1 << (max(1, features // (SEGMENTS * max(k, 1))).bit_length() - 1))


def _maxima(product_BF: Tensor, bias_F: Tensor, width: int) -> Tensor:
    """The largest pre-activation of each segment of a row, [B, S]."""
    B, F = product_BF.shape
    maxima_BS = bias_F.new_empty(B, triton.cdiv(F, width))
    _launch(
        programs.segment_maxima, (B,), product_BF, bias_F, maxima_BS, F, maxima_BS.shape[1], *product_BF.stride(),
        WIDTH=width, PER=BLOCK // width,
    )  # fmt: skip
    return maxima_BS


def _count(product_BF: Tensor, bias_F: Tensor, bound_BF: Tensor, maxima_BS: Tensor | None, width: int = 0) -> Tensor:
    """How many of each piece of the features are above the bound, int32 [B, spans, SPAN].

    maxima_BS   of segments of `width`, for a bound that is one number per row
    """
    B, F = product_BF.shape
    pieces = triton.cdiv(F, PIECE)
    span = min(SPAN, triton.next_power_of_2(max(1, pieces)))
    counts = torch.empty(B, triton.cdiv(pieces, span), span, dtype=torch.int32, device=bias_F.device)
    per, maxima_BS = (0, counts) if maxima_BS is None else (BLOCK // width, maxima_BS)
    _launch(
        programs.count_pieces, (B,), product_BF, bias_F, bound_BF, maxima_BS, counts, F, maxima_BS.shape[1],
        counts[0].numel() if B else 0, *product_BF.stride(), *bound_BF.stride(), BLOCK=BLOCK, PIECE=PIECE, PER=per,
    )  # fmt: skip
    return counts


def _span_starts(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Where the entries of each span of a row begin, [B * spans + 1], and those of each row, [B + 1]."""
    start = _starts(counts.sum(dim=2).flatten())
    return start, start[:: counts.shape[1]].contiguous()


def _write(
    product_BF: Tensor, bias_F: Tensor, bound_BF: Tensor, counts: Tensor, start: Tensor, n: int,
    places: bool = True, padded: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Features, rows and pre-activations of the first n that were counted.

    places   without them the pre-activations alone are of use
    padded   there may be fewer than n: zeros follow them
    """
    feature_n, row_n, pre_n = _room(n if places else 0, n, bias_F, padded)
    B, spans, span = counts.shape
    _launch(
        programs.write_pieces, (B, spans), product_BF, bias_F, bound_BF, counts, start, feature_n, row_n, pre_n,
        product_BF.shape[1], n, *product_BF.stride(), *bound_BF.stride(),
        PIECE=PIECE, SPAN=span, PLACES=places, num_warps=1,
    )  # fmt: skip
    return feature_n, row_n, pre_n


def _room(places: int, values: int, bias_F: Tensor, padded: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    make = torch.zeros if padded else torch.empty
    feature_n, row_n = (make(places, dtype=torch.int64, device=bias_F.device) for _ in range(2))
    return feature_n, row_n, make(values, dtype=bias_F.dtype, device=bias_F.device)


def _kth(values: Tensor, start: Tensor, k: int) -> Tensor:
    """Bits of the k-th largest value of each list from start[b] to start[b + 1], 0 if fewer are above zero. int32"""
    kth = torch.empty(len(start) - 1, dtype=torch.int32, device=values.device)
    _launch(programs.kth_largest, (len(kth),), values, start, kth, k, BLOCK=LISTED)
    return kth


def _below(bits: Tensor) -> Tensor:
    """The float before the one with these bits, not less than zero: what is above it is at least that one."""
    return (bits - 1).clamp(min=0).view(torch.float32)


def _starts(counts: Tensor) -> Tensor:
    return pad(counts.cumsum(0), (1, 0))


def _fullest(start_B: Tensor) -> Tensor:
    """Most entries that a group of rows has."""
    return torch.cat([start_B[::GROUP], start_B[-1:]]).diff().amax()


def _entries(
    start_B: Tensor, feature_n: Tensor, row_n: Tensor, pre_n: Tensor, features: int, count: Tensor | None = None
) -> Entries:
    return Entries(start_B, feature_n, row_n, pre_n, features, sys.modules[__name__], count=count)


def by_feature(feature_n: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """By the stable sort, so by row within a feature."""
    sorted_n, order_n = feature_n.int().sort(stable=True)
    every_F = torch.arange(features + 1, dtype=torch.int32, device=feature_n.device)
    return torch.searchsorted(sorted_n, every_F), order_n


def _cuts(at: Entries, ends: Sequence[int]) -> tuple[Tensor, int]:
    """Where in each row's entries the prefixes begin and end, and the step from row to row."""
    if len(ends) == 1:
        return at.start_B, 1
    key_n = at.row_n * at.features + at.feature_n  # rises with n
    begins_B = torch.arange(at.rows, device=key_n.device) * at.features
    inner = begins_B[:, None] + torch.tensor(ends[:-1], device=key_n.device)
    cut = torch.cat([at.start_B[:-1, None], torch.searchsorted(key_n, inner), at.start_B[1:, None]], dim=1)
    return cut, cut.shape[1]


def _tiling(columns: int, most: int) -> tuple[int, int, int]:
    """Columns per program, programs per row, and rows that a program takes at a time."""
    block = min(triton.next_power_of_2(columns), most)
    return block, triton.cdiv(columns, block), min(16, TILE // block)


def _warps(elements: int) -> int:
    """Warps for a program that holds so many elements at a time."""
    return min(16, max(1, elements // 256))
