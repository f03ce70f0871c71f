"""The actors of one sweep and their supervision: start them, watch them, replace what dies, stop when told.

No actor restarts by itself (`max_restarts=0`): the supervisor starts a successor, so that no stale call is ever
replayed. What is lost is made again from arithmetic and checkpoints, so no death shows in a result.
"""

import time
from collections.abc import Callable
from contextlib import suppress

import ray

from monosem.errors import IntegrityError, Interrupted, MonosemError, StoreError
from monosem.fleet.control import Control
from monosem.fleet.group import LearnerGroup
from monosem.fleet.learners import KeeperActor
from monosem.fleet.policy import Action, PackHistory, after_death, in_waves
from monosem.fleet.room import Room
from monosem.fleet.spilling import SpillWatch
from monosem.fleet.telling import say
from monosem.fleet.workers import BufferShard, ModelWorker
from monosem.plan.placement import CPUS
from monosem.stages import canary
from monosem.stages.executor import Keeping, Report, Status, canary_place
from monosem.stages.prepare import unfinished
from monosem.stages.spec import RunSpec, SweepSpec
from monosem.store import layout
from monosem.store.checkpoints import CheckpointLog
from monosem.store.store import open_store

POLL_S = 0.5
ANSWER_S = 1.0
"""How long all actors together may take to tell their state; who takes longer is asked again at the next poll."""
STOP_PATIENCE_S = 60.0
STREAM_DEATHS = 5
"""Deaths of workers, shards and keepers without progress in between, after which the sweep ends with the reason."""


