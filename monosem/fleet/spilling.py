"""Whether Ray's object store had to spill to disk: a safety net that the memory plan means never to need."""

import time

LOOK_S = 5.0


class SpillWatch:
    """`look` says when bytes were spilled since the last time, at most every LOOK_S."""

    def __init__(self):
        self.last, self.spilled = time.monotonic(), spilled_bytes() or 0

    def look(self) -> list[str]:
        if time.monotonic() - self.last < LOOK_S:
            return []
        self.last = time.monotonic()
        before, now = self.spilled, spilled_bytes()
        if now is None:
            return []
        self.spilled = now
        if self.spilled <= before:
            return []
        return [
            f"Ray's object store was full: {(self.spilled - before) / 2**20:,.0f} MiB went to disk "
            f"({self.spilled / 2**20:,.0f} in all). It goes on, slower; lower stream.ahead_rows, or give the "
            "nodes more --object-store-memory"
        ]


def spilled_bytes() -> int | None:
    """Bytes that the cluster's object stores have spilled so far; None if a node does not answer.

    Ray asks every node that it believes alive; one that was lost a moment ago is still among them.
    """
    import grpc
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    try:
        reply = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address))
    except grpc.RpcError:
        return None  # the loss itself is told where its actors are watched; this is asked again
    return reply.store_stats.spilled_bytes_total
