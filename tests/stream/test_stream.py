"""The stream that learners see against the activations computed row by row."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from monosem.host.stored import load_host
from monosem.learn.recent import RecentRows
from monosem.rows.order import StreamOrder
from monosem.stream.harvest import Harvester
from monosem.stream.mix import assemble, mix_part, part_items
from monosem.stream.reader import LocalSource, RowReader
from monosem.stream.records import item_batch, part_batch, places_of, rows_of
from monosem.text.tokens import TokenIndex

ORDER = StreamOrder(seed=3, n_contexts=50, context_length=32, rows_per_context=8, contexts_per_item=4,
                    items_per_block=3, generations=4)  # fmt: skip


@pytest.fixture(scope="module")
def harvester(tiny_host):
    tokens = np.random.default_rng(0).integers(0, 300, (50, 32)).astype(np.uint16)
    index = TokenIndex(tokens, np.zeros(1, np.int64), np.zeros(1, np.int32), ("",))
    return Harvester(load_host(tiny_host).model, index, ORDER, "mlp.post", threads=1)


def expected_row(harvester: Harvester, t: int) -> np.ndarray:
    """Row t by the definition: which context, which token, then the whole context through the host."""
    j, rho = ORDER.row(np.array([t]))
    context = int(ORDER.context(j)[0])
    token = int(ORDER.tokens(int(j[0]))[int(rho[0])])
    ids = torch.from_numpy(harvester.index.tokens_NT[[context]].astype(np.int64))
    return harvester.model.capture(ids, "mlp.post")[0, token].numpy()


def test_rows_are_the_activations_the_order_names(harvester):
    rows = RowReader(LocalSource(harvester), ORDER).rows(0, 400)
    for t in [0, 1, 50, 95, 96, 97, 250, 399]:
        assert np.allclose(rows[t].numpy(), expected_row(harvester, t), atol=1e-5)


def test_reading_in_any_pieces_gives_the_same_bits(harvester):
    whole = RowReader(LocalSource(harvester), ORDER).rows(0, 500)
    reader = RowReader(LocalSource(harvester), ORDER)
    cuts = [0, 7, 96, 100, 300, 500]
    assert torch.equal(torch.cat([reader.rows(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]), whole)
    assert torch.equal(reader.rows(10, 110), whole[10:110])  # back again
    assert torch.equal(RowReader(LocalSource(harvester), ORDER).rows(333, 444), whole[333:444])  # from the middle


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_any_number_of_shards_makes_the_same_segments(harvester, shards):
    whole = LocalSource(harvester)
    for u in (0, 1, 7):
        parts = [mix_part(ORDER, u, part_items(ORDER, u, k, shards), harvester.item) for k in range(shards)]
        assert np.array_equal(assemble(ORDER, [p for p in parts if p is not None]), whole.segment(u))


def test_a_missing_part_is_noticed(harvester):
    part = mix_part(ORDER, 0, part_items(ORDER, 0, 0, 2), harvester.item)
    with pytest.raises(ValueError, match="parts hold"):
        assemble(ORDER, [part])


def test_an_item_is_a_pure_function_of_its_number(harvester):
    again = Harvester(harvester.model, harvester.index, ORDER, "mlp.post", threads=1)
    for item in (5, 0, 13, 5):
        assert harvester.item(item).equals(again.item(item))


def test_items_behind_the_shuffle_are_let_go(harvester):
    source = LocalSource(harvester)
    for u in range(12):
        source.segment(u)
        assert len(source.items) == ORDER.generations * ORDER.items_per_block


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


def test_batches_do_not_share_memory_with_the_stream(harvester):
    reader = RowReader(LocalSource(harvester), ORDER)
    first = reader.rows(0, 10)
    kept = first.clone()
    first.zero_()
    assert torch.equal(reader.rows(0, 10), kept)


@pytest.mark.parametrize("start", [0, 5, 11, 12])
def test_recent_rows_do_not_depend_on_where_one_started(harvester, start):
    """The rows before step 12, kept as they pass or read again after a restart at `start`."""
    reader = RowReader(LocalSource(harvester), ORDER)
    recent = RecentRows(reader, [12], batch_size=20, rows=70)
    for step in range(start, 12):
        recent.add(step, reader.rows(step * 20, step * 20 + 20))
    assert torch.equal(recent.before(12), reader.rows(12 * 20 - 70, 12 * 20))
    assert not recent.held


def test_recent_rows_at_the_very_start(harvester):
    reader = RowReader(LocalSource(harvester), ORDER)
    assert torch.equal(RecentRows(reader, [2], 20, 1000).before(2), reader.rows(0, 40))
