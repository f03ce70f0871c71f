"""Finding the entries: which features of which rows are active, by a bound or by rank. As in `numba_loops.py`."""

import numpy as np
from numba import types
from numba.extending import intrinsic

from monosem.sae.kernels.numba_loops import ranged, widen

FLAGS = 8
"""Flags that make up one word."""
_MOST = np.float32(np.finfo(np.float32).max)
FEW = 64
"""So many values are ranked by comparing each with all."""


@intrinsic
def first_flag(typingctx, word):
    """Which of a word's flags is the first that is set; the word is not zero."""

    def codegen(context, builder, signature, args):
        zeros = builder.cttz(args[0], context.get_constant(types.boolean, True))
        return builder.lshr(zeros, context.get_constant(types.uint64, 3))

    return types.uint64(types.uint64), codegen


@intrinsic
def ordered(typingctx, x):
    """A bfloat16's 16 bits as an int16 that compares as the number does; other floats as they are."""
    if x != types.uint16:
        return x(x), lambda context, builder, signature, args: args[0]
    return types.int16(types.uint16), lambda context, builder, signature, args: _ordered(builder, args[0])


@intrinsic
def ordered_below(typingctx, x, like):
    """A float32 as `ordered` has it, a step or two lower, if `like` is a bfloat16's bits; else the float as it is."""
    if like != types.uint16:
        return x(x, like), lambda context, builder, signature, args: args[0]

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], context.get_value_type(types.uint32))
        leading_bits = builder.trunc(builder.lshr(bits, bits.type(16)), context.get_value_type(types.uint16))
        return builder.sub(_ordered(builder, leading_bits), leading_bits.type(2))  # cut off is up for what is negative

    return types.int16(x, like), codegen


def _ordered(builder, bits):
    """The bits below the sign, turned over where it is set."""
    negative = builder.ashr(bits, bits.type(15))
    return builder.xor(bits, builder.lshr(negative, bits.type(1)))


@ranged
def below(product, bias, bound, out):
    """By column what a product is above, in the form of `ordered`, if it is above the bound with the bias added.

    A little lower than need be, for what is lost in rounding: what is found by it has to be looked at again.
    """
    nothing = product.dtype.type(0)
    for j in range(len(bias)):
        reach = min(bound[j], _MOST)  # infinity less a share of itself would be no number
        slack = (abs(reach) + abs(bias[j])) * bias.dtype.type(1e-6)
        out[j] = ordered_below(reach - bias[j] - slack, nothing)


@ranged
def _flag(row, least, flags):
    """A flag for every column whose product is above what `below` says."""
    for j in range(len(row)):
        flags[j] = np.uint8(ordered(row[j]) > least[j])


