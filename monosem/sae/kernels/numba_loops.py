"""The loops of the sparse step, compiled by numba. `cpu.py` is their face, `plain.py` says what they compute.

Every function works on a range of rows or features by itself and lets go of the interpreter's lock, so that threads can
take ranges in turns; a row or a feature is summed by one thread in one order, so bits never depend on how many there
are. Sums over a row's elements may be reordered for vectors (`FAST`), as in torch's own products.

Shape letters as in `plain.py`.
"""

import os
from pathlib import Path

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from monosem.sae.kernels.plain import GROUP

FAST = {"reassoc", "contract", "nsz", "arcp"}


def can_keep() -> bool:
    """Whether numba finds a place for what it compiled, beside this file or in the user's cache; it raises if not."""
    return any(os.access(place, os.W_OK) for place in (Path(__file__).parent, Path.home()))


ranged = numba.njit(nogil=True, cache=can_keep(), fastmath=FAST, error_model="numpy")


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


@intrinsic
def number_of(typingctx, key):
    """The float32 whose bits, or leading 16 bits, are a whole number's."""

    def codegen(context, builder, signature, args):
        bits = args[0]
        if key == types.int16:
            wide = builder.zext(bits, context.get_value_type(types.int32))
            bits = builder.shl(wide, wide.type(16))
        return builder.bitcast(bits, context.get_value_type(types.float32))

    return types.float32(key), codegen


@intrinsic
def key_of(typingctx, x, like):
    """A float32's bits, or its leading 16 where `like` is an int16: for numbers above zero in their order."""

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], context.get_value_type(types.int32))
        if like == types.int16:
            bits = builder.trunc(builder.lshr(bits, bits.type(16)), context.get_value_type(types.int16))
        return bits

    return like(types.float32, like), codegen


@intrinsic
def power_of_2(typingctx, n):
    """2^n of a whole float32 from -126 to 127."""

    def codegen(context, builder, signature, args):
        whole = builder.fptosi(args[0], context.get_value_type(types.int32))
        bits = builder.shl(builder.add(whole, whole.type(127)), whole.type(23))
        return builder.bitcast(bits, context.get_value_type(types.float32))

    return types.float32(types.float32), codegen


@intrinsic
def towards_0(typingctx, x):
    """A float32 without what is behind its point."""

    def codegen(context, builder, signature, args):
        return builder.sitofp(builder.fptosi(args[0], context.get_value_type(types.int32)), args[0].type)

    return types.float32(types.float32), codegen


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
    """Entries by feature, and by row within one (a counting sort)."""
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
    wide, P = W_dec.shape[1], len(ends)
    r = np.empty(wide, f_n.dtype)
    for b in range(lo, hi):
        e, last = start_B[b], start_B[b + 1]
        for o in range(wide):
            r[o] = -yc[b, o]
        for p in range(P):
            stop = _until(feature_n, e, last, ends[p])
            add_rows(W_dec, feature_n, f_n, e, stop, r)
            e = stop
            total = f_n.dtype.type(0)
            for o in range(wide):
                total += r[o] * r[o]
                g[p, b, o] = r[o] * weight
            squares[b, p] = total
        if len(r_out):
            r_out[b] = r
        for p in range(P - 2, -1, -1):
            for o in range(wide):
                g[p, b, o] += g[p + 1, b, o]
        e = start_B[b]
        for p in range(P):
            stop = _until(feature_n, e, last, ends[p])
            _dots(W_dec, feature_n, g[p, b], e, stop, back_n)
            e = stop


@ranged
def reconstruct(start_B, feature_n, f_n, W_dec, ends, parts, lo, hi):
    """Rows lo to hi, see `plain.reconstruct`."""
    for b in range(lo, hi):
        e, last = start_B[b], start_B[b + 1]
        for p in range(len(ends)):
            stop = _until(feature_n, e, last, ends[p])
            parts[p, b] = 0
            add_rows(W_dec, feature_n, f_n, e, stop, parts[p, b])
            e = stop


@ranged
def back(start_B, feature_n, W_dec, g, first, end, out, lo, hi):
    """Rows lo to hi, see `plain.back`, of one prefix: features first to end."""
    for b in range(lo, hi):
        e = _until(feature_n, start_B[b], start_B[b + 1], first)
        _dots(W_dec, feature_n, g[b], e, _until(feature_n, e, start_B[b + 1], end), out)


@ranged
def _until(feature_n, e, last, end):
    """The first entry from e on whose feature is not below `end`."""
    while e < last and feature_n[e] < end:
        e += 1
    return e


@ranged
def add_rows(table, at, v, e, stop, out):
    """out += sum of v[e] * table[at[e]]; four rows at a time, so that `out` is read and written a quarter as often."""
    wide = len(out)
    while e + 4 <= stop:
        r0, r1, r2, r3 = table[at[e]], table[at[e + 1]], table[at[e + 2]], table[at[e + 3]]
        v0, v1, v2, v3 = v[e], v[e + 1], v[e + 2], v[e + 3]
        for o in range(wide):
            out[o] += (v0 * widen(r0[o]) + v1 * widen(r1[o])) + (v2 * widen(r2[o]) + v3 * widen(r3[o]))
        e += 4
    while e < stop:
        r0, v0 = table[at[e]], v[e]
        for o in range(wide):
            out[o] += v0 * widen(r0[o])
        e += 1


