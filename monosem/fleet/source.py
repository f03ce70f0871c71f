"""A reader's end of the stream: segments pulled by index from the buffer shards, one ahead.

A transcoder reads two hook points in step: they are pulled together, so that its place in the stream is one number.
"""

import threading
import time
from contextlib import suppress

import numpy as np
import ray

from monosem.errors import MonosemError
from monosem.rows.order import StreamOrder
from monosem.stream.mix import assemble

UNREACHED_S = 1.0
"""Before a shard is asked again that lives and could not be reached."""
PATIENCE_S = 120.0
"""How long a lost shard may take to be replaced."""


class RaySource:
    """Segments from the shards of a sweep. The supervisor names a successor for a shard that dies."""

    private = False

    def __init__(
        self,
        order: StreamOrder,
        reader: str,
        hook_points: tuple[str, ...],
        shards: dict[int, object],
        reads: tuple[str, ...],
    ):
        self.order, self.reader, self.reads = order, reader, reads
        self.columns = [hook_points.index(name) for name in reads]
        self.shards = dict(shards)
        self.renewed = threading.Condition()
        self.asked: dict[int, list] = {}  # segment -> (shard's actor, call) of each shard
        self.held: dict[tuple[str, int], np.ndarray] = {}  # pulled with another hook point's, not asked for yet

    def set_shard(self, shard: int, actor: object) -> None:
        """`actor` serves `shard` from now on. May be called from another thread."""
        with self.renewed:
            self.shards[shard] = actor
            self.renewed.notify_all()

    def segment(self, u: int, hook_point: str) -> np.ndarray:
        """Rows of segment u in order: float32 [segment_rows, width], read-only."""
        self.held = {(name, v): s for (name, v), s in self.held.items() if name != hook_point or v >= u}
        if (hook_point, u) not in self.held:
            self.held |= {(name, u): s for name, s in zip(self.reads, self._segments(u), strict=True)}
        return self.held.pop((hook_point, u))

    def _segments(self, u: int) -> list[np.ndarray]:
        """Segment u at every hook point that is read."""
        calls = self.asked.pop(u, None) or self._ask(u)
        self.asked = {}
        parts = [part for shard, call in enumerate(calls) if (part := self._part(shard, u, *call))]
        segments = [assemble(self.order, list(column)) for column in zip(*parts, strict=True)]
        self.asked[u + 1] = self._ask(u + 1)
        return segments

    def join(self, u: int) -> None:
        """Announce that this reader starts at segment u, so that the shards wait for it.

        Returns when they know: a call that comes later may overtake one that is still on its way.
        """
        for call in [actor.join.remote(self.reader, u) for actor in self.shards.values()]:
            with suppress(ray.exceptions.RayActorError):  # its successor learns of this reader by the first pull
                ray.get(call)

    def leave(self) -> None:
        for actor in self.shards.values():
            actor.leave.remote(self.reader)

    def _ask(self, u: int) -> list:
        return [self._pull(shard, u) for shard in sorted(self.shards)]

    def _pull(self, shard: int, u: int) -> tuple[object, object]:
        actor = self.shards[shard]
        return actor, actor.pull.remote(self.reader, u, self.columns)

    def _part(self, shard: int, u: int, actor: object, call: object) -> list:
        """The shard's part of u by hook point, [] if it has none. If it dies, and with it what it owns, its successor
        is asked."""
        while True:
            try:
                references = ray.get(call)
                if references is not None:
                    return ray.get(references)
            except ray.exceptions.ActorUnavailableError:  # it lives, and could not be reached just now
                time.sleep(UNREACHED_S)
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                self._wait_for_successor(shard, actor)  # a part is lost with the shard that owns it
            actor, call = self._pull(shard, u)

    def _wait_for_successor(self, shard: int, dead: object) -> None:
        with self.renewed:
            if not self.renewed.wait_for(lambda: self.shards[shard] is not dead, PATIENCE_S):
                raise MonosemError(f"buffer shard {shard} was not replaced within {PATIENCE_S:.0f} s")
