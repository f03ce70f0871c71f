"""Finding the entries: which features of which rows are active, by a bound or by rank. As in `numba_loops.py`."""

import numpy as np
from numba import types
from numba.extending import intrinsic

from monosem.sae.kernels.numba_loops import ranged, widen

FLAGS = 8
"""Flags that make up one word."""


@intrinsic
def first_flag(typingctx, word):
    """Which of a word's flags is the first that is set; the word is not zero."""

    def codegen(context, builder, signature, args):
        zeros = builder.cttz(args[0], context.get_constant(types.boolean, True))
        return builder.lshr(zeros, context.get_constant(types.uint64, 3))

    return types.uint64(types.uint64), codegen


@ranged
def above(product, bias, bound, group_rows, capacity, counts, features, pres, overfull, lo, hi):
    """Entries of groups lo to hi: up to `capacity` each, at features[group] and pres[group]; overfull[0] if more.

    First a flag for every column, which compiles to vectors, then words of eight flags: almost all have none set.
    """
    B, F = product.shape
    flags = np.zeros(-(-F // FLAGS) * FLAGS, np.uint8)
    eights = flags.view(np.uint64)
    for group in range(lo, hi):
        n = 0
        for b in range(group * group_rows, min(B, (group + 1) * group_rows)):
            before, row = n, product[b]
            for j in range(F):
                flags[j] = np.uint8(widen(row[j]) + bias[j] > bound[j])
            for c in range(len(eights)):
                word = eights[c]
                if word != 0 and n > capacity:
                    overfull[0] = True
                    return
                while word != 0:
                    j = c * FLAGS + np.int64(first_flag(word))
                    features[group, n], pres[group, n] = j, widen(row[j]) + bias[j]
                    n += 1
                    word &= word - np.uint64(1)
            counts[b] = n - before
        if n > capacity:
            overfull[0] = True
            return


@ranged
def largest(product, bias, k, classes, features, pres, counts, lo, hi):
    """The k largest above zero of rows lo to hi, by feature; of equal ones the first features.

    Values that reach a bound are ranked. Where the row before had its k-th largest is a good guess at it; if fewer than
    k reach that, the k-th largest of the maxima of `classes` classes of columns is one that at least k do.
    """
    F = product.shape[1]
    tops, flags = np.empty(classes, bias.dtype), np.zeros(-(-F // FLAGS) * FLAGS, np.uint8)
    eights = flags.view(np.uint64)
    kept, kept_at, ranked = np.empty(F, bias.dtype), np.empty(F, np.int64), np.empty(max(F, classes), bias.dtype)
    zero = bias.dtype.type(0)
    guess = zero
    for b in range(lo, hi):
        row = product[b]
        n = _reaching(row, bias, guess, flags, eights, kept, kept_at)
        if n < k and guess > zero:
            bound = zero
            if k < classes:
                _tops(row, bias, tops)
                ranked[:classes] = tops
                bound = _nth_largest(ranked, classes, k)
            n = _reaching(row, bias, bound, flags, eights, kept, kept_at)
        least = zero
        if n >= k:
            ranked[:n] = kept[:n]
            least = _nth_largest(ranked, n, k)
        counts[b] = _keep(kept, kept_at, n, k, least, features[b], pres[b])
        guess = least * bias.dtype.type(0.9)


@ranged
def _reaching(row, bias, bound, flags, eights, kept, kept_at):
    """How many values of a row are above zero and reach the bound; they and their columns go to the front of `kept`."""
    zero = bias.dtype.type(0)
    for j in range(len(row)):
        pre = widen(row[j]) + bias[j]
        flags[j] = np.uint8(pre >= bound) & np.uint8(pre > zero)
    n = 0
    for c in range(len(eights)):
        word = eights[c]
        while word != 0:
            j = c * FLAGS + np.int64(first_flag(word))
            kept[n], kept_at[n] = widen(row[j]) + bias[j], j
            n += 1
            word &= word - np.uint64(1)
    return n


@ranged
def _tops(row, bias, tops):
    """Maxima, at least zero, of the columns that leave the same remainder."""
    F, classes = len(row), len(tops)
    tops[:] = 0
    for c in range(0, F, classes):
        for i in range(min(classes, F - c)):
            pre = widen(row[c + i]) + bias[c + i]
            tops[i] = pre if pre > tops[i] else tops[i]


@ranged
def _nth_largest(values, n, k):
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
def _keep(kept, kept_at, n, k, least, features, pres):
    """The k largest of n candidates, in their order; `least` is the k-th if there are as many."""
    ties = k
    for i in range(n):
        if kept[i] > least:
            ties -= 1
    found = 0
    for i in range(n):
        take = n <= k or kept[i] > least
        if not take and kept[i] == least and ties > 0:
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
