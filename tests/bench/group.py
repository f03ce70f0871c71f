"""What a learner group gains and costs: two ranks, a core each, against one rank on one core; slots; tree and ring.

    python tests/bench/group.py [--repeat 9] [--rows 4096]

All take turns in one run, and ratios are of the same turn: the leading rank works alone while the other waits, then both together.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist

from monosem.learn.mesh import Mesh, Seat
from monosem.memory import keep_freed_memory
from tests.bench.contenders import settled_learner
from tests.bench.timing import say, say_json
from tests.learn.ranks import Ranks

D_IN, ACTIVE, DATA_PARALLEL, SHARDED = 512, 20, 4096, 32768
IN_A_ROW = 3
"""Steps of a turn: as in training, a step finds in the caches what the one before has left."""
Work = tuple[bool, Callable[[], object]]
"""Whether both ranks do it, and what."""

RATIOS = {
    "data parallel, gain": ("one rank, 1 slot", "two replicas, 2 slots"),
    "data parallel, 8 slots, gain": ("one rank, 1 slot", "two replicas, 8 slots"),
    "8 slots over 1, one rank": ("one rank, 8 slots", "one rank, 1 slot"),
    "8 slots in a tree over ring": ("two replicas, 8 slots", "two replicas, 2 slots, ring"),
    "feature sharded relu, gain": ("one rank, relu", "two parts, relu"),
    "feature sharded topk, gain": ("one rank, topk", "two parts, topk"),
}


def of_turns(a: list[float], b: list[float]) -> float:
    """The median of the ratios of turns: what slows the machine down for a while slows both."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def like(mesh: Mesh, exchange: str) -> Mesh:
    """The same ranks, with another exchange."""
    other = Mesh(Seat(mesh.seat.rank, mesh.seat.replicas, mesh.seat.parts, exchange))
    other.replica_group, other.part_group, other.board = mesh.replica_group, mesh.part_group, mesh.board
    return other


def timed(mesh: Mesh, rows: int, repeat: int, variant: str = "") -> dict[str, list[float]]:
    """Seconds of a step of every contender in every turn, by the leading rank's clock."""
    keep_freed_memory()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[mesh.seat.rank]})
    torch.manual_seed(0)
    x = torch.randn(rows, D_IN)
    contenders = parts_of(mesh, x, variant) if variant else replicas_of(mesh, x)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeat + 2):
        for name, (both, step) in contenders.items():
            dist.barrier()
            began = time.perf_counter()
            if both or mesh.leads:
                for _ in range(IN_A_ROW):
                    step()
            dist.barrier()
            if turn >= 2:
                times[name].append((time.perf_counter() - began) / IN_A_ROW)
    return times


def replicas_of(mesh: Mesh, x: torch.Tensor) -> dict[str, Work]:
    def step(**more: object) -> Callable[[], object]:
        learner = settled_learner(x, DATA_PARALLEL, ACTIVE, precision="bf16", **more)
        return lambda: learner.step(x)

    ring = like(mesh, "ring")
    return {
        "one rank, 1 slot": (False, step()),
        "one rank, 8 slots": (False, step(slots=8)),
        "two replicas, 2 slots": (True, step(slots=2, mesh=mesh)),
        "two replicas, 8 slots": (True, step(slots=8, mesh=mesh)),
        "two replicas, 2 slots, ring": (True, step(slots=2, mesh=ring)),
    }


def parts_of(mesh: Mesh, x: torch.Tensor, variant: str) -> dict[str, Work]:
    def step(**more: object) -> Callable[[], object]:
        learner = settled_learner(x, SHARDED, ACTIVE, variant, precision="bf16", **more)
        return lambda: learner.step(x)

    return {f"one rank, {variant}": (False, step()), f"two parts, {variant}": (True, step(mesh=mesh))}


def of_two(replicas: int, parts: int, *arguments: object) -> dict[str, list[float]]:
    """In processes of their own: what others have left of the heap must not count."""
    two = Ranks([Seat(rank, replicas, parts) for rank in range(2)])
    try:
        return two.do(timed, arguments)[0]
    finally:
        two.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--rows", type=int, default=4096)
    given = parser.parse_args()
    dp = of_two(2, 1, given.rows, given.repeat)
    fs = of_two(1, 2, given.rows, given.repeat, "relu") | of_two(1, 2, given.rows, given.repeat, "topk")
    seconds = {name: statistics.median(times) for name, times in (dp | fs).items()}
    for title, found in ((f"{DATA_PARALLEL:,} features", dp), (f"{SHARDED:,} features", fs)):
        say(f"\n{title}, batch {given.rows:,}, a core per rank")
        for name in found:
            say(f"{name:34} {seconds[name] * 1000:8.1f} ms")
    ratios = {what: of_turns((dp | fs)[a], (dp | fs)[b]) for what, (a, b) in RATIOS.items()}
    for name, value in ratios.items():
        say(f"{name:34} {value:8.2f}")
    say_json(bench="group", rows=given.rows, seconds=seconds, ratios=ratios)


if __name__ == "__main__":
    main()
