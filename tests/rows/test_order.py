"""The order of the stream against a brute-force reading of its definition."""

import numpy as np
import pytest

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
            segment[order.phi(s)[w]] = row
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
            tokens = order.item_tokens(item)[g].reshape(-1)
            assert (j // order.contexts_per_item == item).all()
            assert [order.tokens(int(a))[b] for a, b in zip(j, rho, strict=True)] == tokens.tolist()
            assert order.item_contexts(item)[j % order.contexts_per_item].tolist() == order.context(j).tolist()
            seen |= set(places.tolist())
        assert seen == set(range(order.segment_rows))


def test_tokens_of_a_context_are_distinct():
    order = ORDERS[0]
    for j in range(50):
        tokens = order.tokens(j)
        assert len(set(tokens.tolist())) == order.rows_per_context and tokens.max() < order.context_length


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