@ranged
def _dots(table, at, row, e, stop, out):
    """out[e] = row . table[at[e]], four at a time."""
    wide, zero = len(row), row.dtype.type(0)
    while e + 4 <= stop:
        r0, r1, r2, r3 = table[at[e]], table[at[e + 1]], table[at[e + 2]], table[at[e + 3]]
        s0, s1, s2, s3 = zero, zero, zero, zero
        for o in range(wide):
            x = row[o]
            s0 += x * widen(r0[o])
            s1 += x * widen(r1[o])
            s2 += x * widen(r2[o])
            s3 += x * widen(r3[o])
        out[e], out[e + 1], out[e + 2], out[e + 3] = s0, s1, s2, s3
        e += 4
    while e < stop:
        r0, s0 = table[at[e]], zero
        for o in range(wide):
            s0 += row[o] * widen(r0[o])
        out[e] = s0
        e += 1


@ranged
def outer(start_F, order_n, row_n, v_n, rows, ends, out, lo, hi):
    """Features lo to hi, see `plain.outer`. Entries below ends[0] are the first slot's, and so on.

    A feature's slots are added by the tree of `tree.py` while they are at hand: `out[f]` and rows of `spare` are a
    stack, on which two subtrees of one size become one. What a slot without entries would add is nothing.
    """
    most = 0
    for f in range(lo, hi):
        most = max(most, start_F[f + 1] - start_F[f])
    at, v = np.empty(most, row_n.dtype), np.empty(most, v_n.dtype)
    spare, held = np.empty((_depth(len(ends)), out.shape[1]), out.dtype), np.empty(_depth(len(ends)), np.bool_)
    for f in range(lo, hi):
        first, n = start_F[f], start_F[f + 1] - start_F[f]
        for i in range(n):
            e = order_n[first + i]
            at[i], v[i] = row_n[e], v_n[e]
        i, depth = 0, 0
        for q in range(len(ends)):
            stop = i
            while stop < n and order_n[first + stop] < ends[q]:
                stop += 1
            held[depth] = stop > i
            if stop > i:
                target = out[f] if depth == 0 else spare[depth]
                target[:] = 0
                add_rows(rows, at, v, i, stop, target)
            i, depth, size = stop, depth + 1, q + 1
            while depth > 1 and (size % 2 == 0 or q + 1 == len(ends)):
                _merge(out[f] if depth == 2 else spare[depth - 2], spare[depth - 1], held, depth)
                depth, size = depth - 1, size // 2
        if not held[0]:
            out[f] = 0


@ranged
def _depth(slots):
    """How deep the stack of subtrees gets."""
    depth = 1
    while slots > 0:
        slots, depth = slots // 2, depth + 1
    return depth


@ranged
def _merge(below, top, held, depth):
    """Add the topmost subtree of a stack to the one below it."""
    if held[depth - 1]:
        for o in range(len(top)):
            below[o] = below[o] + top[o] if held[depth - 2] else top[o]
        held[depth - 2] = True


@ranged
def fired_F(feature_n, v_n, out):
    for e in range(len(v_n)):
        if v_n[e] > 0:
            out[feature_n[e]] = True


@ranged
def spread(rows, sums, squares, lo, hi):
    """Sums and sums of squares of the columns of groups lo to hi of `GROUP` rows, float64."""
    D = rows.shape[1]
    for group in range(lo, hi):
        total = np.float64(0)
        for b in range(group * GROUP, min(len(rows), (group + 1) * GROUP)):
            for d in range(D):
                x = np.float64(rows[b, d])
                sums[group, d] += x
                total += x * x
        squares[group] = total


@ranged
def sum_F(start_F, order_n, v_n, ends, out):
    """As `outer` does, of single numbers."""
    sums = np.empty(_depth(len(ends)), out.dtype)
    for f in range(len(out)):
        i, depth = start_F[f], 0
        for q in range(len(ends)):
            total = out.dtype.type(0)
            while i < start_F[f + 1] and order_n[i] < ends[q]:
                total += v_n[order_n[i]]
                i += 1
            sums[depth] = total
            depth, size = depth + 1, q + 1
            while depth > 1 and (size % 2 == 0 or q + 1 == len(ends)):
                sums[depth - 2] += sums[depth - 1]
                depth, size = depth - 1, size // 2
        out[f] = sums[0]


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
    wide = param.shape[1]
    zero = param.dtype.type(0)
    for f in range(lo, hi):
        w, g, first, second = param[f], grad[f], m[f], v[f]
        along = zero
        if unit:
            for o in range(wide):
                along += g[o] * w[o]
        norm = zero
        for o in range(wide):
            slope = g[o] - along * w[o]
            a = first[o] + (slope - first[o]) * back
            s = second[o] * decay2 + slope * slope * back2
            first[o], second[o] = a, s
            moved = w[o] - rate * (a / (np.sqrt(s) / root + eps))
            w[o] = moved
            norm += moved * moved
        if unit:
            norm = np.sqrt(norm)
            for o in range(wide):
                w[o] /= norm
