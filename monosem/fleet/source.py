"""The learner's end of the stream: segments pulled by index from the buffer shards, two ahead."""

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

    def __init__(self, order: StreamOrder, reader: str, shards: dict[int, object]):
        self.order, self.reader = order, reader
        self.shards = dict(shards)
        self.renewed = threading.Condition()
        self.asked: dict[int, list] = {}  # segment -> (shard's actor, call) of each shard, made ahead

    def set_shard(self, shard: int, actor: object) -> None:
        """`actor` serves `shard` from now on. May be called from another thread."""
        with self.renewed:
            self.shards[shard] = actor
            self.renewed.notify_all()

    def segment(self, u: int) -> np.ndarray:
        """Rows of segment u in order: float32 [segment_rows, width], read-only."""
        calls = self.asked.pop(u, None) or self._ask(u)
        self.asked = {}
        parts = [self._part(shard, u, *call) for shard, call in enumerate(calls)]
        segment = assemble(self.order, [part for part in parts if part is not None])
        self.asked[u + 1] = self._ask(u + 1)
        return segment

    def join(self, u: int) -> None:
        """Announce that this reader starts at segment u, so that the shards wait for it."""
        for actor in self.shards.values():
            actor.join.remote(self.reader, u)

    def leave(self) -> None:
        for actor in self.shards.values():
            actor.leave.remote(self.reader)

    def _ask(self, u: int) -> list:
        return [self._pull(shard, u) for shard in sorted(self.shards)]

    def _pull(self, shard: int, u: int) -> tuple[object, object]:
        actor = self.shards[shard]
        return actor, actor.pull.remote(self.reader, u)

    def _part(self, shard: int, u: int, actor: object, call: object):
        """The shard's part of u. If the shard dies, and with it what it owns, its successor is asked."""
        while True:
            try:
                refs = ray.get(call)
                return ray.get(refs[0]) if refs else None
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                self._wait_for_successor(shard, actor)  # a part is lost with the shard that owns it
            actor, call = self._pull(shard, u)

    def _wait_for_successor(self, shard: int, dead: object) -> None:
        with self.renewed:
            if not self.renewed.wait_for(lambda: self.shards[shard] is not dead, PATIENCE_S):
                raise MonosemError(f"buffer shard {shard} was not replaced within {PATIENCE_S:.0f} s")
