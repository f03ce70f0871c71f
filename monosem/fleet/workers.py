"""Model workers and buffer shards: the two actors that make the stream.

A worker turns an item's number into its rows. A shard holds the rows of its share that wait for their segment, mixes
its part of each segment, puts it into the object store once, and hands out references by index. It calls the workers
itself, so it owns what they make. Both are disposable: everything they hold can be made again.
"""

import asyncio
import threading

import pyarrow as pa
import ray

from monosem.errors import IntegrityError, MonosemError
from monosem.stages import canary
from monosem.stages.budget import shapes_of
from monosem.stages.learning import make_harvester
from monosem.stages.spec import SweepSpec
from monosem.store.store import open_store
from monosem.stream.flow import Flow
from monosem.stream.harvest import item_digest
from monosem.stream.mix import Tiles, mix_part, part_tiles
from monosem.stream.records import columns_of

CALLS_PER_WORKER = 2
"""Harvest calls in flight per worker and shard: one being computed, one waiting."""


UNREACHED_S = 1.0
"""Before a worker is asked again that lives and could not be reached."""


@ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"watch": 1})
class ModelWorker:
    """Runs the host. Stateless: `harvest(item)` is a pure function of the item's number."""

    def __init__(self, spec: SweepSpec):
        self.harvester = make_harvester(spec, open_store(spec.job.store))

    def sing(self) -> dict:
        """The canary item: shows whether this process makes the stream's bits."""
        return canary.sing(self.harvester)

    def harvest(self, item: int) -> tuple[pa.RecordBatch, str]:
        """The item's rows and their digest."""
        batch = self.harvester.item(item)
        return batch, item_digest(batch)

    @ray.method(concurrency_group="watch")
    def alive(self) -> None:
        """Does not return: a caller that holds this call learns of the worker's death at once."""
        threading.Event().wait()


