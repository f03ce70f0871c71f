"""What of a running sweep its cluster has room for: all of it, what is left of it when nodes are lost, all again."""

import math
import time

import ray

from monosem.fleet.policy import Shape, fits, needs, smaller
from monosem.stages.spec import SweepSpec

LOOK_S = 2.0


class Room:
    """How much of a sweep runs now.

    wanted      all that was asked for
    shape       the most of it that the nodes hold which are there; the least there can be, while even that is too much
    enough      whether the nodes hold the shape
    gpu_share   of a GPU, for each model worker and each rank: what all have if all run
    """

    def __init__(self, spec: SweepSpec, groups: int, keepers: int):
        learner, stream, live = spec.job.learner, spec.job.stream, spec.job.stream.from_ is None
        workers = stream.workers if live else 0
        self.shape = self.wanted = Shape(workers, groups, learner.replicas)
        self.parts, self.keepers, self.shards = learner.feature_shards, keepers, stream.shards if live else 0
        self.least = learner.replicas if learner.exchange == "ring" else 1  # in an all-reduce their number shows
        actors = groups * learner.replicas * learner.feature_shards + workers
        gpus = ray.cluster_resources().get("GPU", 0)
        self.gpu_share = min(1.0, gpus / actors) if gpus and actors else 0
        self.enough, self.looked = True, time.monotonic()

    def want_workers(self, workers: int) -> None:
        """What that comes to, `look` says at once: with what else has changed, which else nobody would be told of."""
        self.wanted = Shape(workers, self.wanted.groups, self.wanted.replicas)
        self.looked = -math.inf

    def look(self) -> str | None:
        """Look at the cluster, not more often than every LOOK_S; a line to tell if another shape, or none, fits now."""
        if time.monotonic() - self.looked < LOOK_S:
            return None
        before, have = (self.shape, self.enough), self._look()
        if (self.shape, self.enough) == before:
            return None
        if not self.enough:
            least = _amounts(self._needs(self.shape))
            return f"the cluster has {_amounts(have)}, the least this sweep needs is {least}: waiting for nodes"
        return f"the cluster has {_amounts(have)} now: {self._told()}"

    def _look(self) -> dict[str, float]:
        have, self.looked = ray.cluster_resources(), time.monotonic()
        shapes = list(smaller(self.wanted, self.least))
        self.shape = next((shape for shape in shapes if fits(self._needs(shape), have)), shapes[-1])
        self.enough = fits(self._needs(self.shape), have)
        return have

    def _needs(self, shape: Shape) -> dict[str, float]:
        return needs(shape, self.parts, self.shards, self.keepers, self.gpu_share)

    def _told(self) -> str:
        s, w = self.shape, self.wanted
        told = []
        if w.workers:
            told.append(f"{s.workers} of {w.workers} model workers")
        if w.groups:
            told.append(f"{s.groups} of {w.groups} learner groups at a time, in {s.replicas} of {w.replicas} replicas")
        return ", ".join(told)


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):.3g} {name}s" for name in ("CPU", "GPU") if resources.get(name))
