"""Ranks as processes of their own, without Ray: what each does, and what they return.

Ranks that have started stay for the tests that follow (starting them takes longer than most tests).
"""

import atexit
import multiprocessing
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist

from monosem.learn.mesh import Mesh, Seat

PATIENCE_S = 300


class Ranks:
    """A mesh of processes that do what they are sent."""

    def __init__(self, seats: list[Seat]):
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.pipes = []
        for seat in seats:
            here, there = context.Pipe()
            store = str(Path(self.folder.name) / "store")
            context.Process(target=_serve, args=(seat, store, there), daemon=True).start()
            self.pipes.append(here)
        atexit.register(self.close)

    def do(self, work: Callable, arguments: tuple) -> list:
        for pipe in self.pipes:
            pipe.send((work, arguments))
        found = []
        for pipe in self.pipes:
            assert pipe.poll(PATIENCE_S), "a rank does not answer"
            found.append(pipe.recv())
        return found

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        self.folder.cleanup()


@cache
def ranks(replicas: int, parts: int, exchange: str) -> Ranks:
    return Ranks([Seat(rank, replicas, parts, exchange) for rank in range(replicas * parts)])


def together(work: Callable, replicas: int, parts: int = 1, *arguments: object, exchange: str = "tree") -> list:
    """`work(mesh, *arguments)` on every rank at once; what they returned, by rank."""
    if replicas * parts == 1:
        torch.set_num_threads(1)
        return [work(Mesh(), *arguments)]
    return ranks(replicas, parts, exchange).do(work, arguments)


def _serve(seat: Seat, path: str, pipe) -> None:
    torch.set_num_threads(1)
    mesh = Mesh(seat).open(dist.FileStore(path, seat.world))
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(work(mesh, *arguments))
