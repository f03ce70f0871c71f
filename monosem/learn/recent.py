"""The rows just before a resampling step: kept as they pass, read again where they were not seen."""

import torch
from torch import Tensor

from monosem.stream.reader import Rows


class RecentRows:
    """Rows [step*batch - rows, step*batch) for each step of `steps`, a pure function of the step."""

    def __init__(self, reader: Rows, steps: list[int], batch_size: int, rows: int):
        self.reader, self.steps = reader, sorted(steps)
        self.batch_size, self.rows = batch_size, rows
        self.held: dict[int, Tensor] = {}  # batches by step number

    def add(self, step: int, x: Tensor) -> None:
        """Batch `step` passes by; it is kept if a coming resampling wants it."""
        coming = next((s for s in self.steps if s > step), None)
        if coming is not None and (step + 1) * self.batch_size > self._first_row(coming):
            self.held[step] = x

    def before(self, step: int) -> Tensor:
        """The rows before `step`; float32 [min(rows, step * batch_size), width]. Lets go of what it held."""
        lo, B = self._first_row(step), self.batch_size
        pieces = []
        for n in range(lo // B, step):
            batch = self.held.pop(n, None)
            first = max(lo, n * B)
            pieces.append(batch[first - n * B :] if batch is not None else self.reader.rows(first, (n + 1) * B))
        self.held.clear()
        return torch.cat(pieces)

    def _first_row(self, step: int) -> int:
        return max(0, step * self.batch_size - self.rows)
