"""Correlation within groups against made-up rows whose correlation is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.rows.correlation import batch_mean_ratio, kish_design_effect, measure_icc


def grouped(icc: float, groups: np.ndarray, d: int = 16, seed: int = 0) -> np.ndarray:
    """Rows of unit variance whose correlation within a group is `icc`. float32 [n, d]."""
    g = np.random.default_rng(seed)
    shared = g.standard_normal((groups.max() + 1, d))[groups]
    return (icc**0.5 * shared + (1 - icc) ** 0.5 * g.standard_normal((len(groups), d))).astype(np.float32)


def test_by_hand():
    """Groups {1, 3} and {5, 7}: mean squares 16 between and 2 within, two rows each: (16 - 2) / (16 + 2)."""
    assert measure_icc(np.array([[1.0], [5.0], [3.0], [7.0]]), np.array([4, 9, 4, 9])) == pytest.approx(14 / 18)


def test_groups_of_unequal_size_by_hand():
    """Groups {1, 3} and {5}: mean squares 6 and 2, (3 - 5/3) / 1 rows each: (6 - 2) / (6 + 2/3)."""
    assert measure_icc(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 1])) == pytest.approx(0.6)


@pytest.mark.parametrize("icc", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("unequal", [False, True])
def test_known_correlation_is_found(icc, unequal):
    sizes = np.arange(2000) % 12 + 1 if unequal else np.full(2000, 6)
    groups = np.random.default_rng(1).permutation(np.repeat(np.arange(2000), sizes))
    assert measure_icc(grouped(icc, groups), groups) == pytest.approx(icc, abs=0.02)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.floats(-100, 100), st.floats(0.01, 100))
def test_place_scale_and_order_of_rows_do_not_matter(seed, shift, scale):
    g = np.random.default_rng(seed)
    groups = np.concatenate([[0, 0, 1], g.integers(0, 6, 40)])
    rows = grouped(0.4, groups, d=3, seed=seed).astype(np.float64)
    icc, at = measure_icc(rows, groups), g.permutation(len(rows))
    assert icc <= 1
    assert measure_icc((rows * scale + shift)[at], groups[at] * 7 - 3) == pytest.approx(icc, abs=1e-6)


def test_copies_and_opposites():
    base = np.random.default_rng(0).standard_normal((50, 4))
    groups = np.tile(np.arange(50), 2)
    assert measure_icc(np.concatenate([base, base]), groups) == pytest.approx(1)
    assert measure_icc(np.concatenate([base, -base]), groups) == pytest.approx(-1)


@pytest.mark.parametrize("rows, groups, what", [
    (np.zeros((4, 2)), [0, 0, 1], "expected"),
    (np.zeros(4), [0, 0, 1, 1], "expected"),
    (np.ones((4, 2)), [0, 0, 1, 1], "alike"),
    (np.eye(4), [0, 0, 0, 0], "two groups"),
    (np.eye(4), [0, 1, 2, 3], "group of two"),
    (np.full((4, 2), np.nan), [0, 0, 1, 1], "finite"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(rows, groups, what):
    with pytest.raises(ValueError, match=what):
        measure_icc(rows, np.array(groups))


@pytest.mark.parametrize("icc, companions", [(0.0, 7), (0.3, 0), (0.3, 3), (0.3, 7)])
def test_batch_means_spread_by_the_design_effect(icc, companions):
    batches, size = 2000, 64
    groups = np.repeat(np.arange(batches * size // (companions + 1)), companions + 1)
    rows = grouped(icc, groups)
    means = rows.reshape(batches, size, -1).mean(axis=1)
    found = batch_mean_ratio(means, size, rows.var(axis=0).sum())
    assert found == pytest.approx(kish_design_effect(companions, icc), rel=0.05)


def test_ratio_refuses_what_has_no_spread():
    for means, variance in ((np.zeros((1, 3)), 1), (np.zeros(3), 1), (np.zeros((3, 3)), 0), (np.zeros((3, 3)), np.nan)):
        with pytest.raises(ValueError):
            batch_mean_ratio(means, 8, variance)
