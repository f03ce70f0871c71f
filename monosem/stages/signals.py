"""Stopping when told: SIGINT and SIGTERM become a question that loops ask at their step boundaries."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from monosem.errors import Interrupted


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """True once SIGINT or SIGTERM has come. A second one ends the process at once."""
    asked: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        if asked:
            raise Interrupted("stopped at once on the second signal")
        asked.append(number)

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
