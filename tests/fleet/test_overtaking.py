"""Calls to a buffer shard may overtake each other: what is older must not undo what is newer."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from monosem.errors import MonosemError
from monosem.fleet import workers
from monosem.fleet.workers import CALLS_PER_WORKER, BufferShard
from monosem.host.stored import load_host
from monosem.rows.order import StreamOrder
from monosem.stream.harvest import Harvester, StreamText, item_digest
from monosem.stream.mix import assemble
from monosem.stream.reader import LocalSource
from monosem.text.selection import Selection
from monosem.text.tokens import TokenIndex

Shard = BufferShard.__ray_metadata__.modified_class


def test_an_older_list_of_workers_does_not_take_the_newer_ones_away():
    async def slots(*calls: tuple[dict, int]) -> tuple[dict, list[int]]:
        shard = SimpleNamespace(workers={}, edition=0, slots=asyncio.Queue())
        for workers, edition in calls:
            await Shard.set_workers(shard, workers, edition)
        return shard.workers, [shard.slots.get_nowait() for _ in range(shard.slots.qsize())]

    calls = ({}, 1), ({4: "a"}, 2), ({4: "a", 7: "b"}, 3)
    wanted = calls[-1][0]
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)):
        workers, found = asyncio.run(slots(*(calls[i] for i in order)))
        assert workers == wanted and sorted(found) == sorted([4, 7] * CALLS_PER_WORKER)


ORDER = StreamOrder(seed=3, n_contexts=50, context_length=32, rows_per_context=8, contexts_per_item=4,
                    items_per_block=3, generations=4)  # fmt: skip


@pytest.fixture(scope="module")
def harvester(tiny_host):
    tokens = np.random.default_rng(0).integers(0, 300, (50, 32)).astype(np.uint16)
    index = TokenIndex(tokens, np.zeros(1, np.int64), np.zeros(1, np.int32), ("",))
    return Harvester(
        load_host(tiny_host).model, StreamText(index, Selection(index, 8, 0, frozenset()), ORDER), ("mlp.post",), 1
    )


@pytest.fixture
def shard(harvester, monkeypatch):
    """The only shard, outside of a cluster: who owns the rows is not the matter here. Its `gate` holds up workers."""

    async def harvest(item: int) -> tuple:
        shard.harvested.append(item)
        await shard.gate.wait()
        batch = harvester.item(item)
        return batch, item_digest(batch)

    monkeypatch.setattr(workers, "shapes_of", lambda spec: SimpleNamespace(ahead=2))
    monkeypatch.setattr(workers.ray, "put", lambda part: part)
    shard = Shard(SimpleNamespace(order=ORDER, job=SimpleNamespace(stream=SimpleNamespace(detach_after_s=0))), 0, 1)
    shard._harvest, shard.harvested, shard.gate = harvest, [], asyncio.Event()
    return shard


def rows_of(answer: list) -> np.ndarray:
    return assemble(ORDER, answer)


async def a_while() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_pull_that_overtook_the_announcement_is_asked_for_again_and_served(shard, harvester):
    """A resumed reader's first pull, of segment 9, is there before an older call says that it is at segment 0. What is
    made for 9 is dropped then, since nobody is near it; the reader hears None, asks once more and must get its rows."""

    async def meeting() -> tuple:
        first = asyncio.create_task(shard.pull("reader", 9, [0]))
        while not shard.harvested:
            await asyncio.sleep(0)
        await shard.join("reader", 0)
        shard.gate.set()
        return await first, await shard.pull("reader", 9, [0])

    overtaken, again = asyncio.run(meeting())
    assert overtaken is None
    assert np.array_equal(rows_of(again), LocalSource(harvester).segment(9, "mlp.post"))


def test_what_was_given_up_for_one_call_is_made_for_the_next(shard, harvester):
    """A pull that waited for room gets it when its reader is past that segment, and gives it up. When the reader comes
    back to it, as one that was resumed from a checkpoint does, nothing of that may be left."""

    async def meeting() -> tuple:
        shard.gate.set()
        await shard.join("other", 0)
        waiting = asyncio.create_task(shard.pull("reader", 9, [0]))
        await a_while()
        assert not waiting.done()
        await shard.join("reader", 12)
        await shard.leave("other")
        return await waiting, await shard.pull("reader", 9, [0])

    late, again = asyncio.run(meeting())
    assert late is None
    assert np.array_equal(rows_of(again), LocalSource(harvester).segment(9, "mlp.post"))


def test_a_call_of_a_reader_that_has_left_holds_nobody_back(shard):
    """Its process lived on for a moment after the shard was told, and asked for one segment more."""

    async def meeting() -> None:
        shard.gate.set()
        for reader in ("a", "b"):
            await shard.join(reader, 0)
        await shard.leave("b")
        for late in (shard.pull("b", 1, [0]), shard.join("b", 1)):
            with pytest.raises(MonosemError, match="b has left"):
                await late
        for segment in range(9):
            await asyncio.wait_for(shard.pull("a", segment, [0]), 20)

    asyncio.run(meeting())


def test_a_worker_that_could_not_be_reached_for_a_moment_is_asked_again(monkeypatch):
    monkeypatch.setattr(workers, "UNREACHED_S", 0.0)
    asked = []

    def remote(item):
        async def call():
            asked.append(item)
            if len(asked) <= 2 * CALLS_PER_WORKER:
                raise ray.exceptions.ActorUnavailableError("a cable was out", None)
            return "rows", "digest"

        return call()

    async def harvest() -> tuple:
        shard = SimpleNamespace(workers={}, edition=0, slots=asyncio.Queue())
        await Shard.set_workers(shard, {1: SimpleNamespace(harvest=SimpleNamespace(remote=remote))}, 1)
        return await asyncio.wait_for(Shard._harvest(shard, 7), 5)

    assert asyncio.run(harvest()) == ("rows", "digest")
