"""A reader's end of the stream: segments pulled by index from the buffer shards, one ahead."""

import threading

import numpy as np
import ray

from monosem.errors import MonosemError
from monosem.rows.order import StreamOrder
from monosem.stream.mix import assemble

PATIENCE_S = 120.0
"""How long a lost shard may take to be replaced."""


class RaySource:
    """Segments from the shards of a sweep. The supervisor names a successor for a shard that dies."""

    private = False

    def __init__(self, order: StreamOrder, reader: str, hook_points: tuple[str, ...], shards: dict[int, object]):
        self.order, self.reader, self.hook_points = order, reader, hook_points
        self.shards = dict(shards)
        self.renewed = threading.Condition()
        self.asked: dict[tuple[int, int], list] = {}  # (segment, column) -> (shard's actor, call) of each shard

    def set_shard(self, shard: int, actor: object) -> None:
        """`actor` serves `shard` from now on. May be called from another thread."""
        with self.renewed:
            self.shards[shard] = actor
            self.renewed.notify_all()

    def segment(self, u: int, hook_point: str) -> np.ndarray:
        """Rows of segment u in order: float32 [segment_rows, width], read-only."""
        column = self.hook_points.index(hook_point)
        calls = self.asked.pop((u, column), None) or self._ask(u, column)
        self.asked = {}
        parts = [self._part(shard, u, column, *call) for shard, call in enumerate(calls)]
        segment = assemble(self.order, [part for part in parts if part is not None])
        self.asked[u + 1, column] = self._ask(u + 1, column)
        return segment

    def join(self, u: int) -> None:
        """Announce that this reader starts at segment u, so that the shards wait for it."""
        for actor in self.shards.values():
            actor.join.remote(self.reader, u)

    def leave(self) -> None:
        for actor in self.shards.values():
            actor.leave.remote(self.reader)

    def _ask(self, u: int, column: int) -> list:
        return [self._pull(shard, u, column) for shard in sorted(self.shards)]

    def _pull(self, shard: int, u: int, column: int) -> tuple[object, object]:
        actor = self.shards[shard]
        return actor, actor.pull.remote(self.reader, u, column)

    def _part(self, shard: int, u: int, column: int, actor: object, call: object):
        """The shard's part of u. If the shard dies, and with it what it owns, its successor is asked."""
        while True:
            try:
                refs = ray.get(call)
                return ray.get(refs[0]) if refs else None
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                self._wait_for_successor(shard, actor)  # a part is lost with the shard that owns it
            actor, call = self._pull(shard, u, column)

    def _wait_for_successor(self, shard: int, dead: object) -> None:
        with self.renewed:
            if not self.renewed.wait_for(lambda: self.shards[shard] is not dead, PATIENCE_S):
                raise MonosemError(f"buffer shard {shard} was not replaced within {PATIENCE_S:.0f} s")
