"""Training on Ray: start the actors, watch them, replace what dies, stop when told.

No actor restarts by itself (`max_restarts=0`): the supervisor starts a successor, so that no stale call is ever
replayed. What is lost is made again from arithmetic and checkpoints, so no death shows in a result.
"""

import sys
from collections.abc import Callable

from monosem.errors import InputError, Interrupted, MonosemError
from monosem.fleet.cluster import connected, object_store_bytes, set_environment
from monosem.fleet.policy import Action, PackHistory, after_death
from monosem.stages.executor import Status
from monosem.stages.signals import stop_on_signal
from monosem.stages.spec import RunSpec, SweepSpec, pack_runs
from monosem.store import layout
from monosem.store.checkpoints import CheckpointLog
from monosem.store.store import open_store

POLL_S = 0.5
STOP_PATIENCE_S = 60.0
STREAM_DEATHS = 5
"""Deaths of workers and shards without a training step in between, after which the sweep ends with the reason."""
CPUS = {"worker": 0.2, "shard": 0.1, "learner": 0.5}
"""Shares asked of Ray's scheduler; real use is set by the threads of the job file."""


class RayExecutor:
    """Runs a sweep on a Ray of its own (`address` None) or on the one at `address`."""

    def __init__(self, address: str | None):
        self.address = address
        self.local = address is None

    def execute(self, spec: SweepSpec, runs: list[RunSpec], report: Callable[[Status], None]) -> Status:
        set_environment(self.address)
        # Signals inside: ray.init puts handlers of its own in place.
        with connected(self.address, object_store_bytes(spec)), stop_on_signal() as should_stop:
            fleet = _Fleet(spec, pack_runs(tuple(runs), spec.job.learner.pack_parameters))
            return fleet.supervise(should_stop, report)


