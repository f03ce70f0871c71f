"""The executor that works on Ray: reach a cluster, check that the job fits, run the fleet."""

import os
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from monosem.config.job import SweepJob
from monosem.errors import InputError
from monosem.fleet.cluster import check_reachable, connected, set_environment
from monosem.fleet.features import FeatureTasks
from monosem.plan.cost import GroupShape
from monosem.stages.budget import Need, Shapes, memory_plan, object_store_bytes, ranks_by_cores, shapes_of
from monosem.stages.executor import Keeping, Report, Status, open_writers, tee_of
from monosem.stages.features import TaskRunner, inline_tasks
from monosem.stages.signals import stop_on_signal
from monosem.stages.spec import RunSpec, SweepSpec, pack_runs, settled


class RayExecutor:
    """Runs a sweep on a Ray of its own (`address` None) or on the one at `address`."""

    one_rank = False
    waves = True
    groups: int | None = None

    def __init__(self, address: str | None):
        check_reachable(address)
        self.address = address
        self.local = address is None

    def plan(self, shapes: Shapes, runs: tuple[RunSpec, ...], keeps: bool) -> list[Need]:
        job = settled(shapes.job, runs, torch.cuda.device_count(), os.cpu_count() or 1)
        shapes, learner = replace(shapes, job=job), job.learner
        packs, mesh = pack_runs(runs, learner.pack_parameters), GroupShape.of(learner)
        return memory_plan(shapes, packs, inline=False, keeps=keeps, mesh=mesh)

    def execute(self, spec: SweepSpec, runs: list[RunSpec], report: Report) -> Status:
        packs = pack_runs(tuple(runs), spec.job.learner.pack_parameters)
        return self._run(spec, packs, tee_of(spec), report)

    def harvest(self, spec: SweepSpec, keeping: Keeping, report: Report) -> Status:
        return self._run(spec, [], keeping, report)

    def feature_tasks(self, job: SweepJob) -> AbstractContextManager[TaskRunner]:
        """On the nodes of a cluster; where Ray would be one of our own, this process has the whole machine."""
        return inline_tasks(job) if self.local else FeatureTasks(self.address, job)

    def _run(self, spec: SweepSpec, packs: list, keeping: Keeping | None, report: Report) -> Status:
        set_environment(self.address)
        keepers = len(open_writers(spec, keeping)) if keeping else 0
        # Signals inside: ray.init puts handlers of its own in place.
        with connected(self.address, object_store_bytes(shapes_of(spec))), stop_on_signal() as should_stop:
            import ray  # its settings stand only now

            from monosem.fleet.supervisor import Supervisor
            from monosem.fleet.telling import say

            have = ray.cluster_resources()
            runs = [run for pack in packs for run in pack]
            job = settled(spec.job, runs, int(have.get("GPU", 0)), int(have.get("CPU", 0)))
            if job != spec.job:
                say(f"learner.replicas=0: {job.learner.replicas} for each learner group, by what the cluster has")
            spec = replace(spec, job=job)
            room = room_for_groups(spec, bool(packs), keepers)
            room = min(room, self.groups or room)
            return Supervisor(spec, packs, room, keeping).supervise(should_stop, report)


def room_for_groups(spec: SweepSpec, trains: bool, keepers: int) -> int:
    """How many learner groups the cluster has room for at a time, beside the stream.

    InputError if that is none, or the nodes' object stores do not hold what the stream keeps.
    """
    import ray

    have = ray.cluster_resources()
    ranks = ranks_by_cores(spec.job, have.get("CPU", 0), trains, keepers)
    live = spec.job.stream.from_ is None
    stored, place = object_store_bytes(shapes_of(spec)), have.get("object_store_memory", 0)
    if live and stored > place:
        raise InputError(
            f"stream.ahead_rows={spec.job.stream.ahead_rows:,}: the stream keeps {stored / 2**20:,.0f} MiB in Ray's "
            f"object store, the cluster has {place / 2**20:,.0f}; lower it, or start nodes with more "
            "--object-store-memory"
        )
    return ranks // GroupShape.of(spec.job.learner).ranks if trains else 0
