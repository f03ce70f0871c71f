"""How many model workers a running sweep should have: asked for through the store, taken up by the driver.

`control.json` is written by the driver alone (what is), `wanted.json` by `monosem scale` alone (what should be).
"""

import time

from monosem.errors import InputError, IntegrityError, MonosemError, StoreError
from monosem.fleet.telling import say
from monosem.store import layout
from monosem.store.plain import pack_json, unpack_json
from monosem.store.store import Store, open_store

POLL_S = 2.0
ANSWER_S = 60.0
"""How long the driver may take to have as many workers as asked for."""
MOST = 4096
"""Workers that may be asked for."""


class Control:
    """The driver's side. Once the sweep runs a store that is away is waited for here: it ends nothing, and is told of
    once."""

    def __init__(self, store: Store, sweep: str, workers: int):
        self.store, self.sweep = store, sweep
        self.looked, self.away = time.monotonic(), False
        store.delete(layout.wanted(sweep))  # a wish from before a restart
        self._put(workers)

    def _put(self, workers: int) -> None:
        self.store.put(layout.control(self.sweep), pack_json({"workers": workers}))

    def publish(self, workers: int) -> bool:
        """Tell how many there are; False if the store is away, and it is to be told again."""
        try:
            self._put(workers)
        except StoreError as error:
            self._tell(error)
            return False
        self.away = False
        return True

    def wish(self) -> int | None:
        """How many workers somebody asked for since the last answer; looks at the store every POLL_S."""
        if time.monotonic() - self.looked < POLL_S:
            return None
        self.looked = time.monotonic()
        path = layout.wanted(self.sweep)
        try:
            data = self.store.get(path)
            self.store.delete(path)
        except FileNotFoundError:  # nobody asked
            self.away = False
            return None
        except StoreError as error:
            self._tell(error)
            return None
        self.away = False
        try:
            return _workers(unpack_json(data, path), path)
        except IntegrityError as error:
            say(f"a wish for model workers is refused: {error}")
            return None

    def close(self) -> None:
        """No error: the sweep has ended, with a result or an error of its own."""
        for path in (layout.control(self.sweep), layout.wanted(self.sweep)):
            try:
                self.store.delete(path)
            except StoreError as error:
                say(f"{error}; the next run of this sweep overwrites it")

    def _tell(self, error: StoreError) -> None:
        if not self.away:
            say(f"{error}; tried again until it is there")
        self.away = True


def _workers(record: dict, path: str) -> int:
    """The workers that a record tells, or IntegrityError."""
    workers = record.get("workers")
    if not isinstance(workers, int) or isinstance(workers, bool) or not 1 <= workers <= MOST:
        raise IntegrityError(f"{path}: workers={workers!r}: from 1 to {MOST}")
    return workers


def scale(uri: str, workers: int) -> str:
    """Ask the running sweep at STORE/SWEEP for `workers` model workers, and wait until it has them."""
    root, _, sweep = uri.rstrip("/").rpartition("/")
    root = root.removesuffix("/sweeps")
    if not root or not sweep:
        raise InputError(f"{uri!r}: write STORE/SWEEP, for example ./monosem-store/quickstart")
    if not 1 <= workers <= MOST:
        raise InputError(f"--workers {workers}: from 1 to {MOST}")
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
