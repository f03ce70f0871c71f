"""Batches for a pack of runs: read once for all of them, one ahead of the step that wants them, on their device.

While the learners work, a thread reads the next batch, digests it and, for a GPU, copies it there through pinned memory
on a stream of its own. Where reading is itself the work (a harvest in this very process) and learners work on CPUs
nothing is read ahead: it would take its cores from them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from monosem.learn.learner import masked_rows
from monosem.stream.reader import Rows

Reads = tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """One step's rows at each hook point that is read.

    rows     float32 [batch, width], memory of this process or of a device
    digested `rows_digest` of each, or what to wait for it from
    masked   how many of the rows are masked, at either
    copies   the same on the learners' device; the very same tensors on CPU
    copied   for a GPU: recorded behind the copies, on the stream that makes them
    """

    rows: list[Tensor]
    digested: list[str | Future]
    masked: int
    copies: list[Tensor]
    copied: "torch.cuda.Event | None" = None

    @property
    def digests(self) -> list[str]:
        """`rows_digest` of each."""
        return told(self.digested)

    def on_device(self) -> list[Tensor]:
        """The rows on the learners' device, for work that is queued on its current stream from here on."""
        if self.copied is not None:
            here = torch.cuda.current_stream()
            here.wait_event(self.copied)
            for x in self.copies:
                x.record_stream(here)
        return self.copies


def told(digested: Sequence[str | Future]) -> list[str]:
    """Digests, once they are all there."""
    return [d.result() if isinstance(d, Future) else d for d in digested]


def rows_digest(x: Tensor) -> str:
    """XXH3-128 of a batch's rows."""
    return xxhash.xxh3_128(x.numpy().data).hexdigest()


class Feed:
    """Step n's rows of some hook points, and rows by index; `wait_s` is the time that callers spent waiting for both.

    steps   none is read ahead from here on
    device  the learners' device
    """

    def __init__(self, readers: Mapping[str, Rows], batch_size: int, steps: int, device: str):
        self.readers, self.batch_size, self.steps, self.device = readers, batch_size, steps, device
        self.wait_s = 0.0
        self.coming: dict[tuple[int, Reads], Future] = {}
        on_gpu = device.startswith("cuda")
        beside = on_gpu or not any(reader.computes for reader in readers.values())
        # One thread: readers of one source share its state, and all reading goes through it.
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") if beside else None
        # For a GPU, whose batches come faster than one thread reads and digests them.
        self.digester = ThreadPoolExecutor(max_workers=2, thread_name_prefix="digests") if on_gpu else None
        self.stream, self.digests = (torch.cuda.Stream() if on_gpu else None for _ in range(2))

    def batch(self, n: int, reads: Reads) -> Batch:
        """Step n's rows at `reads`, which are read in step."""
        coming = self.coming.pop((n, reads), None)
        self.coming = {key: future for key, future in self.coming.items() if key[1] != reads}  # of other steps
        batch = self._wait(coming or self._start(self._read, n, reads))
        if self.thread and n + 1 < self.steps:
            self.coming[n + 1, reads] = self._start(self._read, n + 1, reads)
        return batch

    def rows(self, name: str, lo: int, hi: int) -> Tensor:
        """Rows [lo, hi) of a hook point's stream."""
        return self._wait(self._start(self._settled_rows, name, lo, hi))

    def close(self) -> None:
        """Read no further."""
        if self.thread:
            self.thread.shutdown(wait=False, cancel_futures=True)
        if self.digester:
            self.digester.shutdown(wait=False, cancel_futures=True)

    def _start(self, work: Callable, *arguments: object) -> Future | Callable:
        return self.thread.submit(work, *arguments) if self.thread else lambda: work(*arguments)

    def _wait(self, work: Future | Callable) -> object:
        began = time.monotonic()
        found = work.result() if isinstance(work, Future) else work()
        self.wait_s += time.monotonic() - began
        return found

    def _read(self, n: int, reads: Reads) -> Batch:
        B = self.batch_size
        rows = [self._rows(name, n * B, (n + 1) * B) for name in reads]
        with torch.cuda.stream(self.stream):
            masked = int(masked_rows(*rows).sum())
            if self.stream is None:
                return Batch(rows, [rows_digest(x) for x in rows], masked, list(rows))
            copies = [x if x.is_cuda else x.pin_memory().to(self.device, non_blocking=True) for x in rows]
            copied = self.stream.record_event()
        digested = [self.digester.submit(self._digest, x, copied) for x in rows]
        return Batch(rows, digested, masked, copies, copied)

    def _rows(self, name: str, lo: int, hi: int) -> Tensor:
        """On the stream of copies too, so that a host on the same GPU does not wait for the learners there."""
        with torch.cuda.stream(self.stream):
            return self.readers[name].rows(lo, hi)

    def _settled_rows(self, name: str, lo: int, hi: int) -> Tensor:
        """Rows that are there, for use on any stream."""
        rows = self._rows(name, lo, hi)
        if rows.is_cuda:
            rows.record_stream(torch.cuda.default_stream(rows.device))
            self.stream.synchronize()
        return rows

    def _digest(self, x: Tensor, there: "torch.cuda.Event") -> str:
        """The digest of rows that are on the device once `there` has come."""
        if not x.is_cuda:
            return rows_digest(x)
        with torch.cuda.stream(self.digests):
            self.digests.wait_event(there)
            here = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
            x.record_stream(self.digests)
            self.digests.synchronize()
        return rows_digest(here)
