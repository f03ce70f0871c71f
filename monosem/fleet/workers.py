"""Model workers and buffer shards: the two actors that make the stream.

A worker turns an item's number into its rows. A shard holds the items of its share, mixes its part of each
segment, puts it into the object store once, and hands out references by index. It calls the workers
itself, so it owns what they make. Both are disposable: everything they hold can be made again.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pyarrow as pa
import ray

from monosem.fleet.cluster import WINDOW
from monosem.stages.learning import make_harvester
from monosem.stages.spec import SweepSpec
from monosem.store.store import open_store
from monosem.stream.mix import mix_part, oldest_item, part_items

CALLS_PER_WORKER = 2
"""Harvest calls in flight per worker and shard: one being computed, one waiting."""


@ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"watch": 1})
class ModelWorker:
    """Runs the host. Stateless: `harvest(item)` is a pure function of the item's number."""

    def __init__(self, spec: SweepSpec):
        self.harvester = make_harvester(spec, open_store(spec.job.store))

    def harvest(self, item: int) -> pa.RecordBatch:
        return self.harvester.item(item)

    @ray.method(concurrency_group="watch")
    def alive(self) -> None:
        """Does not return: a caller that holds this call learns of the worker's death at once."""
        threading.Event().wait()


@ray.remote(max_restarts=0, max_task_retries=0)
class BufferShard:
    """Shard `shard` of `shards`: serves its part of every segment."""

    def __init__(self, spec: SweepSpec, shard: int, shards: int):
        self.order = spec.order
        self.shard, self.shards = shard, shards
        self.cursors: dict[str, int] = {}  # next segment each reader wants
        self.moved = asyncio.Condition()
        self.items: dict[int, asyncio.Task] = {}
        self.parts: dict[int, asyncio.Task] = {}
        self.slots: asyncio.Queue = asyncio.Queue()
        self.workers: dict[int, object] = {}

    async def set_workers(self, workers: dict[int, object]) -> None:
        """The live workers by number. A number is used once: a replacement comes under a new one."""
        for number in workers.keys() - self.workers.keys():
            for _ in range(CALLS_PER_WORKER):
                self.slots.put_nowait(number)
        self.workers = dict(workers)

    async def alive(self) -> None:
        """Does not return, see ModelWorker.alive."""
        await asyncio.Event().wait()

    async def join(self, reader: str, segment: int) -> None:
        """A reader announces where it starts; from then on the shard does not run away from it."""
        await self._move(reader, segment)

    async def leave(self, reader: str) -> None:
        """A reader is done: it holds nothing back any more."""
        async with self.moved:
            self.cursors.pop(reader, None)
            self.moved.notify_all()
        self._forget()

    async def pull(self, reader: str, segment: int) -> list:
        """[reference to this shard's part of `segment`], or [] if it has no rows of it.

        Asking for a segment acknowledges all before it. A reader that is more than WINDOW segments ahead
        of the slowest one waits here: that is the back-pressure.
        """
        await self._move(reader, segment)
        async with self.moved:
            await self.moved.wait_for(lambda: segment <= self._slowest() + WINDOW)
        for ahead in range(self._slowest(), self._slowest() + WINDOW + 1):
            self._start(self.parts, ahead, self._make_part)
        self._start(self.parts, segment, self._make_part)
        return await self.parts[segment]

    async def _move(self, reader: str, segment: int) -> None:
        async with self.moved:
            self.cursors[reader] = segment
            self.moved.notify_all()
        self._forget()

    def _slowest(self) -> int:
        return min(self.cursors.values(), default=0)

    def _forget(self) -> None:
        """Let go of what every reader has passed. A reader that steps back gets it made again."""
        slowest = self._slowest()
        first = oldest_item(self.order, slowest)
        self.parts = {u: task for u, task in self.parts.items() if u >= slowest}
        self.items = {item: task for item, task in self.items.items() if item >= first}

    def _start(self, tasks: dict[int, asyncio.Task], key: int, make: Callable[[int], Awaitable]) -> asyncio.Task:
        if key not in tasks:
            tasks[key] = asyncio.create_task(make(key))
        return tasks[key]

    async def _make_part(self, segment: int) -> list:
        tiles = part_items(self.order, segment, self.shard, self.shards)
        pending = {item: self._start(self.items, item, self._harvest) for item, _ in tiles}
        items = {item: await task for item, task in pending.items()}
        part = await asyncio.to_thread(mix_part, self.order, segment, tiles, items.__getitem__)
        return [] if part is None else [ray.put(part)]

    async def _harvest(self, item: int) -> pa.RecordBatch:
        """Have a worker compute `item`; if it dies, another one does. Who did it leaves no trace."""
        while True:
            number = await self.slots.get()
            worker = self.workers.get(number)
            if worker is None:
                continue  # that worker is gone, and its slot with it
            try:
                batch = await worker.harvest.remote(item)
            except ray.exceptions.RayActorError:
                continue  # the supervisor sends a replacement
            except BaseException:
                self.slots.put_nowait(number)
                raise
            self.slots.put_nowait(number)
            return batch
