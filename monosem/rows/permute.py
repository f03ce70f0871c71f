"""Permutations that are pure functions of a key: no state, no history, the same on every machine.

Two kinds. `Feistel` permutes any domain up to 2^62 in O(1) memory and has an inverse; it is used for
large domains. `shuffled` is a uniform permutation of a small domain, by sorting counter-based random
words; a Feistel network on a handful of values is visibly non-uniform.

Only raw Philox words are used: NumPy keeps raw bit streams fixed between versions, not the
results of `Generator.shuffle`.
"""

import threading
from collections.abc import Iterable

import numpy as np

ROUNDS = 12

CONTEXTS, SEGMENT, TOKENS, RESAMPLE, INIT, PRETRAIN, SHUFFLE, TRUTH, FEATURES, EVALUATION = range(1, 11)
"""Purposes: the second part of a key, so that no two uses ever share random words."""


_own = threading.local()
"""A bit generator for every thread: to set its state takes a quarter of the time that making one does."""


def words(seed: int, purpose: int, index: int, n: int) -> np.ndarray:
    """`n` random 64-bit words for (seed, purpose, index): Philox-4x64-10. uint64 [n]."""
    if not (0 <= seed < 2**64 and 0 <= purpose < 16 and 0 <= index < 2**60):
        raise ValueError(f"key out of range: seed={seed} purpose={purpose} index={index}")
    if not hasattr(_own, "bits"):
        _own.bits = np.random.Philox(key=0)
        _own.state = _own.bits.state  # at its beginning
    _own.state["state"]["key"][:] = (purpose << 60) | index, seed
    _own.bits.state = _own.state
    return _own.bits.random_raw(n)


def uniforms(seed: int, purpose: int, index: int, n: int) -> np.ndarray:
    """`n` numbers in [0, 1) with 53 random bits each. float64 [n]."""
    return (words(seed, purpose, index, n) >> np.uint64(11)) * 2.0**-53


def shuffled(seed: int, purpose: int, index: int, n: int) -> np.ndarray:
    """A uniform permutation of range(n). int64 [n]."""
    return _ranked(words(seed, purpose, index, n))


def shuffled_each(seed: int, purpose: int, indices: Iterable[int], n: int) -> np.ndarray:
    """`shuffled` for each of the indices, int64 [len(indices), n]: one sort call for all costs a third of many."""
    keys = np.stack([words(seed, purpose, index, n) for index in indices])
    order = np.argsort(keys, axis=1)
    ordered = np.take_along_axis(keys, order, axis=1)
    for tied in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        order[tied] = _ranked(keys[tied])
    return order


def _ranked(keys: np.ndarray) -> np.ndarray:
    """The stable order of `keys`. The default sort is four times as fast, and the same wherever no two are equal."""
    order = np.argsort(keys)
    ordered = keys[order]
    return np.argsort(keys, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


class Feistel:
    """A keyed bijection of range(n) with its inverse: balanced Feistel network and cycle walking.

    The network works on 2h bits, the smallest even number of bits that holds n - 1, so that the
    walk back into range(n) takes at most four steps on average.
    """

    def __init__(self, n: int, seed: int, purpose: int, index: int):
        if not 1 <= n <= 2**62:
            raise ValueError(f"a permutation needs 1 <= n <= 2**62, got {n}")
        self.n = n
        self.half_bits = max(1, -(-(n - 1).bit_length() // 2))
        self.keys = words(seed, purpose, index, ROUNDS) & np.uint64(0xFFFFFFFF)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Where each of `x` goes. int64 [...] in and out."""
        return self._walk(x, self.keys, forward=True)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Which element goes to each of `y`."""
        return self._walk(y, self.keys[::-1], forward=False)

    def _walk(self, x: np.ndarray, keys: np.ndarray, forward: bool) -> np.ndarray:
        x = np.asarray(x, dtype=np.int64)
        if x.size and (x.min() < 0 or x.max() >= self.n):
            raise ValueError(f"value outside range({self.n})")
        y = self._network(x.astype(np.uint64).reshape(-1), keys, forward)
        outside = np.flatnonzero(y >= self.n)
        while len(outside):
            y[outside] = self._network(y[outside], keys, forward)
            outside = outside[y[outside] >= self.n]
        return y.astype(np.int64).reshape(x.shape)

    def _network(self, y: np.ndarray, keys: np.ndarray, forward: bool) -> np.ndarray:
        h, mask = np.uint64(self.half_bits), np.uint64(2**self.half_bits - 1)
        left, right = y >> h, y & mask
        for key in keys:
            if forward:
                left, right = right, left ^ (_mix(right, key) & mask)
            else:
                left, right = right ^ (_mix(left, key) & mask), left
        return (left << h) | right


def drawn(n: int, available: int, seed: int, purpose: int) -> np.ndarray:
    """n of `available` numbers at random, in random order, so that each first part is a sample too; at most all of
    them. int64 [min(n, available)]."""
    if available == 0:
        return np.zeros(0, np.int64)
    return Feistel(available, seed, purpose, 0)(np.arange(min(n, available)))


def _mix(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """A 32-bit integer hash; products of 32-bit values cannot overflow 64 bits."""
    low = np.uint64(0xFFFFFFFF)
    x = (x + key) & low
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D)) & low
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B)) & low
    return x ^ (x >> np.uint64(16))
