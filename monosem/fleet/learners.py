"""The actors that read the stream: learners, which train a pack of runs, and keepers, which write datasets."""

import threading
from dataclasses import replace

import ray
import torch

from monosem.errors import Interrupted
from monosem.fleet import meeting
from monosem.fleet.source import RaySource
from monosem.learn.loop import PackLoop
from monosem.learn.mesh import Mesh, Seat
from monosem.learn.run import clear_training_state
from monosem.memory import keep_freed_memory
from monosem.stages.executor import Keeping, Status, dataset_readers, loop_status, wandb_directory
from monosem.stages.keep import open_writer, pump
from monosem.stages.learning import make_loop
from monosem.stages.prepare import unfinished
from monosem.stages.spec import RunSpec, SweepSpec
from monosem.store import layout
from monosem.store.checkpoints import CheckpointLog
from monosem.store.store import Store, open_store
from monosem.stream.reader import RowReader, Rows


class _Reader:
    """What both have: a place in the stream, a status, and a way to be stopped."""

    def __init__(self, spec: SweepSpec, name: str, shards: dict[int, object], reads: tuple[str, ...]):
        self.spec, self.reads = spec, reads
        self.source = RaySource(spec.order, name, spec.hook_points, shards, reads)
        self.stop_asked = threading.Event()
        self.latest = Status()

    def set_shard(self, shard: int, actor: object) -> None:
        self.source.set_shard(shard, actor)

    def status(self) -> Status:
        return self.latest

    def ask_to_stop(self) -> None:
        self.stop_asked.set()


@ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=3)
class LearnerActor(_Reader):
    """`work` trains the runs of a pack, which have one hook point, to the end; the other methods answer meanwhile.

    seat   this rank's among those that train the pack together
    """

    def __init__(self, spec: SweepSpec, pack: list[RunSpec], name: str, shards: dict[int, object], seat: Seat):
        super().__init__(spec, name, shards, pack[0].reads)
        self.pack, self.mesh, self.server = pack, Mesh(seat), None
        self.finished: dict[str, int] = {}

    def open_place(self) -> str:
        """Where the ranks meet; asked of the leading one."""
        self.server, place = meeting.open_place(self.mesh.seat.world)
        return place

    def work(self, place: str | None) -> Status:
        """Train the pack. A stop on request returns early, after a checkpoint."""
        keep_freed_memory()
        store = open_store(self.spec.job.store)
        if place is not None:
            meeting.own_address()
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self.mesh.open(self.server or meeting.find_place(place, self.mesh.seat.world), device)
        try:
            self._leave_out_finished(store)
            if self.pack:
                self._train(store)
        finally:
            self.source.leave()
        self.mesh.close()
        return self.latest

    def _leave_out_finished(self, store: Store) -> None:
        """Not again what a predecessor of this process has finished, and perhaps not cleared up; all ranks leave out
        what the leading one does."""
        todo = unfinished(store, self.spec.job.name, self.pack)
        done = [run for run in self.pack if self.mesh.leaders(run not in todo)]
        for run in done if self.mesh.leads else ():
            clear_training_state(store, layout.run(self.spec.job.name, run.name))
        self.finished = {run.name: self.spec.job.train.steps for run in done}
        self.pack, self.latest = [run for run in self.pack if run not in done], Status(steps=self.finished)

    def _train(self, store: Store) -> None:
        spec = self.spec
        readers, directory = self._readers(store), wandb_directory(store, spec.job.name)
        loop = make_loop(spec, self.pack, store, readers, directory, self.stop_asked.is_set, self._note, self.mesh)
        try:
            loop.run()
        except Interrupted:  # the supervisor asked, and knows
            self._note(loop)

    def _readers(self, store: Store) -> dict[str, Rows]:
        stored = dataset_readers(self.spec)
        if stored:
            return {name: stored[name] for name in self.reads}
        self.source.join(self._first_row(store) // self.spec.order.segment_rows)
        return {name: RowReader(self.source, self.spec.order, name) for name in self.reads}

    def _first_row(self, store: Store) -> int:
        """Where the run that is furthest behind goes on."""
        name, batch = self.spec.job.name, self.spec.job.train.batch_size
        logs = (CheckpointLog(store, f"{layout.run(name, run.name)}/checkpoints") for run in self.pack)
        return min(max(log.steps(), default=0) for log in logs) * batch

    def _note(self, loop: PackLoop) -> None:
        status = loop_status(loop)
        self.latest = replace(status, steps=self.finished | status.steps)


@ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=3)
class KeeperActor(_Reader):
    """`work` writes one hook point's rows as a dataset; a successor goes on with the first file that is missing."""

    def __init__(self, spec: SweepSpec, keeping: Keeping, hook_point: str, name: str, shards: dict[int, object]):
        super().__init__(spec, name, shards, (hook_point,))
        self.keeping, self.hook_point = keeping, hook_point

    def work(self) -> Status:
        """Write the dataset. A stop on request returns early; whole files stay."""
        keep_freed_memory()
        k, segment_rows = self.keeping, self.spec.order.segment_rows
        writer = open_writer(self.spec, k.uri, self.hook_point, k.first_row, k.rows)
        try:
            self.source.join(writer.next_row // segment_rows)
            while writer.next_row < writer.end_row and not self.stop_asked.is_set():
                u = writer.next_row // segment_rows
                pump(self.source, segment_rows, writer, self.hook_point, before=u + 1)
                self.latest = Status(written=writer.next_row - k.first_row)
        finally:
            self.source.leave()
        if writer.next_row == writer.end_row:
            writer.finish()
        return self.latest
