"""How long a rank's own work takes, without waiting for the others: who is slow shows in it, and nothing else."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = 20
"""Steps that the mean is over."""

_waited = 0.0


@contextmanager
def waiting() -> Iterator[None]:
    """Inside, this process talks with other ranks."""
    global _waited
    began = time.monotonic()
    try:
        yield
    finally:
        _waited += time.monotonic() - began


class Pace:
    """`with pace:` around each step."""

    def __init__(self):
        self.steps: deque[float] = deque(maxlen=KEPT)

    def __enter__(self) -> None:
        self.began, self.before = time.monotonic(), _waited

    def __exit__(self, *error: object) -> None:
        self.steps.append(time.monotonic() - self.began - (_waited - self.before))

    def mean(self) -> float:
        """Seconds of own work per step, of the last steps; 0 before the first."""
        return sum(self.steps) / len(self.steps) if self.steps else 0.0
