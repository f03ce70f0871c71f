"""A GPU's training step as one CUDA graph: a hundred small programs are started at once instead of one by one.

A graph does the same on every replay, so what changes from step to step lies in memory that it reads: the batch, the
learning rate, the step's number. Only how many entries are active shows in its shapes. It makes room for some more
than the last step had; what does not fit, or is not sparse, makes Adam's programs do nothing, and the step is then
taken without a graph. Nothing of this shows in the results: what follows the entries is in nobody's sums.

Coefficients are part of the graph. While a schedule moves them at every step there is none.
"""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from monosem.config.job import TrainConfig
from monosem.learn.mesh import Mesh
from monosem.learn.schedules import lr_at
from monosem.sae.config import SaeConfig
from monosem.sae.heads import HEADS, Now
from monosem.sae.kernels import Room, kernels_for
from monosem.sae.slot import Manner
from monosem.sae.sums import SCALARS, Result

KEPT = 4
"""Graphs that a learner keeps, the latest used: each has memory of its own for what it returns."""
SPARE = 1.06
"""Room for so many times as many entries as the last step had, at least."""
Key = tuple[int, Now, int]
"""Entries that there is room for, coefficients, rows."""


class Steps(Protocol):
    """What takes steps: a learner, as far as it matters here."""

    train: TrainConfig
    manner: Manner
    steps_done: int
    last_fired_F: Tensor

    def gradients(
        self, x: Tensor, y: Tensor | None, masked_B: Tensor | None, now: Now, aux: tuple[Tensor | None, int],
        manner: Manner,
    ) -> Result: ...  # fmt: skip

    def update(self, gradients: dict[str, Tensor], on_device: tuple[Tensor, Tensor] | None = None) -> None: ...


def can_capture(sae: SaeConfig, device: str, mesh: Mesh) -> bool:
    """Whether steps can be graphs: on a GPU of its own, and nothing in them has to be told to the host."""
    return device.startswith("cuda") and mesh.seat.world == 1 and not HEADS[sae.variant].batch_wide


def roomy(n: int) -> int:
    """Room for n entries and some more: one of eight sizes between two powers of two."""
    wanted = int(n * SPARE) + 1
    unit = max(256, (1 << wanted.bit_length()) // 16)
    return -(-wanted // unit) * unit


def record(body: Callable[[], Tensor], pool: object) -> tuple[Callable[[], None], Tensor]:
    """How to repeat `body` on the device, and the tensor that it leaves its result in each time."""
    graph = torch.cuda.CUDAGraph()
    gc.collect()
    gc.disable()  # a graph that is done with must not be taken down while another is recorded
    try:
        # The thread that reads ahead copies batches meanwhile, which is its own affair.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            told = body()
    finally:
        gc.enable()
    return graph.replay, told


class Captured:
    """The graphs of one learner, which it does not hold on to: the two then go when the learner does.

    asking   what a step without a graph tells of its entries
    """

    def __init__(self, device: str, record: Callable = record):
        self.record, self.asking = record, Room()
        make = lambda n, dtype: torch.zeros(n, dtype=dtype, device=device)  # noqa: E731
        self.numbers, self.number = make(5, torch.float32), make(1, torch.int64)
        self.allowed, self.ok = make(1, torch.int32), make(1, torch.int32)
        self.found = make(1, torch.int64)
        self.batch: list[Tensor] = []
        self.graphs: dict[Key, tuple[Callable[[], None], Tensor]] = {}
        self.missed: Key | None = None
        self.pool: object = None

    def step(self, learner: Steps, x: Tensor, y: Tensor | None, now: Now) -> dict[str, Tensor] | None:
        """A step's scalars; None: there is no graph for it, and the step is still to be taken."""
        n, self.asking.last = self.asking.last, 0
        if n == 0 or now.power != 1.0:
            return None
        key = self._key(n, now, len(x))
        if key not in self.graphs and key != self.missed:
            self.missed = key  # worth a graph if it is wanted again
            return None
        self._put(learner, x, y)
        if key not in self.graphs:
            self._capture(learner, key, y is not None)
        replay, told = self.graphs[key] = self.graphs.pop(key)  # the latest used is the last
        replay()
        ok, found = torch.cat([self.ok, self.found]).tolist()
        self.asking.last = found
        return dict(zip(SCALARS, told.clone(), strict=True)) if ok else None

    def _key(self, n: int, now: Now, rows: int) -> Key:
        """Of the smallest graph at hand that has room enough and not far too much, or else of one to be made."""
        size = roomy(n)
        fits = [key for key in self.graphs if key[1:] == (now, rows) and n * SPARE <= key[0] <= 1.5 * size]
        return min(fits, default=(size, now, rows))

    def _put(self, learner: Steps, x: Tensor, y: Tensor | None) -> None:
        """What the next replay reads."""
        rows = [x] if y is None else [x, y]
        if [t.shape for t in self.batch] != [t.shape for t in rows]:
            self.batch = [torch.empty_like(t) for t in rows]
            self.graphs.clear()
        for held, t in zip(self.batch, rows, strict=True):
            held.copy_(t)
        step, train = learner.steps_done + 1, learner.train
        numbers = kernels_for(self.ok.device).adam_numbers(
            step, lr_at(step - 1, train), train.beta1, train.beta2, train.eps
        )
        self.numbers.copy_(torch.tensor(numbers))
        self.number.fill_(step)

    def _capture(self, learner: Steps, key: Key, with_target: bool) -> None:
        size, now, _ = key
        room = Room(size, self.ok, self.found)
        x, y = self.batch[0], self.batch[1] if with_target else None
        body = lambda: self._body(learner, x, y, now, room)  # noqa: E731
        self.allowed.zero_()
        body()  # compiles, and does nothing else
        self.allowed.fill_(1)
        while len(self.graphs) >= KEPT:
            del self.graphs[next(iter(self.graphs))]
        if self.pool is None and self.ok.is_cuda:
            self.pool = torch.cuda.graph_pool_handle()
        self.graphs[key] = self.record(body, self.pool)

    def _body(self, learner: Steps, x: Tensor, y: Tensor | None, now: Now, room: Room) -> Tensor:
        room.ok.copy_(self.allowed)
        room.found.zero_()
        manner = replace(learner.manner, expected=room)
        result = learner.gradients(x, y, None, now, (None, 0), manner)
        learner.update(result.gradients, (self.numbers, room.ok))
        fired_F = result.fired_F & (room.ok > 0)
        learner.last_fired_F.copy_(torch.where(fired_F, self.number, learner.last_fired_F))
        return torch.stack([t.to(x.dtype) for t in result.scalars().values()])
