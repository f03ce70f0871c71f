"""The stream that learners see against the activations computed row by row."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from monosem.host.stored import load_host
from monosem.learn.recent import RecentRows
from monosem.rows.order import StreamOrder
from monosem.stream.fill import TOGETHER, Fillings, joined
from monosem.stream.harvest import Harvester, StreamText, item_digest
from monosem.stream.mix import Tiles, assemble, mix_part, part_tiles
from monosem.stream.reader import LocalSource, RowReader
from monosem.stream.records import columns_of, item_batch, part_batch, places_of, rows_of
from monosem.text.selection import Selection
from monosem.text.tokens import TokenIndex

ORDER = StreamOrder(seed=3, n_contexts=50, context_length=32, rows_per_context=8, contexts_per_item=4,
                    items_per_block=3, generations=4)  # fmt: skip

POINTS = ("mlp.post", "resid_pre", "attn.z")


@pytest.fixture(scope="module")
def harvester(tiny_host):
    tokens = np.random.default_rng(0).integers(0, 300, (50, 32)).astype(np.uint16)
    index = TokenIndex(tokens, np.zeros(1, np.int64), np.zeros(1, np.int32), ("",))
    text = StreamText(index, Selection(index, 8, 0, frozenset()), ORDER)
    return Harvester(load_host(tiny_host).model, text, POINTS, threads=1)


def reader(harvester: Harvester, hook_point: str = "mlp.post") -> RowReader:
    return RowReader(LocalSource(harvester), ORDER, hook_point)


def expected_row(harvester: Harvester, t: int, hook_point: str = "mlp.post") -> np.ndarray:
    """Row t by the definition: which context, which token, then the whole context through the host."""
    j, rho = ORDER.row(np.array([t]))
    context = int(ORDER.context(j)[0])
    token = int(ORDER.tokens(int(j[0]))[int(rho[0])])
    ids = torch.from_numpy(harvester.text.index.tokens_NT[[context]].astype(np.int64))
    return harvester.model.capture(ids, [hook_point])[hook_point][0, token].numpy()


@pytest.mark.parametrize("hook_point", POINTS)
def test_rows_are_the_activations_the_order_names(harvester, hook_point):
    rows = reader(harvester, hook_point).rows(0, 400)
    for t in [0, 1, 50, 95, 96, 97, 250, 399]:
        assert np.allclose(rows[t].numpy(), expected_row(harvester, t, hook_point), atol=1e-5)


def test_reading_in_any_pieces_gives_the_same_bits(harvester):
    whole = reader(harvester).rows(0, 500)
    again = reader(harvester)
    cuts = [0, 7, 96, 100, 300, 500]
    assert torch.equal(torch.cat([again.rows(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]), whole)
    assert torch.equal(again.rows(10, 110), whole[10:110])  # back again
    assert torch.equal(reader(harvester).rows(333, 444), whole[333:444])  # from the middle


def part(harvester: Harvester, u: int, shard: int, shards: int, column: int = 0) -> pa.RecordBatch:
    """A shard's part of segment u from fresh items."""
    chosen, tiles = part_tiles(ORDER, u, shard, shards), Tiles(ORDER)
    for item in tiles.missing(chosen):
        tiles.add(item, columns_of(harvester.item(item)), [range(u, u + 1)])
    return mix_part(ORDER, u, chosen, tiles.take(chosen))[column]


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_any_number_of_shards_makes_the_same_segments(harvester, shards):
    whole = LocalSource(harvester)
    for u in (0, 1, 7):
        for column, hook_point in enumerate(POINTS):
            parts = [part(harvester, u, k, shards, column) for k in range(shards)]
            assert np.array_equal(assemble(ORDER, parts), whole.segment(u, hook_point))


def test_a_missing_part_is_noticed(harvester):
    with pytest.raises(ValueError, match="parts hold"):
        assemble(ORDER, [part(harvester, 0, 0, 2)])


def test_an_item_is_a_pure_function_of_its_number(harvester):
    again = Harvester(harvester.model, harvester.text, POINTS, threads=1)
    for item in (5, 0, 13, 5):
        assert harvester.item(item).equals(again.item(item))
        assert item_digest(harvester.item(item)) == item_digest(again.item(item))
    assert item_digest(harvester.item(1)) != item_digest(harvester.item(2))


def test_one_forward_pass_per_item_feeds_every_hook_point(harvester, monkeypatch):
    passes = []
    real = type(harvester.model).forward
    monkeypatch.setattr(type(harvester.model), "forward", lambda *a, **k: passes.append(1) or real(*a, **k))
    source = LocalSource(harvester)
    readers = [RowReader(source, ORDER, name) for name in POINTS]
    for lo in range(0, 5 * ORDER.segment_rows, 32):
        for r in readers:
            r.rows(lo, lo + 32)
    assert len(passes) == (5 + ORDER.generations - 1) * ORDER.items_per_block


@pytest.mark.parametrize("bad", [False, True])
def test_a_stream_on_the_hosts_device_has_the_same_rows(harvester, monkeypatch, bad):
    if bad:
        capture = type(harvester.model).capture

        def broken(self, tokens, points):
            found = capture(self, tokens, points)
            found["resid_pre"][2, ::3, 5] = float("inf")
            return found

        monkeypatch.setattr(type(harvester.model), "capture", broken)
    here, there = LocalSource(harvester), LocalSource(harvester, device=harvester.device)
    n = ORDER.segment_rows
    for point in POINTS:
        a, b = RowReader(here, ORDER, point), RowReader(there, ORDER, point)
        for lo, hi in ((0, 7), (n - 5, n + 5), (3 * n, 3 * n + 9), (7 * n - 1, 8 * n + 3)):
            assert np.array_equal(a.rows(lo, hi).numpy(), b.rows(lo, hi).cpu().numpy(), equal_nan=True)
            assert bool(a.rows(lo, hi).isnan().any()) <= bad


