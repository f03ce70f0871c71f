"""The loops of the feature pass over sparse entries, compiled by numba; each works on a range of features by itself.

Entries of a slice of features lie feature by feature, and by place within one: start [F + 1], place [n], value [n].
A place is a token's number in the pass: context number * context length + position. Sums are float64.
"""

import numpy as np

from monosem.sae.kernels.numba_loops import ranged

_ODD = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_PLUS, _MINUS = np.float32(1), np.float32(-1)
CLASSES = 128
"""See `one_end`."""
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@ranged
def before(x, y, i, j):
    """Whether x at place i comes before y at place j: larger, or as large and earlier."""
    return x > y or (x == y and i < j)


@ranged
def mix(x):
    """A bijection of 64-bit words whose outputs pass for random ones (SplitMix64's finaliser, Steele et al. 2014)."""
    x = (x ^ (x >> _30)) * _A
    x = (x ^ (x >> _27)) * _B
    return x ^ (x >> _31)


@ranged
def sample_key(seed, feature, place):
    """The random word of one activation: a pure function, so the sample depends on no order and no slicing."""
    return mix(mix(mix(np.uint64(seed)) + np.uint64(feature) * _ODD) + np.uint64(place) * _ODD)


@ranged
def by_feature(feature, row, value, start, place_out, value_out):
    """Entries in row order to feature order (a counting sort). `start` must hold zeros, int64 [F + 1]."""
    for e in range(len(feature)):
        start[feature[e] + 1] += 1
    for f in range(1, len(start)):
        start[f] += start[f - 1]
    at = start[:-1].copy()
    for e in range(len(feature)):
        f = feature[e]
        place_out[at[f]], value_out[at[f]] = row[e], value[e]
        at[f] += 1


@ranged
def by_place(start, place, value, row_start, feature_out, value_out):
    """Entries in feature order to place order. `row_start` must hold zeros, int64 [places + 1]."""
    for e in range(len(place)):
        row_start[place[e] + 1] += 1
    for p in range(1, len(row_start)):
        row_start[p] += row_start[p - 1]
    at = row_start[:-1].copy()
    for f in range(len(start) - 1):
        for e in range(start[f], start[f + 1]):
            p = place[e]
            feature_out[at[p]], value_out[at[p]] = f, value[e]
            at[p] += 1


@ranged
def cross(start, place, value, rows, out, lo, hi):
    """out[f] += sum over f's entries of value * the row at its place: sums of products with every coordinate."""
    for f in range(lo, hi):
        for e in range(start[f], start[f + 1]):
            v, p = np.float64(value[e]), place[e]
            for d in range(rows.shape[1]):
                out[f, d] += v * rows[p, d]


@ranged
def sums(start, place, value, domain, total, square, most, domains, lo, hi):
    """Of each feature: sum of activations, of their squares, the largest, and counts by domain of the token."""
    for f in range(lo, hi):
        a, b, m = 0.0, 0.0, np.float32(0)
        for e in range(start[f], start[f + 1]):
            v = np.float64(value[e])
            a += v
            b += v * v
            m = max(m, value[e])
            domains[f, domain[place[e]]] += 1
        total[f], square[f], most[f] = a, b, m


@ranged
def ranked(value, e, other):
    """Whether entry e comes before `other`: larger, or as large and earlier."""
    return value[e] > value[other] or (value[e] == value[other] and e < other)


@ranged
def largest(value, first, last, out):
    """The len(out) largest entries of [first, last), largest first; of equal ones the earlier. Returns how many."""
    n = 0
    for e in range(first, last):
        if n == len(out) and not value[e] > value[out[n - 1]]:
            continue
        if n < len(out):
            n += 1
        i = n - 1
        while i > 0 and ranked(value, e, out[i - 1]):
            out[i] = out[i - 1]
            i -= 1
        out[i] = e
    return n


@ranged
def sampled(seed, feature, place, first, last, size):
    """The `size` entries of [first, last) with the smallest random words, by place; all if there are no more."""
    n = last - first
    if n <= size:
        return np.arange(first, last)
    keys = np.empty(n, np.uint64)
    for i in range(n):
        keys[i] = sample_key(seed, feature, place[first + i])
    bound = np.partition(keys, size - 1)[size - 1]
    out, m = np.empty(size, np.int64), 0
    for i in range(n):
        if keys[i] <= bound and m < size:
            out[m] = first + i
            m += 1
    return out


