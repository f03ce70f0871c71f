"""The learner's end of the stream: segments pulled by index from the buffer shards, two ahead."""

import time

import numpy as np
import ray

from monosem.errors import MonosemError
from monosem.rows.order import StreamOrder
from monosem.stream.mix import assemble

PATIENCE_S = 120.0
"""How long a lost shard may take to be replaced."""


def shard_name(sweep: str, shard: int) -> str:
    return f"monosem-{sweep}-shard-{shard}"


class RaySource:
    """Segments from the shards of a sweep. A shard that dies is looked up again under its name."""

    def __init__(self, order: StreamOrder, sweep: str, shards: int, reader: str):
        self.order, self.sweep, self.shards, self.reader = order, sweep, shards, reader
        self.handles: dict[int, object] = {}
        self.asked: dict[int, list] = {}  # segment -> one call per shard, made ahead

    def segment(self, u: int) -> np.ndarray:
        """Rows of segment u in order: float32 [segment_rows, width], read-only."""
        calls = self.asked.pop(u, None) or self._ask(u)
        self.asked = {}
        parts = [self._part(shard, u, call) for shard, call in enumerate(calls)]
        segment = assemble(self.order, [part for part in parts if part is not None])
        self.asked[u + 1] = self._ask(u + 1)
        return segment

    def join(self, u: int) -> None:
        for shard in range(self.shards):
            ray.get(self._handle(shard).join.remote(self.reader, u))

    def leave(self) -> None:
        for shard in range(self.shards):
            self._handle(shard).leave.remote(self.reader)

    def _ask(self, u: int) -> list:
        return [self._handle(shard).pull.remote(self.reader, u) for shard in range(self.shards)]

    def _part(self, shard: int, u: int, call):
        """The shard's part of u; if the shard or the object is lost, ask its successor."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                refs = ray.get(call)
                return ray.get(refs[0]) if refs else None
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ValueError) as error:
                if time.monotonic() > deadline:
                    raise MonosemError(f"buffer shard {shard} did not come back within {PATIENCE_S:.0f} s") from error
            time.sleep(0.2)
            self.handles.pop(shard, None)
            try:
                call = self._handle(shard).pull.remote(self.reader, u)
            except ValueError:
                continue  # no successor under that name yet; `call` fails again until there is

    def _handle(self, shard: int):
        if shard not in self.handles:
            self.handles[shard] = ray.get_actor(shard_name(self.sweep, shard))
        return self.handles[shard]
