"""Calls to a buffer shard may overtake each other: what is older must not undo what is newer."""

import asyncio
from types import SimpleNamespace

from monosem.fleet.workers import CALLS_PER_WORKER, BufferShard

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
