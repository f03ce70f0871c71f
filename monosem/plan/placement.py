"""Where learner groups go: which fit, what would fit in place of those that do not, and which wait for others.

With GPUs a rank takes one, and its memory must hold it. Without, ranks are processes, share their node's memory, and
ask Ray's scheduler for a share of a core each.
Groups that do not fit all at once go in waves, the largest first; a wave begins when the one before has ended, and has
the stream to itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from monosem.plan.cost import GroupShape

CPUS = {"worker": 0.2, "shard": 0.1, "learner": 0.5, "keeper": 0.1}
"""Shares of a core asked of Ray's scheduler; real use is set by the threads of the job file."""


def cpus_of(ranks: int, workers: int, shards: int, keepers: int) -> float:
    """What so many processes ask for together."""
    return ranks * CPUS["learner"] + workers * CPUS["worker"] + shards * CPUS["shard"] + keepers * CPUS["keeper"]


def ranks_beside(cpus: float, workers: int, shards: int, keepers: int) -> int:
    """How many ranks the scheduler lets run beside the others; below 0 if there is no room for those."""
    return math.floor((cpus - cpus_of(0, workers, shards, keepers) + 1e-6) / CPUS["learner"])


@dataclass(frozen=True)
class Group:
    """The learner group of a pack of runs. rank_bytes: of one rank, on its device or in its node's memory."""

    runs: tuple[str, ...]
    mesh: GroupShape
    rank_bytes: int


@dataclass(frozen=True)
class Room:
    """What there is for learners. devices: each of `device_bytes`; without GPUs `nodes`, bytes of each, and the
    `ranks` that cores allow, None for any number."""

    devices: int = 0
    device_bytes: int = 0
    nodes: tuple[int, ...] = field(default=())
    ranks: int | None = None

    def takes(self, groups: Sequence[Group]) -> bool:
        """Whether these groups fit at once."""
        if self.devices:
            each = all(g.rank_bytes <= self.device_bytes for g in groups)
            return each and sum(g.mesh.ranks for g in groups) <= self.devices
        if self.ranks is not None and sum(g.mesh.ranks for g in groups) > self.ranks:
            return False
        free = sorted(self.nodes, reverse=True)
        for size in sorted((g.rank_bytes for g in groups for _ in range(g.mesh.ranks)), reverse=True):
            place = next((i for i, room in enumerate(free) if room >= size), None)
            if place is None:
                return False
            free[place] -= size
        return True


def waves(groups: Sequence[Group], room: Room) -> list[list[Group]]:
    """The groups, each of which fits alone, in waves: those of most ranks and memory first, others where they fit."""
    found: list[list[Group]] = []
    for group in sorted(groups, key=lambda g: (g.mesh.ranks, g.rank_bytes), reverse=True):
        wave = next((w for w in found if room.takes([*w, group])), None)
        if wave is None:
            found.append([group])
        else:
            wave.append(group)
    return found


def places_for_ranks(gpus: int, cores: int, workers: int, threads: int) -> int:
    """Ranks that can run at once: one to a GPU that no model worker has, or `threads` cores each."""
    if gpus:
        return gpus - workers if gpus > workers else gpus
    return cores // threads


def replicas_for(slots: int, shards: int, groups: int, places: int, features: int) -> int:
    """How many replicas each of `groups` groups gets, if all are to run at once: as many as there are places for, but
    none that would only wait for the one with most slots, and at least one.

    features   of the smallest dictionary: every rank owns some
    """
    most = max(1, min(slots, features // shards, places // max(1, shards * groups)))
    return -(-slots // -(-slots // most))


MOST_SHARDS = 4096


def suggest(
    rank_bytes: Callable[[GroupShape], int], runs: tuple[str, ...], mesh: GroupShape, room: Room
) -> GroupShape | None:
    """The mesh of fewest ranks that fits: shards in powers of two, replicas (which part only the moments) no more than
    slots. None if there is none."""
    meshes = [
        GroupShape(R, 1 << n, mesh.slots, mesh.exchange)
        for n in range(MOST_SHARDS.bit_length())
        for R in {1, mesh.replicas, *(1 << m for m in range(mesh.slots.bit_length()))}
        if mesh.slots >= R
    ]
    for other in sorted(meshes, key=lambda m: (m.ranks, m.replicas)):
        if room.devices and other.ranks > room.devices:
            return None
        if room.takes([Group(runs, other, rank_bytes(other))]):
            return other
    return None
