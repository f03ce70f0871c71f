"""The actors of one pack: a rank each, placed together, that live and die together."""

from collections.abc import Sequence

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from monosem.fleet.learners import LearnerActor
from monosem.fleet.policy import slow_ranks
from monosem.plan.placement import CPUS
from monosem.stages.spec import RunSpec, SweepSpec, seats


class LearnerGroup:
    """Its ranks; the first leads. `calls` end when a rank's work has, or its process."""

    def __init__(
        self, spec: SweepSpec, pack: list[RunSpec], name: str, shards: dict[int, object], replicas: int, gpus: float
    ):
        self.pack, self.name, self.replicas = pack, name, replicas
        self.seen = False  # a rank of it has answered
        places = seats(spec.job, replicas)
        self.bundles = None
        options: list[dict] = [{"num_cpus": CPUS["learner"], "num_gpus": gpus} for _ in places]
        if len(places) > 1:
            bundle = {"CPU": CPUS["learner"]} | ({"GPU": gpus} if gpus else {})
            self.bundles = placement_group([bundle] * len(places), strategy="PACK")
            for rank, option in enumerate(options):
                option["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.bundles, rank)
        self.names = [f"{name}.{seat.rank}" for seat in places]
        self.actors = [
            LearnerActor.options(**option).remote(spec, pack, reader, shards, seat)
            for option, reader, seat in zip(options, self.names, places, strict=True)
        ]
        place = self.actors[0].open_place.remote() if len(places) > 1 else None
        self.calls = [actor.work.remote(place) for actor in self.actors]
        self.told_slow: set[int] = set()

    def end(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        if self.bundles is not None:
            remove_placement_group(self.bundles)

    def news(self, step_s: Sequence[float]) -> list[str]:
        """A line for each rank that has become slow, once."""
        lines = []
        for rank, median in slow_ranks(step_s).items():
            if rank not in self.told_slow:
                self.told_slow.add(rank)
                names = ", ".join(run.name for run in self.pack)
                lines.append(
                    f"learner of {names}: rank {rank} of {len(self.actors)} is slow, "
                    f"{1000 * step_s[rank]:,.0f} ms of own work a step, where {1000 * median:,.0f} is usual"
                )
        return lines
