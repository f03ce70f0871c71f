"""What to do when a learner process dies, whom to start when, what fits what is left, who is slow: pure, no Ray.

The death of a pack's process says nothing about which of its runs is to blame. It is restarted from the
checkpoints; if it dies again and again, its runs are parted, so that one that kills its process cannot
harm the others; one that still dies alone is given up.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from monosem.plan.placement import cpus_of

SLOW = 1.5
"""A rank whose own work takes this many times that of the median of its group is slow."""
RESTARTS = 3
"""Deaths without progress (no new checkpoint in between) before runs are parted, or one is given up."""


class Action(Enum):
    restart = "restart"
    part = "part"
    give_up = "give_up"


@dataclass(frozen=True)
class PackHistory:
    """deaths: since the last progress; step: the lowest checkpointed step seen at the last death."""

    deaths: int = 0
    step: int = -1


def after_death(history: PackHistory, step: int, runs: int) -> tuple[Action, PackHistory]:
    """The action after a death at which the lowest checkpoint was at `step`, and the new history."""
    deaths = 1 if step > history.step else history.deaths + 1
    new = PackHistory(deaths, max(step, history.step))
    if deaths <= RESTARTS:
        return Action.restart, new
    if runs > 1:
        return Action.part, PackHistory(0, new.step)
    return Action.give_up, new


def in_waves(packs: Sequence, room: int) -> list[list]:
    """Packs in groups of at most `room`, largest dictionaries first, so that what takes longest does not begin last."""
    order = list(packs)[::-1]
    return [order[i : i + room] for i in range(0, len(order), room)] if packs else []


@dataclass(frozen=True)
class Shape:
    """How much of a sweep runs at a time: model workers, learner groups, and the replicas of each group."""

    workers: int
    groups: int
    replicas: int


def needs(shape: Shape, parts: int, shards: int, keepers: int, gpu_share: float) -> dict[str, float]:
    """What a shape asks of Ray's scheduler, for groups whose replicas are in so many parts."""
    ranks = shape.groups * shape.replicas * parts
    return {"CPU": cpus_of(ranks, shape.workers, shards, keepers), "GPU": (ranks + shape.workers) * gpu_share}


def fits(need: Mapping[str, float], have: Mapping[str, float]) -> bool:
    return all(amount <= have.get(name, 0) + 1e-6 for name, amount in need.items())


def smaller(wanted: Shape, least: int = 1) -> Iterator[Shape]:
    """The shape and ever smaller ones, down to one worker (if any are wanted) and one group of `least` replicas.

    Replicas and workers shrink in step, so that the stream stays as fast as what it feeds; groups only after them.
    None of these numbers is ever seen in a result.
    """
    most = max(wanted.workers, wanted.replicas)
    for n in range(most, 0, -1):
        yield Shape(-(-wanted.workers * n // most), wanted.groups, max(least, -(-wanted.replicas * n // most)))
    for groups in range(wanted.groups - 1, 0, -1):
        yield Shape(min(1, wanted.workers), groups, least)


def slow_ranks(step_s: Sequence[float]) -> dict[int, float]:
    """Ranks that are slow, and the median they are measured by, from each rank's seconds of own work per step.

    None while a rank has not told yet (0).
    """
    if len(step_s) < 2 or min(step_s) <= 0:
        return {}
    median = sorted(step_s)[(len(step_s) - 1) // 2]
    return {rank: median for rank, seconds in enumerate(step_s) if seconds > SLOW * median}
