"""The order of the stream against a brute-force reading of its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.rows import order as order_module
from monosem.rows.order import StreamOrder, plan_order, segment_pieces

ORDERS = [
    StreamOrder(0, 40, 16, 8, 2, 3, 4),
    StreamOrder(5, 41, 10, 10, 1, 4, 5),
    StreamOrder(2**63 - 1, 13, 4, 4, 3, 2, 1),
    StreamOrder(7, 100, 12, 6, 5, 5, 6),
]


def stream_by_hand(order: StreamOrder, segments: int) -> list[tuple[int, int]]:
    """(j, rho) of each row, by dealing rows into segments one at a time."""
    K, r, G = order.contexts_per_block, order.rows_per_context, order.generations
    rows = []
    for s in range(G - 1, G - 1 + segments):
        canonical = [((s - g) * K + kappa, i * G + g) for g in range(G) for kappa in range(K) for i in range(r // G)]
        segment = [None] * (K * r)
        for w, row in enumerate(canonical):
            segment[int(order.phi(s)(np.array([w]))[0])] = row
        rows += segment
    return rows


@pytest.mark.parametrize("order", ORDERS)
def test_rows_and_places_match_brute_force(order):
    expected = stream_by_hand(order, 5)
    j, rho = order.row(np.arange(len(expected)))
    assert list(zip(j.tolist(), rho.tolist(), strict=True)) == expected
    assert order.place(j, rho).tolist() == list(range(len(expected)))


@pytest.mark.parametrize("order", ORDERS)
def test_exactly_once_and_the_stated_drop(order):
    """Of the first blocks, exactly K*r*(G-1)/2 rows are never emitted; every other row appears once."""
    K, r, G = order.contexts_per_block, order.rows_per_context, order.generations
    j, rho = np.divmod(np.arange(K * r * (3 * G)), r)
    places = order.place(j, rho)
    assert (places < 0).sum() == K * r * (G - 1) // 2
    emitted = places[places >= 0]
    assert len(np.unique(emitted)) == len(emitted)
    whole = K * r * (3 * G - (G - 1))  # segments whose blocks are all among these
    assert set(range(whole)) <= set(emitted.tolist())


@pytest.mark.parametrize("order", ORDERS)
def test_an_epoch_visits_contexts_once(order):
    for epoch in range(3):
        n = order.contexts_per_epoch
        contexts = order.context(np.arange(epoch * n, (epoch + 1) * n))
        assert len(np.unique(contexts)) == n and contexts.max() < order.n_contexts
    first, second = (order.context(np.arange(n * e, n * e + n)).tolist() for e in (0, 1))
    assert first != second


@pytest.mark.parametrize("order", ORDERS)
def test_tiles_are_the_rows_of_the_segment(order):
    """Items and tiles, as workers and shards use them, say the same as the row map."""
    for u in range(3):
        seen = set()
        for item, g in order.items_of_segment(u):
            places = order.tile_places(u, item, g)
            j, rho = order.row(u * order.segment_rows + places)
            places_j = order.item_places(item)
            tokens = order.by_tile(np.stack([order.tokens(a) for a in places_j]))[g].reshape(-1)
            assert (j // order.contexts_per_item == item).all()
            assert [order.tokens(int(a))[b] for a, b in zip(j, rho, strict=True)] == tokens.tolist()
            assert (order.tile_segment(item, g) == u) and set(j.tolist()) == set(places_j)
            seen |= set(places.tolist())
        assert seen == set(range(order.segment_rows))


def test_tokens_of_a_context_are_distinct():
    order = ORDERS[0]
    for j in range(50):
        tokens = order.tokens(j)
        assert len(set(tokens.tolist())) == order.rows_per_context and tokens.max() < order.context_length


def test_tokens_come_from_the_positions_that_are_kept():
    order = ORDERS[0]
    keep = np.array([1, 2, 5, 6, 8, 9, 11, 12, 15])
    for j in range(50):
        tokens = order.tokens(j, keep)
        assert len(set(tokens.tolist())) == 8 and set(tokens.tolist()) <= set(keep.tolist())
    assert len({tuple(order.tokens(j, keep)) for j in range(50)}) == 50
    with pytest.raises(ValueError, match="keeps 7 positions"):
        order.tokens(0, keep[:7])


@pytest.mark.parametrize("order", ORDERS)
def test_places_of_contexts_are_the_inverse(order):
    n = order.contexts_per_epoch
    for epoch in range(3):
        j = order.place_of_context(np.arange(order.n_contexts), epoch)
        used = j[j >= 0]
        assert sorted(used.tolist()) == list(range(epoch * n, (epoch + 1) * n))
        assert order.context(used).tolist() == np.flatnonzero(j >= 0).tolist()


@pytest.mark.parametrize("order", ORDERS)
def test_large_segments_obey_the_same_laws(order, monkeypatch):
    """Segments beyond LARGEST_TABLE take another permutation; here every segment does."""
    monkeypatch.setattr(order_module, "LARGEST_TABLE", 0)
    order_module._phi.cache_clear()
    try:
        test_rows_and_places_match_brute_force(order)
        test_exactly_once_and_the_stated_drop(order)
        test_tiles_are_the_rows_of_the_segment(order)
    finally:
        order_module._phi.cache_clear()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([(64, 32, 16, 300), (1024, 256, 4, 64), (2**20, 2**10, 64, 2**7), (256, 128, 1, 2**13)]),
    st.sampled_from([10**6, 2**33 + 7, 2**40]),
    st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=8),
)
def test_rows_up_to_2_to_the_40_go_there_and_back(seed, shape, n_contexts, rows):
    length, r, per_item, items = shape
    order = StreamOrder(seed, n_contexts, length, r, per_item, items, 16)
    t = np.array(rows)
    j, rho = order.row(t)
    assert order.place(j, rho).tolist() == rows
    assert (rho >= 0).all() and (rho < r).all() and (j >= 0).all()
    context, epoch = order.context(j), j // order.contexts_per_epoch
    assert (context >= 0).all() and (context < n_contexts).all()
    for c, e, place in zip(context, epoch, j, strict=True):
        assert order.place_of_context(np.array([c]), int(e)).tolist() == [place]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_small_order_emits_each_row_once(data):
    generations = data.draw(st.integers(1, 6))
    r = generations * data.draw(st.integers(1, 3))
    per_item, items = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    n = per_item * items * data.draw(st.integers(1, 4)) + data.draw(st.integers(0, 5))
    order = StreamOrder(data.draw(st.integers(0, 2**64 - 1)), n, r + 3, r, per_item, items, generations)
    test_exactly_once_and_the_stated_drop(order)
    test_places_of_contexts_are_the_inverse(order)
    t = np.arange(order.segment_rows * 4)
    assert order.place(*order.row(t)).tolist() == t.tolist()


def test_golden_order():
    """Changes to these numbers change every stored sweep's stream."""
    order = StreamOrder(0, 1000, 64, 16, 4, 8, 8)
    j, rho = order.row(np.array([0, 1, 2, 511, 512, 100_000]))
    assert [j.tolist(), rho.tolist()] == [[216, 188, 97, 133, 125, 6475], [1, 10, 12, 3, 13, 0]]
    assert order.context(np.array([0, 1, 2, 992])).tolist() == [880, 456, 894, 788]


@pytest.mark.parametrize("shuffle_rows", [2048, 5000, 65536, 10**6])
def test_plan_keeps_about_what_it_was_given(shuffle_rows):
    order = plan_order(0, 10**6, 256, 128, 16, shuffle_rows)
    resident = order.segment_rows * (order.generations + 1) / 2
    assert resident <= shuffle_rows
    assert order.rows_per_context % order.generations == 0


def test_plan_refuses_a_shuffle_smaller_than_one_item():
    with pytest.raises(ValueError, match="at least rows_per_context"):
        plan_order(0, 100, 256, 128, 16, 2047)
    with pytest.raises(ValueError, match="fewer contexts"):
        plan_order(0, 10, 256, 128, 16, 65536)


def test_pieces_cover_a_range():
    assert segment_pieces(5, 25, 10) == [(0, 5, 10), (1, 0, 10), (2, 0, 5)]
    assert segment_pieces(10, 20, 10) == [(1, 0, 10)]
    assert segment_pieces(3, 3, 10) == []
