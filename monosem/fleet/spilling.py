"""Whether Ray's object store had to spill to disk: a safety net that the memory plan means never to need."""

import queue
import threading
import time

LOOK_S = 5.0


class SpillWatch:
    """`look` says when bytes were spilled since the last time; it asks at most every LOOK_S, and never waits.

    A node answers when all of its processes have, for up to a minute: one that hangs must not hold up the driver.
    """

    def __init__(self):
        self.last, self.spilled = time.monotonic(), spilled_bytes() or 0
        self.answers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.asking = False

    def look(self) -> list[str]:
        if not self.asking and time.monotonic() - self.last >= LOOK_S:
            self.asking = True
            threading.Thread(target=lambda: self.answers.put(spilled_bytes()), daemon=True).start()
        try:
            now = self.answers.get_nowait()
        except queue.Empty:
            return []
        self.asking, self.last = False, time.monotonic()
        before, self.spilled = self.spilled, self.spilled if now is None else now
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