@ranged
def nearest(value, order, centre, out):
    """Of entries in rising order of value, the len(out) nearest to `centre`, largest first. Returns how many."""
    lo, hi = 0, len(order)
    while lo < hi:
        mid = (lo + hi) // 2
        if value[order[mid]] < centre:
            lo = mid + 1
        else:
            hi = mid
    left, right, n = lo - 1, lo, min(len(out), len(order))
    for _ in range(n):
        if right == len(order) or (left >= 0 and centre - value[order[left]] <= value[order[right]] - centre):
            left -= 1
        else:
            right += 1
    for i in range(n):
        out[i] = order[right - 1 - i]
    return n


@ranged
def choose(start, place, value, feature_0, seed, size, top, per, bottom, intervals, picks, hist, hist_hi, lo, hi):
    """Examples and the histogram of each feature, see `schema.GROUPS`.

    picks    int64 [F, top + intervals * per + bottom] out: entries, -1 where a group has no more
    hist     int32 [F, buckets] out, of the random sample; hist_hi float32 [F]: the sample's largest
    """
    for f in range(lo, hi):
        first, last = start[f], start[f + 1]
        picks[f] = -1
        largest(value, first, last, picks[f, :top])
        sample = sampled(seed, feature_0 + f, place, first, last, size)
        if len(sample) == 0:
            continue
        values = value[sample]
        order = sample[np.argsort(values, kind="mergesort")]
        hist_hi[f] = value[order[-1]]
        for v in values:
            bucket = int(np.float64(v) / np.float64(hist_hi[f]) * hist.shape[1])
            hist[f, min(bucket, hist.shape[1] - 1)] += 1
        if last - first < top:
            continue
        most = np.float64(value[picks[f, 0]])
        for k in range(intervals):
            at = top + k * per
            nearest(value, order, np.float32((intervals - 1 - k) / intervals * most), picks[f, at : at + per])
        n = min(bottom, len(order))
        for i in range(n):
            picks[f, top + intervals * per + i] = order[n - 1 - i]


@ranged
def windows(start, place, value, picks, feature_of, length, beside, first_token, acts, lo, hi):
    """Activations around chosen entries.

    picks        int64 [m]: entries; feature_of int64 [m]: their features in the slice
    first_token  int64 [m] out: place of the window's first token (less than `beside` before it at a context's start)
    acts         float32 [m, 2 beside + 2], zeros, out: of the token before the window, then of the window's tokens
    """
    for i in range(lo, hi):
        e, f = picks[i], feature_of[i]
        p = place[e]
        begin = p // length * length
        w = max(p - beside, begin)
        end = min(p + beside + 1, begin + length)
        first_token[i] = w
        at = e
        while at > start[f] and place[at - 1] >= max(w - 1, begin):
            at -= 1
        while at < start[f + 1] and place[at] < end:
            acts[i, place[at] - w + 1] = value[at]
            at += 1


@ranged
def listed_before(listed_r, listed, r, g):
    """Whether feature g with correlation r goes before one that is listed (-1: none is)."""
    return listed < 0 or before(r, listed_r, g, listed)


@ranged
def correlate(start, place, value, rows_start, rows_feature, rows_value, n, stats, other, best, best_r, lo, hi):
    """Of each feature the features of another dictionary whose activations correlate most with its own (Pearson).

    rows_*       the other's entries by place
    n            tokens; stats, other: float64 [2, F]: sums of activations and of their squares, of both dictionaries
    best         int32 [F, k] out: largest r first (-1: no more); best_r float64 [F, k] out
    """
    G = other.shape[1]
    acc = np.zeros(G)
    seen = np.zeros(G, np.bool_)
    touched = np.empty(G, np.int64)
    for f in range(lo, hi):
        m = 0
        for e in range(start[f], start[f + 1]):
            v = np.float64(value[e])
            for q in range(rows_start[place[e]], rows_start[place[e] + 1]):
                g = rows_feature[q]
                if not seen[g]:
                    seen[g] = True
                    touched[m] = g
                    m += 1
                acc[g] += v * rows_value[q]
        best[f] = -1
        own = stats[1, f] - stats[0, f] * stats[0, f] / n
        for i in range(m):
            g = touched[i]
            theirs = other[1, g] - other[0, g] * other[0, g] / n
            r = -1.0
            if own > 0 and theirs > 0:
                r = (acc[g] - stats[0, f] * other[0, g] / n) / np.sqrt(own * theirs)
            acc[g], seen[g] = 0.0, False
            if r <= 0:
                continue
            j = best.shape[1]
            while j > 0 and listed_before(best_r[f, j - 1], best[f, j - 1], r, g):
                if j < best.shape[1]:
                    best[f, j], best_r[f, j] = best[f, j - 1], best_r[f, j - 1]
                j -= 1
            if j < best.shape[1]:
                best[f, j], best_r[f, j] = g, r