def test_what_waits_for_its_segment_is_bounded(harvester):
    """G - 1 segments under way in one process; tiles of K*r*(G+1)/2 rows, less the segment just taken, in a shard."""
    source, tiles = LocalSource(harvester), Tiles(ORDER)
    for u in range(12):
        source.segment(u, "mlp.post")
        assert sorted(source.fillings.held) == list(range(u + 1, u + ORDER.generations))
        chosen = part_tiles(ORDER, u, 0, 1)
        for item in tiles.missing(chosen):
            tiles.add(item, columns_of(harvester.item(item)), [range(u, u + ORDER.generations)])
        tiles.take(chosen)
        assert sum(len(rows[0]) for rows in tiles.held.values()) == ORDER.segment_rows * (ORDER.generations - 1) // 2


def test_batches_across_segments_of_one_group_are_views_and_others_copies(harvester):
    again, n = reader(harvester), ORDER.segment_rows
    whole = reader(harvester).rows(0, (TOGETHER + 1) * n)
    for u in range(1, TOGETHER + 1):
        batch = again.rows(u * n - 5, u * n + 5)
        assert torch.equal(batch, whole[u * n - 5 : u * n + 5])
        assert np.shares_memory(batch.numpy(), again.rows(u * n, u * n + 5).numpy()) == (u % TOGETHER != 0)


def test_pieces_that_are_not_neighbours_are_copied():
    rows = np.arange(24, dtype=np.float32).reshape(12, 2).copy()
    for cuts in ([(0, 4), (4, 9)], [(0, 4), (5, 9)], [(4, 8), (0, 4)], [(3, 3), (3, 5)], [(2, 7)]):
        pieces = [rows[a:b] for a, b in cuts]
        assert np.array_equal(joined(pieces), np.concatenate(pieces))
    assert np.shares_memory(joined([rows[2:4], rows[4:5]]), rows)
    assert not np.shares_memory(joined([rows[:1], rows[2:3]]), rows)
    flat = np.arange(24, dtype=np.float32).reshape(12, 2)  # a view of an array of another shape
    assert np.array_equal(joined([flat[:2], flat[2:5]]), flat[:5])


def test_a_segment_is_not_given_before_all_of_its_tiles_are_in_place(harvester):
    fillings = Fillings(ORDER)
    for item in fillings.begin(0)[:-1]:
        harvester.put(item, fillings.place_of(item, 0))
    with pytest.raises(ValueError, match="lacks"):
        fillings.take(0)


def test_a_row_that_is_not_finite_is_masked_and_no_other(harvester, monkeypatch):
    real = harvester.item(3)
    capture = type(harvester.model).capture

    def broken(self, tokens, points):
        found = {name: x.clone() for name, x in capture(self, tokens, points).items()}
        found["resid_pre"][2, :, 5] = float("inf")
        found["mlp.post"][1, :, 7] = float("nan")
        found["attn.z"][:] = torch.finfo(torch.float32).max  # finite, but its sum is not
        return found

    monkeypatch.setattr(type(harvester.model), "capture", broken)
    mlp, resid, z = columns_of(harvester.item(3))
    contexts = np.broadcast_to(np.arange(4)[None, :, None], (4, 4, 2)).reshape(-1)
    for rows, before, bad in ((mlp, rows_of(real, "x0"), 1), (resid, rows_of(real, "x1"), 2)):
        assert np.isnan(rows[contexts == bad]).all()
        assert np.array_equal(rows[contexts != bad], before[contexts != bad])
    assert np.isfinite(z).all()


def test_records_are_views_and_survive_ipc():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    batch = part_batch(np.array([2, 0, 3, 1]), rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    again = pa.ipc.open_stream(sink.getvalue()).read_next_batch()
    assert np.array_equal(rows_of(again), rows) and places_of(again).tolist() == [2, 0, 3, 1]
    with pytest.raises(ValueError, match="read-only"):
        rows_of(again)[0, 0] = 1
    with pytest.raises(ValueError, match="float32"):
        item_batch(rows.astype(np.float64))


def test_batches_share_no_memory_with_a_source_that_is_not_private(harvester):
    """Ray's segments are views of the object store, which torch would let anybody overwrite."""
    shared = LocalSource(harvester)
    shared.private = False
    again = RowReader(shared, ORDER, "mlp.post")
    first = again.rows(0, 10)
    kept = first.clone()
    first.zero_()
    assert torch.equal(again.rows(0, 10), kept)


@pytest.mark.parametrize("start", [0, 5, 11, 12])
def test_recent_rows_do_not_depend_on_where_one_started(harvester, start):
    """The rows before step 12, kept as they pass or read again after a restart at `start`."""
    again = reader(harvester)
    recent = RecentRows(again.rows, [12], batch_size=20, rows=70)
    for step in range(start, 12):
        recent.add(step, again.rows(step * 20, step * 20 + 20))
    assert torch.equal(recent.before(12), again.rows(12 * 20 - 70, 12 * 20))
    assert not recent.held


def test_recent_rows_at_the_very_start(harvester):
    again = reader(harvester)
    assert torch.equal(RecentRows(again.rows, [2], 20, 1000).before(2), again.rows(0, 40))
