"""Whether Ray's object store had to spill to disk: a safety net that the memory plan means never to need."""

import time

LOOK_S = 5.0


class SpillWatch:
    """`look` says when bytes were spilled since the last time, at most every LOOK_S."""

    def __init__(self):
        self.last, self.spilled = time.monotonic(), spilled_bytes()

    def look(self) -> list[str]:
        if time.monotonic() - self.last < LOOK_S:
            return []
        self.last = time.monotonic()
        before, self.spilled = self.spilled, spilled_bytes()
        if self.spilled <= before:
            return []
        return [
            f"Ray's object store was full: {(self.spilled - before) / 2**20:,.0f} MiB went to disk "
            f"({self.spilled / 2**20:,.0f} in all). It goes on, slower; lower stream.ahead_rows, or give the "
            "nodes more --object-store-memory"
        ]


def spilled_bytes() -> int:
    """Bytes that the cluster's object stores have spilled so far."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    reply = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address))
    return reply.store_stats.spilled_bytes_total