@ranged
def above(product, bias, bound, least, group_rows, capacity, counts, features, pres, overfull, lo, hi):
    """Entries of groups lo to hi: up to `capacity` each, at features[group] and pres[group]; overfull[0] if more.

    First a flag for every column, which compiles to vectors, then words of eight flags: almost all have none set.
    least: from `below`.
    """
    B, F = product.shape
    flags = np.zeros(-(-F // FLAGS) * FLAGS, np.uint8)
    eights = flags.view(np.uint64)
    for group in range(lo, hi):
        n = 0
        for b in range(group * group_rows, min(B, (group + 1) * group_rows)):
            before, row = n, product[b]
            _flag(row, least, flags)
            for c in range(len(eights)):
                word = eights[c]
                if word != 0 and n > capacity:
                    overfull[0] = True
                    return
                while word != 0:
                    j = c * FLAGS + np.int64(first_flag(word))
                    pre = widen(row[j]) + bias[j]
                    features[group, n], pres[group, n] = j, pre
                    n += pre > bound[j]
                    word &= word - np.uint64(1)
            counts[b] = n - before
        if n > capacity:
            overfull[0] = True
            return


@ranged
def largest(product, bias, like, k, classes, features, pres, counts, lo, hi):
    """The k largest above zero of rows lo to hi, by feature; of equal ones the first features.

    Values that reach a bound are ranked. A good guess at one is a little less than where an earlier row had its k-th
    largest; if fewer than k reach that, the k-th largest of the maxima of `classes` classes of columns is one that at
    least k do.

    like: an array of the type of `ordered`
    """
    F = product.shape[1]
    tops, flags = np.empty(classes, bias.dtype), np.zeros(-(-F // FLAGS) * FLAGS, np.uint8)
    eights = flags.view(np.uint64)
    kept, kept_at = np.empty(max(F, FEW), bias.dtype), np.empty(F, np.int64)
    ranked = np.empty(max(F, classes), bias.dtype)
    bound, least, zero = np.full(F, -1, bias.dtype), np.empty(F, like.dtype), bias.dtype.type(0)
    for b in range(lo, hi):
        row = product[b]
        n = _reaching(row, bias, bound, least, flags, eights, kept, kept_at) if b > lo else 0
        missed = n < k and bound[0] != zero
        if missed:
            bound[:] = zero
            if k < classes:
                class_tops(row, bias, tops)
                ranked[:classes] = tops
                bound[:] = nth_largest(ranked, classes, k)
            below(product, bias, bound, least)
            n = _reaching(row, bias, bound, least, flags, eights, kept, kept_at)
        kth = zero
        if n >= k:
            kth = kth_largest(kept, n, k, ranked)
        counts[b] = keep(kept, kept_at, n, k, kth, features[b], pres[b])
        if n >= k and (missed or n > max(4 * k, FEW)):
            bound[:] = kth * bias.dtype.type(0.95)
            below(product, bias, bound, least)


@ranged
def _reaching(row, bias, bound, least, flags, eights, kept, kept_at):
    """How many values of a row are above zero and reach the bound; they and their columns go to the front of `kept`."""
    _flag(row, least, flags)
    n = 0
    for c in range(len(eights)):
        word = eights[c]
        while word != 0:
            j = c * FLAGS + np.int64(first_flag(word))
            pre = widen(row[j]) + bias[j]
            kept[n], kept_at[n] = pre, j
            n += (pre >= bound[j]) & (pre > 0)
            word &= word - np.uint64(1)
    return n


@ranged
def class_tops(row, bias, tops):
    """Maxima, at least zero, of the columns that leave the same remainder; the last few columns may be left out."""
    classes = len(tops)
    tops[:] = 0
    for c in range(0, len(row) - classes + 1, classes):
        some, their_bias = row[c : c + classes], bias[c : c + classes]
        for i in range(classes):
            tops[i] = max(widen(some[i]) + their_bias[i], tops[i])


@ranged
def nth_largest(values, n, k):
    """The k-th largest (from 1) of the first n values, which are reordered (Hoare's selection)."""
    first, last, want = 0, n - 1, k - 1
    while first < last:
        pivot = values[(first + last) // 2]
        i, j = first, last
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            last = j
        elif want >= i:
            first = i
        else:
            break
    return values[want]


@ranged
def kth_largest(kept, n, k, ranked):
    """The k-th largest (from 1) of the n values above zero at the front of `kept`; `ranked` is room to work in.

    Of few, that with fewer than k above it, found by counting: no branch depends on a value, which takes a third of
    the time of a selection.
    """
    if n > FEW:
        ranked[:n] = kept[:n]
        return nth_largest(ranked, n, k)
    kept[n:FEW] = 0
    one, zero = kept.dtype.type(1), kept.dtype.type(0)
    least = kept.dtype.type(np.inf)
    for i in range(n):
        value, larger = kept[i], zero
        for j in range(FEW):
            larger += one if kept[j] > value else zero
        least = min(least, value) if larger < k else least
    return least


@ranged
def keep(kept, kept_at, n, k, least, features, pres):
    """The k largest of n candidates, in their order; `least` is the k-th, or zero if there are not as many."""
    ties = k
    for i in range(n):
        ties -= kept[i] > least
    found = 0
    for i in range(n):
        if found == k:
            break
        equal = kept[i] == least
        features[found], pres[found] = kept_at[i], kept[i]
        found += (kept[i] > least) | (equal & (ties > 0))
        ties -= equal
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
