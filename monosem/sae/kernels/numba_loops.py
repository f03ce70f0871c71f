"""The loops of the sparse step, compiled by numba. `cpu.py` is their face, `plain.py` says what they compute.

Every function works on a range of rows or features by itself and lets go of the interpreter's lock, so that threads can
take ranges in turns; a row or a feature is summed by one thread in one order, so bits never depend on how many there
are. Sums over a row's elements may be reordered for vectors (`FAST`), as in torch's own products.

Shape letters as in `plain.py`.
"""

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

FAST = {"reassoc", "contract", "nsz", "arcp"}
BLOCK = 16
"""Columns looked at together: almost all blocks of a trained dictionary's product have no entry."""

ranged = numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")


@intrinsic
def widen(typingctx, x):
    """A bfloat16's 16 bits as float32; other floats as they are."""
    if x != types.uint16:
        return x(x), lambda context, builder, signature, args: args[0]

    def codegen(context, builder, signature, args):
        wide = builder.zext(args[0], context.get_value_type(types.uint32))
        bits = builder.shl(wide, context.get_constant(types.uint32, 16))
        return builder.bitcast(bits, context.get_value_type(types.float32))

    return types.float32(types.uint16), codegen


@ranged
def above(product, bias, bound, group_rows, capacity, counts, features, pres, overfull, lo, hi):
    """Entries of groups lo to hi: up to `capacity` each, at features[group] and pres[group]; overfull[0] if more."""
    B, F = product.shape
    for group in range(lo, hi):
        n = 0
        for b in range(group * group_rows, min(B, (group + 1) * group_rows)):
            before, row = n, product[b]
            whole = F - F % BLOCK
            for c in range(0, whole, BLOCK):
                some = False
                for j in range(c, c + BLOCK):
                    some |= widen(row[j]) + bias[j] > bound[j]
                if some:
                    if n > capacity:
                        overfull[0] = True
                        return
                    for j in range(c, c + BLOCK):
                        pre = widen(row[j]) + bias[j]
                        if pre > bound[j]:
                            features[group, n], pres[group, n] = j, pre
                            n += 1
            for j in range(whole, F):
                pre = widen(row[j]) + bias[j]
                if pre > bound[j]:
                    if n >= capacity + BLOCK:
                        overfull[0] = True
                        return
                    features[group, n], pres[group, n] = j, pre
                    n += 1
            counts[b] = n - before
        if n > capacity:
            overfull[0] = True
            return


@ranged
def largest(product, bias, k, features, pres, counts, lo, hi):
    """The k largest above zero of rows lo to hi, by feature; of equal ones the first features.

    The k-th largest of the blocks' maxima is a bound that k blocks reach, so few values remain to be ranked.
    """
    F = product.shape[1]
    blocks = (F + BLOCK - 1) // BLOCK
    tops = np.empty(blocks, bias.dtype)
    kept, kept_at = np.empty(F, bias.dtype), np.empty(F, np.int64)
    zero = bias.dtype.type(0)
    for b in range(lo, hi):
        row = product[b]
        for block in range(blocks):
            top = zero
            for j in range(block * BLOCK, min(F, (block + 1) * BLOCK)):
                pre = widen(row[j]) + bias[j]
                top = max(top, pre)
            tops[block] = top
        bound = np.partition(tops, blocks - k)[blocks - k] if k < blocks else zero
        n = 0
        for block in range(blocks):
            if tops[block] >= bound and tops[block] > zero:
                for j in range(block * BLOCK, min(F, (block + 1) * BLOCK)):
                    pre = widen(row[j]) + bias[j]
                    if pre >= bound and pre > zero:
                        kept[n], kept_at[n] = pre, j
                        n += 1
        counts[b] = _keep(kept, kept_at, n, k, features[b], pres[b])


@ranged
def _keep(kept, kept_at, n, k, features, pres):
    """The k largest of n candidates, in their order."""
    bound, ties = kept[0], n
    if n > k:
        bound = np.partition(kept[:n], n - k)[n - k]
        ties = k
        for i in range(n):
            if kept[i] > bound:
                ties -= 1
    found = 0
    for i in range(n):
        take = n <= k or kept[i] > bound
        if not take and kept[i] == bound and ties > 0:
            ties -= 1
            take = True
        if take:
            features[found], pres[found] = kept_at[i], kept[i]
            found += 1
    return found


@ranged
def histogram(product, bias, counts, lo, hi):
    """How many values above zero of rows lo to hi have each leading half of their bits."""
    for b in range(lo, hi):
        row = product[b]
        for j in range(row.shape[0]):
            pre = np.float32(widen(row[j]) + bias[j])
            if pre > 0:
                counts[leading(pre)] += 1


@intrinsic
def leading(typingctx, x):
    """The leading 16 bits of a float32, which order values above zero."""

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], context.get_value_type(types.uint32))
        return builder.lshr(bits, context.get_constant(types.uint32, 16))

    return types.uint32(types.float32), codegen


