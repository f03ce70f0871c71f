from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from monosem.rows import permute
from monosem.rows.permute import CONTEXTS, TOKENS, Feistel, shuffled, uniforms, words


@pytest.mark.parametrize("n", [*range(1, 300), 4095, 4096, 4097])
def test_feistel_is_a_bijection(n):
    image = Feistel(n, 3, CONTEXTS, 1)(np.arange(n))
    assert sorted(image) == list(range(n))


@pytest.mark.parametrize("k", range(10, 21))
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_feistel_around_powers_of_two(k, off):
    n = 2**k + off
    image = Feistel(n, 3, CONTEXTS, 1)(np.arange(n))
    assert np.bincount(image, minlength=n).max() == 1


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 2**40), seed=st.integers(0, 2**64 - 1), data=st.data())
def test_feistel_inverse_at_large_sizes(n, seed, data):
    permutation = Feistel(n, seed, CONTEXTS, 0)
    x = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50)))
    y = permutation(x)
    assert ((0 <= y) & (y < n)).all()
    assert (permutation.inverse(y) == x).all()


def test_shuffled_is_uniform_on_a_small_domain():
    """All 24 orders of 4 values are equally likely: chi-square below its 99.99 % quantile (23 degrees)."""
    seen = np.zeros(24)
    names: dict[tuple, int] = {}
    for i in range(4800):
        seen[names.setdefault(tuple(shuffled(5, CONTEXTS, i, 4)), len(names))] += 1
    assert ((seen - 200) ** 2 / 200).sum() < 58.6


def test_golden_values():
    """The order of every stored sweep rests on these numbers; they may never change."""
    assert words(1, 2, 3, 3).tolist() == [4173870992419449598, 18181643159293307717, 11950546442117111877]
    assert shuffled(1, 2, 3, 8).tolist() == [7, 6, 0, 3, 5, 2, 4, 1]
    assert Feistel(1000, 1, 1, 0)(np.arange(6)).tolist() == [8, 310, 431, 375, 859, 452]


def test_keys_differ_by_every_part():
    seen = {tuple(words(*key, 2)) for key in [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]}
    assert len(seen) == 4
    with pytest.raises(ValueError, match="key out of range"):
        words(2**64, 1, 0, 1)


def test_uniforms_lie_in_the_unit_interval():
    u = uniforms(9, 1, 0, 10_000)
    assert 0 <= u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.02


def test_shuffled_keeps_the_stable_order_where_two_keys_are_equal(monkeypatch):
    equal = np.array([7, 3, 7, 1, 3, 7, 1] * 40, dtype=np.uint64)
    monkeypatch.setattr("monosem.rows.permute.words", lambda *key: equal)
    assert np.array_equal(shuffled(0, CONTEXTS, 0, len(equal)), np.argsort(equal, kind="stable"))


@pytest.mark.parametrize("n", [1, 7, 256])
def test_many_permutations_at_once_are_those_one_by_one(n, monkeypatch):
    indices = [0, 5, 2**40, 3]
    monkeypatch.setattr(permute, "words", lambda *a, real=permute.words: real(*a) >> np.uint64(60 if n == 7 else 0))
    found = permute.shuffled_each(9, TOKENS, indices, n)  # of seven with four bits each, some are equal
    assert np.array_equal(found, [permute.shuffled(9, TOKENS, i, n) for i in indices])


def test_words_are_those_of_a_generator_of_its_own_in_every_thread():
    def one(i: int) -> bool:
        key = (11 << 64) | (TOKENS << 60) | i
        return np.array_equal(permute.words(11, TOKENS, i, 33), np.random.Philox(key=key).random_raw(33))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(2000)))
