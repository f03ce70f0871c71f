"""The programs that `gpu.py` launches. No atomics: each program owns what it writes, and sums in one fixed order.

Pointers are named after what they point to. Matrices come with both strides, x_b and x_f for the step to the next row
and to the next column. Upper-case names are settled when a program is compiled.

Shape letters: B rows, F features, n entries, P nested prefixes, S segments of a row.
"""

import triton
import triton.language as tl


@triton.jit
def pre_block(product, bias, row, at, wanted, product_b, product_f):
    """Pre-activations at some features of a row, in the bias's type; minus infinity where not wanted."""
    value = tl.load(product + row * product_b + at.to(tl.int64) * product_f, mask=wanted, other=0.0)
    return value.to(bias.dtype.element_ty) + tl.load(bias + at, mask=wanted, other=float("-inf"))


@triton.jit
def segment_maxima(product, bias, maxima, F, S, product_b, product_f, WIDTH: tl.constexpr, PER: tl.constexpr):
    """The largest pre-activation of every WIDTH features of a row, [B, S]. One program per row, PER segments a time."""
    row = tl.program_id(0).to(tl.int64)
    for block in range(tl.cdiv(F, WIDTH * PER)):
        at = block * WIDTH * PER + tl.arange(0, WIDTH * PER)
        pre = pre_block(product, bias, row, at, at < F, product_b, product_f)
        segment = block * PER + tl.arange(0, PER)
        tl.store(maxima + row * S + segment, tl.max(tl.reshape(pre, (PER, WIDTH)), axis=1), mask=segment < S)