@ranged
def gather_above(product, bias, bits, starts, out, lo, hi):
    """Values of rows lo to hi whose leading bits are at least `bits`, to out[starts[b]:]; counts if out is empty."""
    for b in range(lo, hi):
        row, n = product[b], 0
        for j in range(row.shape[0]):
            pre = widen(row[j]) + bias[j]
            if pre > 0 and leading(np.float32(pre)) >= bits:
                if len(out):
                    out[starts[b] + n] = pre
                n += 1
        if not len(out):
            starts[b] = n


@ranged
def pack(group_rows, start_B, features, pres, feature_n, row_n, pre_n, lo, hi):
    """Entries of groups lo to hi, side by side."""
    B = len(start_B) - 1
    for group in range(lo, hi):
        first = start_B[group * group_rows]
        for b in range(group * group_rows, min(B, (group + 1) * group_rows)):
            for e in range(start_B[b], start_B[b + 1]):
                feature_n[e], row_n[e], pre_n[e] = features[group, e - first], b, pres[group, e - first]


@ranged
def by_feature(feature_n, start_F, order_n):
    """Entries ordered by feature, and by row within one (a counting sort)."""
    for f in feature_n:
        start_F[f + 1] += 1
    for f in range(1, len(start_F)):
        start_F[f] += start_F[f - 1]
    place = start_F[:-1].copy()
    for e in range(len(feature_n)):
        f = feature_n[e]
        order_n[place[f]] = e
        place[f] += 1


@ranged
def decode(start_B, feature_n, f_n, W_dec, yc, ends, weight, squares, g, back_n, r_out, lo, hi):
    """Rows lo to hi, see `plain.decode`; r_out is empty if x_hat - y is not wanted."""
    O, P = W_dec.shape[1], len(ends)
    r = np.empty(O, W_dec.dtype)
    for b in range(lo, hi):
        e, last = start_B[b], start_B[b + 1]
        for o in range(O):
            r[o] = -yc[b, o]
        for p in range(P):
            while e < last and feature_n[e] < ends[p]:
                w, f = W_dec[feature_n[e]], f_n[e]
                for o in range(O):
                    r[o] += f * w[o]
                e += 1
            total = W_dec.dtype.type(0)
            for o in range(O):
                total += r[o] * r[o]
                g[p, b, o] = r[o] * weight
            squares[b, p] = total
        if len(r_out):
            r_out[b] = r
        for p in range(P - 2, -1, -1):
            for o in range(O):
                g[p, b, o] += g[p + 1, b, o]
        e = start_B[b]
        for p in range(P):
            row = g[p, b]
            while e < last and feature_n[e] < ends[p]:
                w = W_dec[feature_n[e]]
                total = W_dec.dtype.type(0)
                for o in range(O):
                    total += row[o] * w[o]
                back_n[e] = total
                e += 1


@ranged
def outer(start_F, order_n, row_n, v_n, rows, out, lo, hi):
    """Features lo to hi, see `plain.outer`."""
    O = rows.shape[1]
    for f in range(lo, hi):
        mine = out[f]
        for o in range(O):
            mine[o] = 0
        for i in range(start_F[f], start_F[f + 1]):
            e = order_n[i]
            v, row = v_n[e], rows[row_n[e]]
            for o in range(O):
                mine[o] += v * row[o]


@ranged
def sum_F(start_F, order_n, v_n, out):
    for f in range(len(out)):
        total = out.dtype.type(0)
        for i in range(start_F[f], start_F[f + 1]):
            total += v_n[order_n[i]]
        out[f] = total


@ranged
def sum_B(start_B, v_n, out):
    for b in range(len(out)):
        total = out.dtype.type(0)
        for e in range(start_B[b], start_B[b + 1]):
            total += v_n[e]
        out[b] = total


@ranged
def adam(param, grad, m, v, rate, back, decay, back2, decay2, root, eps, unit, lo, hi):
    """Rows lo to hi, see `plain.adam`. rate = lr / (1 - beta1^t), root = sqrt(1 - beta2^t), back = 1 - beta1."""
    O = param.shape[1]
    zero = param.dtype.type(0)
    for f in range(lo, hi):
        w, g, first, second = param[f], grad[f], m[f], v[f]
        along = zero
        if unit:
            for o in range(O):
                along += g[o] * w[o]
        norm = zero
        for o in range(O):
            slope = g[o] - along * w[o]
            a = first[o] + (slope - first[o]) * back
            s = second[o] * decay2 + slope * slope * back2
            first[o], second[o] = a, s
            moved = w[o] - rate * (a / (np.sqrt(s) / root + eps))
            w[o] = moved
            norm += moved * moved
        if unit:
            norm = np.sqrt(norm)
            for o in range(O):
                w[o] /= norm