@ranged
def class_tops(x, sign, tops):
    """The largest sign * x[v] of the v that leave the same remainder by len(tops). -inf where there is none."""
    classes, n = len(tops), len(x)
    tops[:] = -np.inf
    for c in range(0, n - classes + 1, classes):
        some = x[c : c + classes]
        for i in range(classes):
            tops[i] = max(sign * some[i], tops[i])
    for v in range(n - n % classes, n):
        tops[v % classes] = max(sign * x[v], tops[v % classes])


@ranged
def nth_largest(x, room):
    """The len(room)-th largest, from 1, of as many numbers or more."""
    n = 0
    for i in range(len(x)):
        if n == len(room) and x[i] <= room[n - 1]:
            continue
        n = min(n + 1, len(room))
        j = n - 1
        while j > 0 and x[i] > room[j - 1]:
            room[j] = room[j - 1]
            j -= 1
        room[j] = x[i]
    return room[len(room) - 1]


@ranged
def one_end(x, sign, k, tops, at, values):
    """The k largest of sign * x, largest first and of equal ones the earlier: where (`at`), and x there (`values`).

    At least k numbers reach the k-th largest of the maxima of classes, and few do: only their classes are looked at.
    """
    classes, n = len(tops), len(x)
    class_tops(x, sign, tops)
    bound = nth_largest(tops, values)
    found = 0
    for c in range(classes):
        if tops[c] < bound:
            continue
        for v in range(c, n, classes):
            y = sign * x[v]
            if y < bound or (found == k and not before(y, sign * values[k - 1], v, at[k - 1])):
                continue
            j = min(found, k - 1)
            while j > 0 and before(y, sign * values[j - 1], v, at[j - 1]):
                at[j], values[j] = at[j - 1], values[j - 1]
                j -= 1
            at[j], values[j] = v, x[v]
            found = min(found + 1, k)


@ranged
def ends(x, k, tops, up, up_values, down, down_values):
    """The k places of the largest of x, largest first, and of the smallest; `tops` is room, of CLASSES numbers."""
    one_end(x, _PLUS, k, tops, up, up_values)
    one_end(x, _MINUS, k, tops, down, down_values)


@ranged
def extremes(rows, k, high, high_values, low, low_values, lo, hi):
    """`ends` of rows lo to hi of [m, V]: outs [m, k] each."""
    tops = np.empty(CLASSES, rows.dtype)
    for i in range(lo, hi):
        ends(rows[i], k, tops, high[i], high_values[i], low[i], low_values[i])


@ranged
def changes(after, after_row, before_, before_row, k, up, up_values, down, down_values, lo, hi):
    """`ends` of after[after_row[i]] - before_[before_row[i]], which is held for one i at a time. Outs [m, k] each."""
    x, tops = np.empty(after.shape[1], after.dtype), np.empty(CLASSES, after.dtype)
    for i in range(lo, hi):
        a, b = after[after_row[i]], before_[before_row[i]]
        for v in range(len(x)):
            x[v] = a[v] - b[v]
        ends(x, k, tops, up[i], up_values[i], down[i], down_values[i])


@ranged
def histogram(rows, low, high, counts, first, last):
    """Counts of each of rows [m, V] in equal buckets between its low and high; all in the first if they are equal."""
    buckets = counts.shape[1]
    for i in range(first, last):
        width = np.float64(high[i]) - np.float64(low[i])
        for v in range(rows.shape[1]):
            b = int((np.float64(rows[i, v]) - np.float64(low[i])) / width * buckets) if width > 0 else 0
            counts[i, min(b, buckets - 1)] += 1