@triton.jit
def count_pieces(
    product, bias, bound, maxima, counts, F, S, pieces, product_b, product_f, bound_b,
    bound_f: tl.constexpr, BLOCK: tl.constexpr, PIECE: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """How many of every PIECE pre-activations of a row are above the bound, [B, pieces]. One program per row.

    pieces   those beyond the last feature have none
    PER      segments of `maxima` in a block, of which none may be above the bound: then it is not read. 0: no maxima
    """
    row = tl.program_id(0).to(tl.int64)
    for block in range(tl.cdiv(pieces * PIECE, BLOCK)):
        at = block * BLOCK + tl.arange(0, BLOCK)
        end = F
        if PER > 0:
            segment = block * PER + tl.arange(0, PER)
            peak = tl.max(tl.load(maxima + row * S + segment, mask=segment < S, other=float("-inf")), axis=0)
            end = tl.where(peak > tl.load(bound + row * bound_b), F, 0)
        wanted = at < end
        pre = pre_block(product, bias, row, at, wanted, product_b, product_f)
        if bound_f == 0:
            least = tl.load(bound + row * bound_b)
        else:
            least = tl.load(bound + row * bound_b + at * bound_f, mask=wanted, other=0.0)
        above = tl.reshape((pre > least).to(tl.int32), (BLOCK // PIECE, PIECE))
        piece = block * (BLOCK // PIECE) + tl.arange(0, BLOCK // PIECE)
        tl.store(counts + row * pieces + piece, tl.sum(above, axis=1), mask=piece < pieces)


@triton.jit
def write_pieces(
    product, bias, bound, counts, start, feature_n, row_n, pre_n, F, room, product_b, product_f, bound_b,
    bound_f: tl.constexpr, PIECE: tl.constexpr, SPAN: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """What `count_pieces` counted, by row and feature. One program for SPAN pieces of a row; empty ones are not read.

    start    where each span's entries begin, [B * spans]
    room     what comes after so many entries is not written
    PLACES   write features and rows beside the values
    """
    row = tl.program_id(0).to(tl.int64)
    span = row * tl.num_programs(1) + tl.program_id(1)
    first = tl.load(start + span)
    piece = tl.arange(0, SPAN)
    filled = (tl.load(counts + span * SPAN + piece) > 0).to(tl.int32)
    rank = tl.cumsum(filled, axis=0)
    for n in range(tl.sum(filled, axis=0)):
        which = tl.sum(tl.where((rank == n + 1) & (filled > 0), piece, 0), axis=0)
        at = (tl.program_id(1) * SPAN + which) * PIECE + tl.arange(0, PIECE)
        pre = pre_block(product, bias, row, at, at < F, product_b, product_f)
        if bound_f == 0:
            least = tl.load(bound + row * bound_b)
        else:
            least = tl.load(bound + row * bound_b + at * bound_f, mask=at < F, other=0.0)
        above = (pre > least).to(tl.int32)
        place = first + tl.cumsum(above, axis=0) - 1
        there = (above > 0) & (place < room)
        tl.store(pre_n + place, pre, mask=there)
        if PLACES:
            tl.store(feature_n + place, at.to(tl.int64), mask=there)
            tl.store(row_n + place, tl.zeros_like(at).to(tl.int64) + row, mask=there)
        first += tl.sum(above, axis=0)


@triton.jit
def encode_bits(
    x, W_enc, bias, bound, bits, counts, B, F, D, words, blocks, x_b, x_d, W_f, W_d,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """A block of the encoder's product, of which only this is kept: is x W^T + bias above the bound, in single bits.

    bits     int32 [B, words]: bit i of word w is feature 32 w + i
    counts   int32 [B, blocks]: how many are set, for every FEATURES features
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # row blocks in turn, so that they share W_enc's block
    feature = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    x += row.to(tl.int64)[:, None] * x_b
    W_enc += feature.to(tl.int64)[None, :] * W_f
    pre = tl.zeros((ROWS, FEATURES), tl.float32)
    for first in range(0, D, INPUTS):
        d = (first + tl.arange(0, INPUTS)).to(tl.int64)
        left = tl.load(x + d[None, :] * x_d, mask=(row < B)[:, None] & (d < D)[None, :], other=0.0)
        right = tl.load(W_enc + d[:, None] * W_d, mask=(d < D)[:, None] & (feature < F)[None, :], other=0.0)
        pre = tl.dot(left, right, pre)
    pre += tl.load(bias + feature, mask=feature < F, other=float("-inf"))[None, :]
    above = (pre > tl.load(bound + feature, mask=feature < F, other=0.0)[None, :]).to(tl.int32)
    row = row.to(tl.int64)
    tl.store(counts + row * blocks + tl.program_id(1), tl.sum(above, axis=1), mask=row < B)
    word = tl.program_id(1) * (FEATURES // 32) + tl.arange(0, FEATURES // 32)
    shifted = tl.reshape(above << (feature % 32)[None, :], (ROWS, FEATURES // 32, 32))
    tl.store(bits + row[:, None] * words + word[None, :], tl.sum(shifted, axis=2), mask=(row < B)[:, None])


@triton.jit
def write_bits(
    bits, counts, start, feature_n, row_n, words, blocks, BLOCK: tl.constexpr, PER: tl.constexpr
):  # fmt: skip
    """Features and rows of the bits that are set, by row and feature. One program per row; PER counts go to a BLOCK."""
    row = tl.program_id(0).to(tl.int64)
    first = tl.load(start + row)
    for block in range(tl.cdiv(blocks, PER)):
        part = block * PER + tl.arange(0, PER)
        n = tl.sum(tl.load(counts + row * blocks + part, mask=part < blocks, other=0), axis=0)
        if n > 0:
            at = block * BLOCK + tl.arange(0, BLOCK)
            there = at // 32 < words
            above = tl.load(bits + row * words + at // 32, mask=there, other=0) >> (at % 32) & 1
            place = first + tl.cumsum(above, axis=0) - 1
            tl.store(feature_n + place, at.to(tl.int64), mask=above > 0)
            tl.store(row_n + place, tl.zeros_like(at).to(tl.int64) + row, mask=above > 0)
        first += n


@triton.jit
def kth_largest(values, start, kth, k, BLOCK: tl.constexpr):
    """Bits of the k-th largest value of each list values[start[b] : start[b + 1]]; 0 if fewer are above zero.

    As integers the bits of floats above zero have the floats' order, so the answer is found bit by bit, by counting.
    """
    row = tl.program_id(0).to(tl.int64)
    lo = tl.load(start + row)
    hi = tl.load(start + row + 1)
    found = tl.full((), 0, tl.int32)
    for step in range(31):
        tried = found | (1 << (30 - step))
        count = tl.full((), 0, tl.int32)
        for first in range(lo, hi, BLOCK):
            n = first + tl.arange(0, BLOCK)
            bits = tl.load(values + n, mask=n < hi, other=0.0).to(tl.int32, bitcast=True)
            count += tl.sum((bits >= tried).to(tl.int32), axis=0)
        found = tl.where(count >= k, tried, found)
    tl.store(kth + row, found)


@triton.jit
def keep_largest(
    feature_c, pre_c, start_c, kth, start_B, feature_n, row_n, pre_n, k, BLOCK: tl.constexpr
):  # fmt: skip
    """Of each row's candidates those above its k-th largest, and of those equal to it the first ones, k in all."""
    row = tl.program_id(0).to(tl.int64)
    lo = tl.load(start_c + row)
    hi = tl.load(start_c + row + 1)
    least = tl.load(kth + row)
    room = tl.full((), k, tl.int32)
    for first in range(lo, hi, BLOCK):
        n = first + tl.arange(0, BLOCK)
        bits = tl.load(pre_c + n, mask=n < hi, other=0.0).to(tl.int32, bitcast=True)
        room -= tl.sum((bits > least).to(tl.int32), axis=0)
    out = tl.load(start_B + row)
    for first in range(lo, hi, BLOCK):
        n = first + tl.arange(0, BLOCK)
        pre = tl.load(pre_c + n, mask=n < hi, other=0.0)
        bits = pre.to(tl.int32, bitcast=True)
        equal = ((bits == least) & (n < hi)).to(tl.int32)
        kept = (bits > least) | ((equal > 0) & (tl.cumsum(equal, axis=0) <= room))
        room -= tl.sum(equal, axis=0)
        place = out + tl.cumsum(kept.to(tl.int32), axis=0) - 1
        tl.store(pre_n + place, pre, mask=kept)
        tl.store(feature_n + place, tl.load(feature_c + n, mask=kept, other=0), mask=kept)
        tl.store(row_n + place, tl.zeros_like(n) + row, mask=kept)
        out += tl.sum(kept.to(tl.int32), axis=0)


@triton.jit
def add_rows(
    total, lo, hi, order, which, weight, matrix, column, inside, matrix_b, matrix_f,
    ORDERED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """total + sum of weight * matrix[which] over entries lo to hi, TILE at a time; ORDERED: entries order[lo : hi]."""
    for first in range(lo, hi, TILE):
        n = first + tl.arange(0, TILE)
        there = n < hi
        if ORDERED:
            n = tl.load(order + n, mask=there, other=0)
        row = tl.load(which + n, mask=there, other=0)
        scale = tl.load(weight + n, mask=there, other=0.0)
        at = matrix + row[:, None] * matrix_b + column[None, :].to(tl.int64) * matrix_f
        total += tl.sum(scale[:, None] * tl.load(at, mask=there[:, None] & inside[None, :], other=0.0), axis=0)
    return total


@triton.jit
def decode_rows(
    cut, feature_n, f_n, W_dec, y, squares, g, r_BO, back_n, weight, B, columns, cut_b, W_f, W_o, y_b, y_o,
    P: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, KEEP: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """x_hat - y of each prefix at a block of columns of a row, its squares, and the gradients from there.

    cut    where the entries of the prefixes begin and end, cut[b, p] to cut[b, p + 1]
    KEEP   write r_BO
    BACK   one prefix, one block of columns: what the features get follows at once, the residual still in registers
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    cut += row * cut_b
    r = -tl.load(y + row * y_b + column * y_o, mask=inside, other=0.0)
    for p in range(P):
        lo = tl.load(cut + p)
        hi = tl.load(cut + p + 1)
        r = add_rows(r, lo, hi, feature_n, feature_n, f_n, W_dec, column, inside, W_f, W_o, False, TILE)
        part = p * B + row
        tl.store(squares + part * tl.num_programs(1) + tl.program_id(1), tl.sum(r * r, axis=0))
        tl.store(g + part * columns + column, r * weight, mask=inside)
    if KEEP:
        tl.store(r_BO + row * columns + column, r, mask=inside)
    if BACK:
        lo = tl.load(cut)
        hi = tl.load(cut + 1)
        for first in range(lo, hi, TILE):
            n = first + tl.arange(0, TILE)
            feature = tl.load(feature_n + n, mask=n < hi, other=0)
            at = W_dec + feature[:, None] * W_f + column[None, :].to(tl.int64) * W_o
            element = tl.load(at, mask=(n < hi)[:, None] & inside[None, :], other=0.0)
            tl.store(back_n + n, tl.sum(element * (r * weight)[None, :], axis=1), mask=n < hi)
    else:
        tl.debug_barrier()  # what follows reads what this program wrote, perhaps by other threads
        total = r * weight
        for longer in range(1, P):
            at = g + ((P - 1 - longer) * B + row) * columns + column
            total += tl.load(at, mask=inside, other=0.0)
            tl.store(at, total, mask=inside)


@triton.jit
def back_rows(
    cut, feature_n, W_dec, g, back_n, B, columns, cut_b, W_f, W_o,
    P: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """What the features get from the gradients of their prefix, at the entries of a row: products of two rows."""
    row = tl.program_id(0).to(tl.int64)
    cut += row * cut_b
    for p in range(P):
        lo = tl.load(cut + p)
        hi = tl.load(cut + p + 1)
        for first in range(lo, hi, TILE):
            n = first + tl.arange(0, TILE)
            feature = tl.load(feature_n + n, mask=n < hi, other=0)
            total = tl.zeros((TILE,), tl.float32)
            for left in range(0, columns, BLOCK):
                column = left + tl.arange(0, BLOCK)
                slope = tl.load(g + (p * B + row) * columns + column, mask=column < columns, other=0.0)
                at = W_dec + feature[:, None] * W_f + column[None, :].to(tl.int64) * W_o
                element = tl.load(at, mask=(n < hi)[:, None] & (column < columns)[None, :], other=0.0)
                total += tl.sum(element.to(tl.float32) * slope.to(tl.float32)[None, :], axis=1)
            tl.store(back_n + n, total, mask=n < hi)


@triton.jit
def outer_chunks(
    order_n, feature_n, row_n, v_n, rows, chunks, first, last, columns, rows_b, rows_o,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A block of columns of the sum over CHUNK entries, by feature and row, if they all are of one feature in range."""
    chunk = tl.program_id(0).to(tl.int64)
    lo = chunk * CHUNK
    feature = tl.load(feature_n + tl.load(order_n + lo))
    if (feature == tl.load(feature_n + tl.load(order_n + lo + CHUNK - 1))) & (feature >= first) & (feature < last):
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < columns
        total = tl.zeros((BLOCK,), tl.float32)
        total = add_rows(
            total, lo, lo + CHUNK, order_n, row_n, v_n, rows, column, inside, rows_b, rows_o, True, TILE
        )  # fmt: skip
        tl.store(chunks + chunk * columns + column, total, mask=inside)


@triton.jit
def outer_rows(
    start_F, order_n, row_n, v_n, rows, chunks, out, first, columns, rows_b, rows_o, out_f, out_o,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A block of columns of one feature's sum over its entries, by row.

    chunks   the sums over every CHUNK entries that all are its own: what lies between is summed here
    """
    feature = first + tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    lo = tl.load(start_F + feature)
    hi = tl.load(start_F + feature + 1)
    begin = tl.minimum((lo + CHUNK - 1) // CHUNK, hi // CHUNK)  # of the chunks; none if these are equal
    end = hi // CHUNK
    total = tl.zeros((BLOCK,), tl.float32)
    head = tl.where(begin < end, begin * CHUNK, hi)
    total = add_rows(total, lo, head, order_n, row_n, v_n, rows, column, inside, rows_b, rows_o, True, TILE)
    for chunk in range(begin, end):
        total += tl.load(chunks + chunk * columns + column, mask=inside, other=0.0)
    tail = tl.where(begin < end, end * CHUNK, hi)
    total = add_rows(total, tail, hi, order_n, row_n, v_n, rows, column, inside, rows_b, rows_o, True, TILE)
    tl.store(out + feature * out_f + column.to(tl.int64) * out_o, total, mask=inside)


@triton.jit
def sum_lists(start, order_n, v_n, out, ORDERED: tl.constexpr, BLOCK: tl.constexpr):
    """The entries of one feature or row summed; ORDERED: entries order_n[lo : hi]."""
    which = tl.program_id(0)
    lo = tl.load(start + which)
    hi = tl.load(start + which + 1)
    total = tl.full((), 0, tl.float32)
    for first in range(lo, hi, BLOCK):
        n = first + tl.arange(0, BLOCK)
        there = n < hi
        if ORDERED:
            n = tl.load(order_n + n, mask=there, other=0)
        total += tl.sum(tl.load(v_n + n, mask=there, other=0.0), axis=0)
    tl.store(out + which, total)


@triton.jit
def adam_rows(param, grad, m, v, numbers, ok, columns, at_row, at_column, BLOCK: tl.constexpr):
    """One row of unit norm: the gradient at right angles to it, Adam, and the norm again.

    numbers   step length, square root of 1 - beta2^step, 1 - beta1, 1 - beta2, eps
    ok        0: nothing is done
    """
    column = tl.arange(0, BLOCK)
    inside = column < tl.where(tl.load(ok) > 0, columns, 0)
    at = tl.program_id(0).to(tl.int64) * at_row + column.to(tl.int64) * at_column
    p = tl.load(param + at, mask=inside, other=0.0)
    slope = tl.load(grad + at, mask=inside, other=0.0)
    slope -= tl.sum(slope * p, axis=0) * p
    p = adam_block(p, slope, m + at, v + at, numbers, inside)
    tl.store(param + at, p / tl.sqrt(tl.sum(p * p, axis=0)), mask=inside)


@triton.jit
def adam_elements(param, grad, m, v, numbers, ok, size, BLOCK: tl.constexpr):
    """Adam on a block of elements as they lie in memory. numbers, ok: see `adam_rows`."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < tl.where(tl.load(ok) > 0, size, 0)
    p = tl.load(param + at, mask=inside, other=0.0)
    slope = tl.load(grad + at, mask=inside, other=0.0)
    tl.store(param + at, adam_block(p, slope, m + at, v + at, numbers, inside), mask=inside)


@triton.jit
def adam_block(p, slope, m, v, numbers, inside):
    """Parameters one step on; their moments are updated in memory."""
    mean = tl.load(m, mask=inside, other=0.0)
    mean += (slope - mean) * tl.load(numbers + 2)
    square = tl.load(v, mask=inside, other=0.0)
    square += (slope * slope - square) * tl.load(numbers + 3)
    tl.store(m, mean, mask=inside)
    tl.store(v, square, mask=inside)
    return p - tl.load(numbers) * mean / (tl.sqrt(square) / tl.load(numbers + 1) + tl.load(numbers + 4))
