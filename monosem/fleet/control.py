"""How many model workers a running sweep should have: asked for through the store, taken up by the driver.

`control.json` is written by the driver alone (what is), `wanted.json` by `monosem scale` alone (what should be).
"""

import time

from monosem.errors import InputError, MonosemError, StoreError
from monosem.store import layout
from monosem.store.plain import pack_json, unpack_json
from monosem.store.store import Store, open_store

POLL_S = 2.0
ANSWER_S = 60.0
"""How long the driver may take to have as many workers as asked for."""


class Control:
    """The driver's side."""

    def __init__(self, store: Store, sweep: str, workers: int):
        self.store, self.sweep = store, sweep
        self.looked = time.monotonic()
        store.delete(layout.wanted(sweep))  # a wish from before a restart
        self.publish(workers)

    def publish(self, workers: int) -> None:
        self.store.put(layout.control(self.sweep), pack_json({"workers": workers}))

    def wish(self) -> int | None:
        """How many workers somebody asked for since the last answer; looks at the store every POLL_S."""
        if time.monotonic() - self.looked < POLL_S:
            return None
        self.looked = time.monotonic()
        path = layout.wanted(self.sweep)
        try:
            wanted = unpack_json(self.store.get(path), path)["workers"]
            self.store.delete(path)
        except (FileNotFoundError, StoreError):  # nobody asked, or the store is away for a moment: looked at again
            return None
        return int(wanted)

    def close(self) -> None:
        for path in (layout.control(self.sweep), layout.wanted(self.sweep)):
            self.store.delete(path)


def scale(uri: str, workers: int) -> str:
    """Ask the running sweep at STORE/SWEEP for `workers` model workers, and wait until it has them."""
    root, _, sweep = uri.rstrip("/").rpartition("/")
    root = root.removesuffix("/sweeps")
    if not root or not sweep:
        raise InputError(f"{uri!r}: write STORE/SWEEP, for example ./monosem-store/quickstart")
    if not 1 <= workers <= 4096:
        raise InputError(f"--workers {workers}: from 1 to 4096")
    store = open_store(root)
    if not store.exists(layout.control(sweep)):
        raise InputError(f"{uri}: no sweep is running on Ray there (one with --inline has no workers to scale)")
    store.put(layout.wanted(sweep), pack_json({"workers": workers}))
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S / 4)
        try:
            record = unpack_json(store.get(layout.control(sweep)), layout.control(sweep))
        except FileNotFoundError:
            raise MonosemError(f"{uri}: the sweep ended meanwhile") from None
        if record["workers"] == workers:
            return f"{sweep}: {workers} model workers"
    store.delete(layout.wanted(sweep))
    raise MonosemError(f"{uri}: no answer within {ANSWER_S:.0f} s; is its driver alive, and has the cluster room?")
