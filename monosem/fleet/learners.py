"""The learner actor: trains one pack of runs, pulling its rows from the buffer shards."""

import threading

import ray

from monosem.errors import Interrupted
from monosem.fleet.source import RaySource
from monosem.learn.loop import PackLoop
from monosem.memory import keep_freed_memory
from monosem.stages.executor import Status, loop_status, wandb_directory
from monosem.stages.learning import make_loop
from monosem.stages.spec import RunSpec, SweepSpec
from monosem.store.store import open_store
from monosem.stream.reader import RowReader


@ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=3)
class LearnerActor:
    """`train` runs to the end in one call; the other methods answer meanwhile."""

    def __init__(self, spec: SweepSpec, pack: list[RunSpec], reader: str, shards: dict[int, object]):
        self.spec, self.pack = spec, pack
        self.source = RaySource(spec.order, reader, shards)
        self.stop_asked = threading.Event()
        self.latest = Status()

    def train(self) -> Status:
        """Train the pack. A stop on request returns early, after a checkpoint."""
        keep_freed_memory()
        spec, store = self.spec, open_store(self.spec.job.store)
        self.source.join(0)
        loop = make_loop(
            spec,
            self.pack,
            store,
            RowReader(self.source, spec.order),
            wandb_directory(store, spec.job.name),
            self.stop_asked.is_set,
            self._note,
        )
        try:
            loop.run()
        except Interrupted:  # the supervisor asked, and knows
            self._note(loop)
        finally:
            self.source.leave()
        return self.latest

    def set_shard(self, shard: int, actor: object) -> None:
        self.source.set_shard(shard, actor)

    def status(self) -> Status:
        return self.latest

    def ask_to_stop(self) -> None:
        self.stop_asked.set()

    def _note(self, loop: PackLoop) -> None:
        self.latest = loop_status(loop)