class _Fleet:
    """The actors of one sweep and their supervision."""

    def __init__(self, spec: SweepSpec, packs: list[list[RunSpec]]):
        import ray

        self.ray, self.spec = ray, spec
        self.store = open_store(spec.job.store)
        self.gpu_share = self._gpu_share(len(packs))
        self._check_room(len(packs))
        self.incarnation = 0
        self.workers: dict[int, object] = {}
        self.shards: dict[int, object] = {}
        self.watched: dict[object, tuple[str, int]] = {}  # a call that ends when the actor dies -> who it is
        self.packs: dict[int, list[RunSpec]] = {}
        self.learners: dict[int, object] = {}
        self.histories: dict[int, PackHistory] = {}
        self.done: dict[int, Status] = {}
        self.given_up: dict[str, str] = {}
        self.stream_deaths, self.progress = 0, 0  # of workers and shards, since the runs last moved
        for _ in range(spec.job.stream.workers):
            self._start_worker()
        for shard in range(spec.job.stream.shards):
            self._start_shard(shard)
        for pack in packs:
            self._start_learner(pack, PackHistory())

    # -- starting ------------------------------------------------------------------------------

    def _number(self) -> int:
        self.incarnation += 1
        return self.incarnation

    def _start_worker(self) -> None:
        from monosem.fleet.workers import ModelWorker

        number = self._number()
        worker = ModelWorker.options(num_cpus=CPUS["worker"], num_gpus=self.gpu_share).remote(self.spec)
        self.workers[number] = worker
        self.watched[worker.alive.remote()] = ("worker", number)
        self._tell_shards()

    def _start_shard(self, shard: int) -> None:
        from monosem.fleet.workers import BufferShard

        actor = BufferShard.options(num_cpus=CPUS["shard"], max_concurrency=1000).remote(
            self.spec, shard, self.spec.job.stream.shards
        )
        self.shards[shard] = actor
        self.watched[actor.alive.remote()] = ("shard", shard)
        actor.set_workers.remote(self.workers)
        for learner in self.learners.values():
            learner.set_shard.remote(shard, actor)

    def _start_learner(self, pack: list[RunSpec], history: PackHistory) -> None:
        from monosem.fleet.learners import LearnerActor

        number = self._number()
        actor = LearnerActor.options(num_cpus=CPUS["learner"], num_gpus=self.gpu_share).remote(
            self.spec, pack, f"pack-{number}", self.shards
        )
        self.packs[number], self.learners[number], self.histories[number] = pack, actor, history
        self.watched[actor.train.remote()] = ("learner", number)

    def _tell_shards(self) -> None:
        for shard in self.shards.values():
            shard.set_workers.remote(self.workers)

    # -- watching ------------------------------------------------------------------------------

    def supervise(self, should_stop: Callable[[], bool], report: Callable[[Status], None]) -> Status:
        while self.learners:
            ended, _ = self.ray.wait(list(self.watched), timeout=POLL_S)
            for call in ended:
                self._on_end(call, *self.watched.pop(call))
            if should_stop():
                self._stop()
                raise Interrupted("stopped; the same command resumes from the last checkpoints")
            report(self._status())
        return self._status()

    def _on_end(self, call: object, kind: str, number: int) -> None:
        """A watched call has come back: a learner finished, or an actor died."""
        try:
            value = self.ray.get(call)
        except self.ray.exceptions.RayActorError as error:
            self._on_death(kind, number, error)
            return
        except self.ray.exceptions.RayTaskError as error:  # its own code raised: a restart would raise again
            if kind != "learner":
                raise
            self._end_learner(number, {run.name: str(error.cause) for run in self.packs[number]})
            return
        self.done[number] = value
        self._end_learner(number, {})

    def _on_death(self, kind: str, number: int, error: Exception) -> None:
        _say(f"{kind} {number} died ({type(error).__name__}); starting a successor")
        if kind in ("worker", "shard"):
            self.stream_deaths += 1
            if self.stream_deaths > STREAM_DEATHS:
                reason = str(error).strip().split("\n")[-1]
                raise MonosemError(
                    f"model workers and buffer shards died {self.stream_deaths} times in a row: {reason}"
                )
        if kind == "worker":
            del self.workers[number]
            self._start_worker()
        elif kind == "shard":
            self._start_shard(number)
        else:
            self._replace_learner(number)

    def _replace_learner(self, number: int) -> None:
        pack = self.packs[number]
        for shard in self.shards.values():
            shard.leave.remote(f"pack-{number}")
        action, history = after_death(self.histories[number], self._lowest_checkpoint(pack), len(pack))
        if action is Action.give_up:
            self._end_learner(number, {run.name: "its process died again and again" for run in pack})
            return
        self._end_learner(number, {})
        for part in [pack] if action is Action.restart else [[run] for run in pack]:
            self._start_learner(part, history)

    def _end_learner(self, number: int, errors: dict[str, str]) -> None:
        actor = self.learners.pop(number)
        self.given_up |= errors
        self.ray.kill(actor)

    def _lowest_checkpoint(self, pack: list[RunSpec]) -> int:
        logs = (CheckpointLog(self.store, f"{layout.run(self.spec.job.name, run.name)}/checkpoints") for run in pack)
        return min(max(log.steps(), default=0) for log in logs)

    # -- telling and stopping --------------------------------------------------------------------

    def _status(self) -> Status:
        total = Status(errors=dict(self.given_up))
        calls = {number: actor.status.remote() for number, actor in self.learners.items()}
        statuses = dict(self.done)
        for number, call in calls.items():
            try:
                statuses[number] = self.ray.get(call, timeout=5)
            except (self.ray.exceptions.RayActorError, self.ray.exceptions.GetTimeoutError):
                continue  # starting, or dead: the watch will say
        for status in statuses.values():
            total.steps |= status.steps
            total.errors |= status.errors
            total.wait_share = max(total.wait_share, status.wait_share)
            total.note = status.note or total.note
        if sum(total.steps.values()) > self.progress:
            self.stream_deaths, self.progress = 0, sum(total.steps.values())
        return total

    def _stop(self) -> None:
        """Ask every learner for a checkpoint at its next step, and wait for them."""
        _say("stopping after a checkpoint")
        calls = [call for call, (kind, _) in self.watched.items() if kind == "learner"]
        for actor in self.learners.values():
            actor.ask_to_stop.remote()
        self.ray.wait(calls, num_returns=len(calls), timeout=STOP_PATIENCE_S)

    # -- room --------------------------------------------------------------------------------------

    def _gpu_share(self, learners: int) -> float:
        gpus = self.ray.cluster_resources().get("GPU", 0)
        return min(1.0, gpus / (learners + self.spec.job.stream.workers)) if gpus else 0

    def _check_room(self, learners: int) -> None:
        stream = self.spec.job.stream
        need = stream.workers * CPUS["worker"] + stream.shards * CPUS["shard"] + learners * CPUS["learner"]
        have = self.ray.cluster_resources().get("CPU", 0)
        if need > have:
            raise InputError(
                f"stream.workers={stream.workers}, stream.shards={stream.shards} and {learners} learners need "
                f"{need:.1f} CPUs, the cluster has {have:.0f}; ask for fewer"
            )


def _say(text: str) -> None:
    sys.stderr.write(f"monosem: {text}\n")
    sys.stderr.flush()