class Supervisor:
    """Workers and shards feed learner groups (one per pack) and keepers (one per hook point, if rows are kept).

    packs   none if rows are only kept
    groups  how many groups there is room for at a time: the others go in waves, each when the one before has ended
    """

    def __init__(self, spec: SweepSpec, packs: list[list[RunSpec]], groups: int, keeping: Keeping | None):
        self.spec, self.keeping, trains = spec, keeping, bool(packs)
        keepers = spec.hook_points if keeping else ()
        self.room = Room(spec, min(len(packs), groups), len(keepers))
        self.waves = in_waves(packs, groups)
        self.store = open_store(spec.job.store)
        self.canary_place = canary_place(spec, None if trains else keeping)
        self.incarnation = 0
        self.wanted_workers = 0
        self.edition = 0  # of what the shards are told of the workers
        self.workers: dict[int, object] = {}  # let in: they sang the stream's canary
        self.joining: dict[int, object] = {}
        self.shards: dict[int, object] = {}
        self.watched: dict[object, tuple[str, int]] = {}  # a call that ends when the actor dies -> who it is
        self.groups: dict[int, LearnerGroup] = {}
        self.keepers: dict[int, str] = {}  # hook points
        self.readers: dict[int, list] = {}  # the actors of groups and of keepers
        self.histories: dict[int, PackHistory] = {}
        self.dead: dict[int, str] = {}  # learners whose successors wait for the store, and what they died of
        self.done: dict[int, Status] = {}
        self.given_up: dict[str, str] = {}
        self.stream_deaths, self.progress = 0, 0  # of the stream's actors, since the runs last moved
        self.spills = SpillWatch()
        self.store_away = False  # and said so
        self.answered = True  # no wish for another number of workers is open
        live = spec.job.stream.from_ is None
        self.control = Control(self.store, spec.job.name, spec.job.stream.workers) if live and trains else None
        if live:
            self._scale(spec.job.stream.workers)
            for shard in range(spec.job.stream.shards):
                self._start_shard(shard)
        self._start_wave()
        for hook_point in keepers:
            self._start_keeper(hook_point)

    # -- starting ------------------------------------------------------------------------------

    def _number(self) -> int:
        self.incarnation += 1
        return self.incarnation

    def _scale(self, wanted: int) -> None:
        """Start workers, or let the newest go: they finish what they compute, and nobody asks them again."""
        self.wanted_workers = wanted
        for _ in range(wanted - len(self.workers) - len(self.joining)):
            self._start_worker()
        for _ in range(len(self.workers) + len(self.joining) - wanted):
            group = self.joining or self.workers
            number = max(group)
            actor = group.pop(number)
            self._unwatch(number)
            if group is self.joining:  # perhaps it has no place yet: then it would never read a message
                ray.kill(actor)
            else:
                self._tell_shards()
                actor.__ray_terminate__.remote()

    def _start_worker(self) -> None:
        number = self._number()
        options = {"num_cpus": CPUS["worker"], "num_gpus": self.room.gpu_share, "scheduling_strategy": "SPREAD"}
        worker = self.joining[number] = ModelWorker.options(**options).remote(self.spec)
        self.watched[worker.sing.remote()] = ("canary", number)

    def _let_in(self, number: int, song: dict) -> None:
        """A worker that makes the stream's bits joins the others; another one is sent away."""
        worker = self.joining.pop(number)
        try:
            canary.check(*self.canary_place, song)
        except IntegrityError as error:
            ray.kill(worker)
            self.wanted_workers -= 1
            say(f"worker {number} is not let in: {error}")
            if not self.workers and not self.joining:
                raise
            return
        self.workers[number] = worker
        self.watched[worker.alive.remote()] = ("worker", number)
        self._tell_shards()

    def _start_shard(self, shard: int) -> None:
        options = {"num_cpus": CPUS["shard"], "max_concurrency": 1000, "scheduling_strategy": "SPREAD"}
        actor = BufferShard.options(**options).remote(self.spec, shard, self.spec.job.stream.shards)
        self.shards[shard] = actor
        self.watched[actor.alive.remote()] = ("shard", shard)
        self._tell_workers(actor)
        for actors in self.readers.values():
            for reader in actors:
                reader.set_shard.remote(shard, actor)

    def _start_wave(self) -> None:
        if self.waves:
            packs = self.waves.pop(0)
            if self.waves:
                later = sum(len(pack) for wave in self.waves for pack in wave)
                say(f"{sum(map(len, packs))} runs begin; {later} wait for room, until these have ended")
            for pack in packs:
                self._start_learner(pack, PackHistory())

    def _start_learner(self, pack: list[RunSpec], history: PackHistory) -> None:
        number = self._number()
        group = LearnerGroup(
            self.spec, pack, self._reader_name(number), self.shards, self.room.shape.replicas, self.room.gpu_share
        )
        self.groups[number], self.readers[number], self.histories[number] = group, group.actors, history
        self.watched |= dict.fromkeys(group.calls, ("learner", number))

    def _start_keeper(self, hook_point: str) -> None:
        number = self._number()
        actor = KeeperActor.options(num_cpus=CPUS["keeper"]).remote(
            self.spec, self.keeping, hook_point, self._reader_name(number), self.shards
        )
        self.keepers[number], self.readers[number] = hook_point, [actor]
        self.watched[actor.work.remote()] = ("keeper", number)

    def _reader_name(self, number: int) -> str:
        return f"reader-{number}"

    def _tell_shards(self) -> None:
        for shard in self.shards.values():
            self._tell_workers(shard)

    def _tell_workers(self, shard: object) -> None:
        self.edition += 1
        shard.set_workers.remote(self.workers, self.edition)

    # -- watching ------------------------------------------------------------------------------

    def supervise(self, should_stop: Callable[[], bool], report: Report) -> Status:
        try:
            while self.readers or self.waves:
                if not self.groups:
                    self._start_wave()
                for call in self._ended():
                    if call in self.watched:
                        self._on_end(call, *self.watched.pop(call))
                if should_stop():
                    self._stop()
                    raise Interrupted("stopped; the same command resumes from the last checkpoints")
                self._replace_dead()
                self._take_up_changes()
                report(self._status())
            return self._status()
        finally:
            if self.control:
                self.control.close()

    def _ended(self) -> list:
        """The watched calls that have come back; waits for them for a while."""
        if not self.watched:  # there may be no actor but a learner whose successor waits for the store
            time.sleep(POLL_S)
            return []
        return ray.wait(list(self.watched), timeout=POLL_S)[0]

    def _on_end(self, call: object, kind: str, number: int) -> None:
        """A watched call has come back: a learner finished, a canary was sung, or an actor died."""
        try:
            value = ray.get(call)
        except (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError) as error:
            self._on_death(kind, number, error)
            return
        except ray.exceptions.RayTaskError as error:  # its own code raised: a restart would raise again
            if kind != "learner":
                raise MonosemError(f"{kind} {number}: {error.cause}") from error
            if len(self.readers[number]) > 1:  # one of several: the others' death may be what it raised
                self._on_death(kind, number, error.cause)
                return
            self._end_reader(number, {run.name: str(error.cause) for run in self.groups[number].pack})
            return
        if kind == "canary":
            self._let_in(number, value)
        elif kind == "learner" and call != self.groups[number].calls[0]:
            return  # the leading rank has still to evaluate
        else:
            self.done[number] = value
            self._end_reader(number, {})

    def _on_death(self, kind: str, number: int, error: Exception) -> None:
        who = "worker" if kind == "canary" else kind
        say(f"{who} {number} died ({_reason(error)}); starting a successor")
        if kind != "learner":
            self.stream_deaths += 1
            if self.stream_deaths > STREAM_DEATHS:
                reason = str(error).strip().split("\n")[-1]
                raise MonosemError(
                    f"model workers and buffer shards died {self.stream_deaths} times in a row: {reason}"
                )
        if who == "worker":
            ray.kill(self.workers.pop(number, None) or self.joining.pop(number))  # it may be only out of reach
            self._tell_shards()
            self._start_worker()
        elif kind == "shard":
            ray.kill(self.shards[number])
            self._start_shard(number)
        elif kind == "keeper":
            self._leave_for(number)
            hook_point = self.keepers.pop(number)
            self._end_reader(number, {})
            self._start_keeper(hook_point)
        else:
            self._leave_for(number)
            self._unwatch_group(self.groups[number])
            self.dead[number] = _reason(error)
            self._replace_dead()

    def _replace_dead(self) -> None:
        """Successors for learners that died; later, if the store does not tell now how far they were."""
        for number, reason in list(self.dead.items()):
            try:
                step = self._lowest_checkpoint(self.groups[number].pack)
            except StoreError as error:
                if not self.store_away:
                    say(f"learner {number} waits for its checkpoints: {error}; tried again until they are there")
                self.store_away = True
                return
            self.store_away = False
            self._replace_learner(number, reason, step)

    def _replace_learner(self, number: int, reason: str, step: int) -> None:
        pack = self.groups[number].pack
        action, history = after_death(self.histories[number], step, len(pack))
        if action is Action.give_up:
            self._end_reader(number, {run.name: f"its process died again and again ({reason})" for run in pack})
            return
        self._end_reader(number, {})
        parts = [pack] if action is Action.restart else [[run] for run in pack]
        now = max(1, self.room.shape.groups - len(self.groups))
        for part in parts[:now]:
            self._start_learner(part, history)
        self.waves += in_waves(parts[now:], self.room.shape.groups)

    def _fit(self) -> None:
        """Use what there is of a cluster that lost nodes, or got some.

        What is at work is made smaller too: else what was lost beside it would wait for a place for ever.
        """
        line = self.room.look()
        if line is None:
            return
        say(line)
        if self.room.wanted.workers:
            self._scale(self.room.shape.workers)
        shape = self.room.shape
        seen_first = sorted(self.groups, key=lambda n: (not self.groups[n].seen, n))
        for place, number in enumerate(seen_first):
            group, history, stays = self.groups[number], self.histories[number], place < shape.groups
            too_few = group.replicas < shape.replicas and not group.seen  # a group at work is not made larger
            if stays and group.replicas <= shape.replicas and not too_few:
                continue
            self._leave_for(number)
            self._end_reader(number, {})
            if stays:
                self._start_learner(group.pack, history)
            else:
                self.waves.append([group.pack])

    def _leave_for(self, number: int) -> None:
        """What is dead holds nothing back."""
        names = self.groups[number].names if number in self.groups else [self._reader_name(number)]
        for shard in self.shards.values():
            for name in names:
                shard.leave.remote(name)

    def _end_reader(self, number: int, errors: dict[str, str]) -> None:
        actors = self.readers.pop(number)
        self.given_up |= errors
        self.dead.pop(number, None)
        group = self.groups.pop(number, None)
        if group:
            self._unwatch_group(group)
            group.end()
        else:
            ray.kill(actors[0])

    def _unwatch(self, number: int) -> None:
        of_it = ("worker", number), ("canary", number)
        self.watched = {call: who for call, who in self.watched.items() if who not in of_it}

    def _unwatch_group(self, group: LearnerGroup) -> None:
        self.watched = {call: who for call, who in self.watched.items() if call not in group.calls}

    def _lowest_checkpoint(self, pack: list[RunSpec]) -> int:
        """Of the run that is furthest behind; all steps, if all are finished."""
        name = self.spec.job.name
        todo = unfinished(self.store, name, pack)
        logs = (CheckpointLog(self.store, f"{layout.run(name, run.name)}/checkpoints") for run in todo)
        return min((max(log.steps(), default=0) for log in logs), default=self.spec.job.train.steps)

    def _take_up_changes(self) -> None:
        """Nodes that came or went, and workers added or taken away by `monosem scale`; answered once they are there."""
        wanted = self.control.wish() if self.control else None
        if wanted is not None:
            say(f"{wanted} model workers asked for, {len(self.workers)} there")
            self.room.want_workers(wanted)
        self._fit()
        if wanted is not None:
            self._scale(self.room.shape.workers)  # if as many as before fit, there may be fewer: some are not let in
            self.answered = False
        if not self.answered and len(self.workers) == self.wanted_workers:
            self.answered = self.control.publish(self.wanted_workers)

    # -- telling and stopping --------------------------------------------------------------------

    def _status(self) -> Status:
        total = Status(errors=dict(self.given_up))
        asked = {(n, i): a.status.remote() for n, actors in self.readers.items() for i, a in enumerate(actors)}
        answers = self._ask(asked)
        statuses = dict(self.done) | {n: status for (n, i), status in answers.items() if i == 0}
        for n, group in self.groups.items():
            group.seen |= any((n, i) in answers for i in range(len(group.actors)))
            paces = [answers[n, i].step_s if (n, i) in answers else 0.0 for i in range(len(group.actors))]
            for line in group.news(paces):
                say(line)
        for status in statuses.values():
            total.steps |= status.steps
            total.errors |= status.errors
            total.wait_share = max(total.wait_share, status.wait_share)
            total.note = status.note or total.note
        written = [statuses.get(n, Status()).written for n in self.keepers]
        total.written = min(written, default=0)
        progress = sum(total.steps.values()) + sum(written)
        if progress > self.progress:
            self.stream_deaths, self.progress = 0, progress
        for news in self._ask({n: shard.tell_news.remote() for n, shard in self.shards.items()}).values():
            for line in news:
                say(line)
        for line in self.spills.look():
            say(line)
        return total

    def _ask(self, calls: dict[int, object]) -> dict:
        """The answers that come; an actor that is starting or dead has none, and the watch will say why."""
        ready, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=ANSWER_S) if calls else ([], [])
        answers = {}
        for number, call in calls.items():
            if call in ready:
                with suppress(ray.exceptions.RayActorError):
                    answers[number] = ray.get(call)
        return answers

    def _stop(self) -> None:
        """Ask every reader for a checkpoint at its next step, and wait for them."""
        say("stopping after a checkpoint")
        calls = [call for call, (kind, _) in self.watched.items() if kind in ("learner", "keeper")]
        for actors in self.readers.values():
            for actor in actors:
                actor.ask_to_stop.remote()
        ray.wait(calls, num_returns=len(calls), timeout=STOP_PATIENCE_S)


def _reason(error: BaseException) -> str:
    return type(error).__name__ if isinstance(error, ray.exceptions.RayError) else f"{type(error).__name__}: {error}"
