"""Rows with known features: a pure function of the row's number, with the frequencies that are asked for."""

import tracemalloc

import numpy as np
import pytest

from monosem.truth.generator import BLOCK, MOST, Truth, TruthConfig

SMALL = {"features": 60, "d_in": 16, "active": 5.0}


@pytest.mark.parametrize("more", [{}, {"correlation": 0.5, "hierarchy": 0.4, "noise": 0.1}])
def test_rows_do_not_depend_on_how_they_are_asked_for(more):
    truth = Truth(TruthConfig(**SMALL, **more))
    whole, strengths = truth.draw(0, 3 * BLOCK)
    for lo, hi in [(0, 1), (BLOCK - 1, BLOCK + 1), (17, 2500), (2 * BLOCK, 3 * BLOCK)]:
        rows, s = Truth(TruthConfig(**SMALL, **more)).draw(lo, hi)
        assert np.array_equal(rows, whole[lo:hi]) and np.array_equal(s, strengths[lo:hi])
    assert len(np.unique(whole, axis=0)) > 3 * BLOCK - 60  # only rows without features may be alike


@pytest.mark.parametrize("active", [1.0, 5.0, 20.0])
def test_probabilities_sum_to_active_and_fall_as_zipf(active):
    p = Truth(TruthConfig(**SMALL | {"active": active})).probability
    assert abs(p.sum() - active) < 1e-9 and p.max() <= MOST and (np.diff(p) <= 0).all()
    free = np.nonzero(p < MOST)[0]
    assert np.allclose(p[free] * (free + 1) ** 0.7, p[free[0]] * (free[0] + 1) ** 0.7)


def test_more_than_there_can_be_is_an_error():
    with pytest.raises(ValueError, match="too many for 60 features"):
        _ = Truth(TruthConfig(**SMALL | {"active": 31.0})).probability


@pytest.mark.parametrize("more", [
    {},
    {"correlation": 0.7},
    {"hierarchy": 0.5},
    {"correlation": 0.5, "hierarchy": 0.5},
    {"correlation": 0.9, "hierarchy": 1.0},
    {"correlation": 1.0, "hierarchy": 1.0, "group": 3},
    {"correlation": 1.0, "hierarchy": 0.7, "group": 25},
    {"correlation": 0.8, "hierarchy": 1.0, "group": 60},
])  # fmt: skip
def test_every_feature_is_as_frequent_as_asked(more):
    """Each within five standard errors. Rows are independent, so the error of one feature is binomial whatever the
    others do; and that one of 60 is as far off has a probability below 60 x 6e-7, however they hang together."""
    truth = Truth(TruthConfig(**SMALL, **more))
    n = 40 * BLOCK
    active = truth.draw(0, n)[1] > 0
    error = (active.mean(axis=0) - truth.probability) / np.sqrt(truth.probability * (1 - truth.probability) / n)
    assert np.abs(error).max() < 5


def test_rows_take_little_more_memory_than_they_are():
    truth = Truth(TruthConfig(features=64, d_in=16, active=5.0))
    want = truth.draw(5, 64 * BLOCK - 7)[0]
    tracemalloc.start()
    rows = truth.rows(5, 64 * BLOCK - 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(rows, want) and rows.dtype == want.dtype and peak < 3 * rows.nbytes


def test_strengths_have_mean_one_and_least_a_half():
    strengths = Truth(TruthConfig(**SMALL, hierarchy=0.3)).draw(0, 40 * BLOCK)[1]
    some = strengths[strengths > 0]
    assert some.min() >= 0.5 and abs(some.mean() - 1) < 0.01 and abs(some.std() - 0.5) < 0.01


def test_children_come_only_with_their_parents():
    truth = Truth(TruthConfig(**SMALL, hierarchy=0.6))
    active = truth.draw(0, 8 * BLOCK)[1] > 0
    children = np.nonzero(truth.parent >= 0)[0]
    assert 20 < len(children) < 50
    for child in children:
        assert truth.parent[child] < child and not (active[:, child] & ~active[:, truth.parent[child]]).any()


def test_features_of_a_group_come_together():
    def correlation(rho: float) -> float:
        active = (Truth(TruthConfig(**SMALL, correlation=rho)).draw(0, 30 * BLOCK)[1] > 0).astype(float)
        c = np.corrcoef(active.T)
        return float(np.mean([c[8 * g + 3, 8 * g + 5] for g in range(7)]))

    assert abs(correlation(0.0)) < 0.02 and correlation(0.9) > 0.5


def test_a_row_is_the_sum_of_its_features():
    truth = Truth(TruthConfig(**SMALL, hierarchy=0.2))
    rows, strengths = truth.draw(100, 300)
    assert np.allclose(rows, strengths @ truth.directions + truth.bias, atol=1e-5)
    assert np.allclose(np.linalg.norm(truth.directions, axis=1), 1, atol=1e-6)
    noisy = Truth(TruthConfig(**SMALL, hierarchy=0.2, noise=0.3)).draw(100, 300)[0]
    assert abs((noisy - rows).std() - 0.3) < 0.02
