"""The rows just before a resampling step: kept as they pass, read again where they were not seen."""

from collections.abc import Callable, Sequence

from torch import Tensor

import monosem.mkl  # noqa: F401


class RecentRows:
    """Rows [step*batch - rows, step*batch) for each step of `steps`, a pure function of the step.

    read    rows [lo, hi) of the stream
    """

    def __init__(self, read: Callable[[int, int], Tensor], steps: list[int], batch_size: int, rows: int):
        self.read, self.steps = read, sorted(steps)
        self.batch_size, self.rows = batch_size, rows
        self.held: dict[int, Tensor] = {}  # batches by step number

    def add(self, step: int, x: Tensor) -> None:
        """Batch `step` passes by; it is kept if a coming resampling wants it."""
        coming = next((s for s in self.steps if s > step), None)
        if coming is not None and (step + 1) * self.batch_size > self._first_row(coming):
            self.held[step] = x

    def before(self, step: int) -> Tensor:
        """The rows before `step`; float32 [min(rows, step * batch_size), width]. Lets go of what it held."""
        return before([self], step)[0]

    def part(self, step: int, n: int) -> Tensor:
        """Those of the rows before `step` that batch `n` holds."""
        first, B = max(self._first_row(step), n * self.batch_size), self.batch_size
        batch = self.held.pop(n, None)
        return batch[first - n * B :] if batch is not None else self.read(first, (n + 1) * B)

    def batches(self, step: int) -> range:
        """The batches that hold the rows before `step`."""
        return range(self._first_row(step) // self.batch_size, step)

    def _first_row(self, step: int) -> int:
        return max(0, step * self.batch_size - self.rows)


def before(kept: Sequence[RecentRows], step: int) -> list[Tensor]:
    """`RecentRows.before` of several hook points, batch by batch, so that those read in step stay in step."""
    found: list[Tensor] = []
    at = 0
    for n in kept[0].batches(step):
        parts = [one.part(step, n) for one in kept]
        if not found:  # as large as they get: collected in lists they would be held twice
            size = min(kept[0].rows, step * kept[0].batch_size)
            found = [part.new_empty(size, part.shape[1]) for part in parts]
        for rows, part in zip(found, parts, strict=True):
            rows[at : at + len(part)] = part
        at += len(parts[0])
    for one in kept:
        one.held.clear()
    return found