@ray.remote(max_restarts=0, max_task_retries=0)
class BufferShard:
    """Shard `shard` of `shards`: serves its part of every segment, within the windows of its readers."""

    def __init__(self, spec: SweepSpec, shard: int, shards: int):
        self.order = spec.order
        self.shard, self.shards = shard, shards
        self.patience_s = spec.job.stream.detach_after_s
        self.flow = Flow(shapes_of(spec).ahead)
        self.left: set[str] = set()  # readers that are done or dead
        self.moved = asyncio.Condition()
        self.tiles = Tiles(self.order)
        self.fetching: dict[int, asyncio.Task] = {}
        self.parts: dict[int, asyncio.Task] = {}
        self.digests: dict[int, str] = {}  # of the items near the windows, to compare when one is made again
        self.slots: asyncio.Queue = asyncio.Queue()
        self.workers: dict[int, object] = {}
        self.edition = 0
        self.news: list[str] = []

    async def set_workers(self, workers: dict[int, object], edition: int = 0) -> None:
        """The live workers by number. A number is used once: a replacement comes under a new one.

        edition   rises from call to call; calls may overtake each other, and what is older says nothing any more
        """
        if edition < self.edition:
            return
        self.edition = edition
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
            self.left.add(reader)
            self.flow.leave(reader)
            self.moved.notify_all()
        self._forget()

    async def pull(self, reader: str, segment: int, columns: list[int]) -> list | None:
        """References to this shard's part of `segment` at some hook points, or [] if it has no rows of it.

        None if the reader was meanwhile believed to be elsewhere (calls may overtake each other): it asks again.

        Asking for a segment acknowledges all before it. A reader that is too far ahead of the slowest one waits
        here: that is the back-pressure.
        """
        await self._move(reader, segment)
        await self._wait_for_room(reader, segment)
        for window in self.flow.windows().values():
            for u in window:
                self._start_part(u)
        references = await self._start_part(segment)
        return None if references is None else [references[column] for column in columns if references]

    async def tell_news(self) -> list[str]:
        """What happened since the last call that people should know."""
        news, self.news = self.news, []
        return news

    # -- flow ----------------------------------------------------------------------------------

    async def _move(self, reader: str, segment: int) -> None:
        """MonosemError for a reader that has left: a call of its that was late would hold back everybody for ever."""
        async with self.moved:
            if reader in self.left:
                raise MonosemError(f"{reader} has left, and its name is not used again")
            self.flow.move(reader, segment)
            self.moved.notify_all()
        self._forget()

    async def _wait_for_room(self, reader: str, segment: int) -> None:
        """Until the window has room; those who hold it up for too long are left to themselves."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience_s if self.patience_s else None
        async with self.moved:
            while not self.flow.may_take(reader, segment):
                try:
                    await asyncio.wait_for(self.moved.wait(), deadline and max(0.0, deadline - loop.time()))
                except TimeoutError:
                    for name in self.flow.held_up_by(reader):
                        self.flow.detach(name)
                        self.news.append(f"{name} is too slow for the others and harvests for itself from here on")
                    deadline = loop.time() + self.patience_s
                    self.moved.notify_all()

    def _forget(self) -> None:
        """Let go of what no reader can ask for. One that steps back gets it made again."""
        windows = self.flow.windows().values()
        self.parts = {u: task for u, task in self.parts.items() if any(u in w for w in windows)}
        waiting = self._coming()
        self.tiles.keep_only(waiting)
        self.digests = {
            item: digest
            for item, digest in self.digests.items()
            if any(self.order.tile_segment(item, self.order.generations - 1) >= w.start for w in waiting)
        }

    def _coming(self) -> list[range]:
        """Segments whose rows are worth keeping: of the windows, and those that items made for them reach to."""
        more = self.order.generations
        return [range(w.start, w.stop + more) for w in self.flow.windows().values()]

    # -- making --------------------------------------------------------------------------------

    def _start_part(self, u: int) -> asyncio.Task:
        task = self.parts.get(u)
        given_up = task is not None and task.done() and not task.exception() and task.result() is None
        if task is None or given_up:
            self.parts[u] = asyncio.create_task(self._make_part(u))
        return self.parts[u]

    async def _make_part(self, u: int) -> list | None:
        """References to this shard's part of segment u, by hook point; None if no reader is near it any more."""
        chosen = part_tiles(self.order, u, self.shard, self.shards)
        if not chosen:
            return []
        while missing := self.tiles.missing(chosen):
            if not any(u in window for window in self.flow.windows().values()):
                return None
            await asyncio.gather(*(self._fetch(item) for item in missing))
        rows = self.tiles.take(chosen)
        parts = await asyncio.to_thread(mix_part, self.order, u, chosen, rows)
        return [ray.put(part) for part in parts]

    def _fetch(self, item: int) -> asyncio.Task:
        if item not in self.fetching:
            self.fetching[item] = asyncio.create_task(self._take_in(item))
        return self.fetching[item]

    async def _take_in(self, item: int) -> None:
        """Have `item` made and keep the rows that are still to come."""
        try:
            batch, digest = await self._harvest(item)
            if self.digests.setdefault(item, digest) != digest:
                raise IntegrityError(
                    f"work item {item} came out differently when it was made again: the host's activations are "
                    "not reproducible (another kind of device, or failing hardware)"
                )
            self.tiles.add(item, columns_of(batch), self._coming())
        finally:
            del self.fetching[item]

    async def _harvest(self, item: int) -> tuple[pa.RecordBatch, str]:
        """Have a worker compute `item`; if it dies, another one does. Who did it leaves no trace."""
        while True:
            number = await self.slots.get()
            worker = self.workers.get(number)
            if worker is None:
                continue  # that worker is gone, and its slot with it
            try:
                made = await worker.harvest.remote(item)
            except ray.exceptions.ActorUnavailableError:  # it lives, and could not be reached just now
                self.slots.put_nowait(number)
                await asyncio.sleep(UNREACHED_S)
                continue
            except ray.exceptions.RayActorError:
                continue  # the supervisor sends a replacement
            except ray.exceptions.ObjectLostError:  # made, then lost with the node that held it
                self.slots.put_nowait(number)
                continue
            except BaseException:
                self.slots.put_nowait(number)
                raise
            self.slots.put_nowait(number)
            return made
