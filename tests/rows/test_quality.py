"""Shuffle quality against counting by hand, and against orders whose quality is known."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.rows.order import StreamOrder, plan_order
from monosem.rows.quality import expected_companions, measure_quality


def by_hand(order: StreamOrder, first: int, n: int) -> tuple[float, int]:
    """(companions per row, the most of any row), pair by pair."""
    j = order.row(np.arange(first, first + n))[0]
    companions = [0] * n
    for a, b in combinations(range(n), 2):
        if j[a] == j[b]:
            companions[a] += 1
            companions[b] += 1
    return sum(companions) / n, max(companions)


@pytest.mark.parametrize("batch", [7, 32, 100])
def test_counts_are_those_by_hand(batch):
    order = StreamOrder(3, 64, 16, 8, 2, 4, 4)
    first = -(-order.segment_rows // batch) * batch
    counted = [by_hand(order, first + n * batch, batch) for n in range(16)]
    q = measure_quality(order, batch)
    assert q.companions == pytest.approx(np.mean([c for c, _ in counted]))
    assert q.most_companions == max(m for _, m in counted)


SHAPES = [(16, 4, 16, 16), (8, 8, 32, 8), (12, 2, 8, 8), (16, 1, 8, 16), (8, 4, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.1, 0.4, 1.0, 1.7, 3.3])
def test_the_closed_form_is_the_mean_over_seeds(shape, share):
    """Batches inside a segment, across two, and over several."""
    r, generations, per_item, items = shape
    measured, expected = [], []
    for seed in range(300):
        order = StreamOrder(seed, 40 * per_item * items, 16, r, per_item, items, generations)
        batch, first = int(order.segment_rows * share), order.segment_rows * 2 + 5
        j = order.row(np.arange(first, first + batch))[0]
        counts = np.unique(j, return_counts=True)[1]
        measured.append((counts * (counts - 1)).sum() / batch)
        expected.append(expected_companions(order, first, batch))
    assert len(set(expected)) == 1
    error = np.std(measured) / np.sqrt(len(measured))
    assert abs(np.mean(measured) - expected[0]) <= 4 * error + 1e-9


def test_one_generation_per_row_has_no_companions_in_a_segment():
    order = StreamOrder(0, 4096, 64, 16, 16, 8, 16)
    q = measure_quality(order, 256)
    assert order.segment_rows % 256 == 0
    assert q.companions == q.expected == 0 and q.entropy == pytest.approx(1) and q.distinct_contexts == 256


def test_orders_that_mix_less_are_worse():
    q = [measure_quality(plan_order(0, 10**6, 256, 128, 16, rows), 256) for rows in (2**13, 2**16, 2**20)]
    assert q[0].companions > q[1].companions > q[2].companions
    assert q[0].entropy < q[1].entropy < q[2].entropy
    for one in q:
        assert one.companions <= 1.1 * one.expected
        assert 0 < one.lags["1"] <= 1


def test_recurrence_ends_where_the_shuffle_ends():
    order = StreamOrder(0, 10**4, 16, 8, 4, 2, 4)  # a context lives in four segments of 64 rows
    q = measure_quality(order, 64)
    assert q.lags["1"] > 0.5 and q.lags["4"] == q.lags["16"] == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from(SHAPES), st.integers(2, 200))
def test_figures_are_in_their_ranges(seed, shape, batch):
    r, generations, per_item, items = shape
    q = measure_quality(StreamOrder(seed, 10**5, 16, r, per_item, items, generations), batch, batches=4)
    assert 0 <= q.companions <= min(batch, r) - 1 + 1e-9 and 0 <= q.entropy <= 1 + 1e-9
    assert 1 <= q.distinct_contexts <= batch and all(0 <= x <= 1 for x in q.lags.values())
