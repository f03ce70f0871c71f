"""Ranks as processes of their own, without Ray: what each does, and what they return."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from monosem.learn.mesh import Mesh, Seat

PATIENCE_S = 300


def together(work: Callable, replicas: int, parts: int = 1, *arguments: object, exchange: str = "tree") -> list:
    """`work(mesh, *arguments)` on every rank at once; what they returned, by rank."""
    seats = [Seat(rank, replicas, parts, exchange) for rank in range(replicas * parts)]
    if len(seats) == 1:
        torch.set_num_threads(1)
        return [work(Mesh(seats[0]), *arguments)]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(seat, str(Path(folder) / "store"), answers, work, arguments), daemon=True)
            for seat in seats
        ]
        for rank in ranks:
            rank.start()
        found = dict(answers.get(timeout=PATIENCE_S) for _ in ranks)
        for rank in ranks:
            rank.join(PATIENCE_S)
            assert rank.exitcode == 0
    return [found[seat.rank] for seat in seats]


def _rank(seat: Seat, path: str, answers, work: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    mesh = Mesh(seat).open(dist.FileStore(path, seat.world))
    answers.put((seat.rank, work(mesh, *arguments)))
    mesh.close()
