"""Who does the work of a sweep: the face of an executor, and the one that needs no Ray."""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from monosem.config.job import SweepJob
from monosem.dataset.rows import DatasetRows
from monosem.dataset.writer import DatasetWriter
from monosem.errors import Interrupted
from monosem.learn.loop import PackLoop
from monosem.memory import keep_freed_memory
from monosem.stages import canary
from monosem.stages.budget import (
    Gpu,
    Need,
    Shapes,
    check_device,
    check_memory,
    device_bytes,
    groups_at_a_time,
    memory_plan,
)
from monosem.stages.features import TaskRunner, inline_tasks
from monosem.stages.keep import Tee, open_writer
from monosem.stages.learning import make_harvester, make_loop
from monosem.stages.replay import find_dataset
from monosem.stages.signals import stop_on_signal
from monosem.stages.spec import RunSpec, SweepSpec, check_one_process, pack_runs
from monosem.store import layout
from monosem.store.plain import sha256
from monosem.store.store import Store, open_store
from monosem.stream.reader import LocalSource, RowReader, Rows


@dataclass
class Status:
    """What an executor tells while it works: steps done and errors by run, the share of time spent waiting for rows,
    rows written; of a rank the seconds that its last steps took without waiting for the other ranks, on average."""

    steps: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    wait_share: float = 0.0
    step_s: float = 0.0
    note: str = ""
    written: int = 0


@dataclass(frozen=True)
class Keeping:
    """Rows [first_row, first_row + rows) of every hook point, to be kept as datasets below `uri`."""

    uri: str
    first_row: int
    rows: int


Report = Callable[[Status], None]


class Executor(Protocol):
    """Both raise Interrupted on SIGINT or SIGTERM, after checkpoints and whole files.

    local     its processes are on this machine
    one_rank  it trains on one rank, whatever `learner.replicas` says
    waves     learners may wait for others to end; `groups` is how many this machine's memory takes at a time
    """

    local: bool
    one_rank: bool
    waves: bool
    groups: int | None

    def plan(self, shapes: Shapes, runs: tuple[RunSpec, ...], keeps: bool) -> list[Need]:
        """The memory that it will take, process by process."""
        ...

    def execute(self, spec: SweepSpec, runs: list[RunSpec], report: Report) -> Status:
        """Train `runs` to the end, and keep the rows if the job has a tee."""
        ...

    def harvest(self, spec: SweepSpec, keeping: Keeping, report: Report) -> Status:
        """Keep the rows; train nothing."""
        ...

    def feature_tasks(self, job: SweepJob) -> AbstractContextManager[TaskRunner]:
        """Who does the tasks of the feature pass."""
        ...


class MemoryCheck:
    """What `prepare` asks before anything is built: refuses a plan that does not fit, and remembers it as a line."""

    def __init__(self, executor: Executor, trains: bool):
        self.executor, self.trains = executor, trains
        self.line = ""

    def __call__(self, shapes: Shapes, runs: tuple[RunSpec, ...]) -> None:
        if not self.executor.local:
            return  # the machines are others; the cluster's room is checked when it has been reached
        keeps = not self.trains or shapes.job.stream.tee is not None
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        needs = self.executor.plan(shapes, runs if self.trains else (), keeps)
        self.line = check_memory(needs, have, self.executor.waves)
        if self.executor.waves:
            self.executor.groups = groups_at_a_time(needs, have)
        gpu = gpu_here()
        if gpu and self.trains:
            packs = [runs] if self.executor.one_rank else pack_runs(runs, shapes.job.learner.pack_parameters)
            check_device(device_bytes(shapes, packs, shapes.job.stream.from_ is None), gpu)


def gpu_here() -> Gpu | None:
    """The GPU that learners of this machine will use, if there is one."""
    if not torch.cuda.is_available():
        return None
    return Gpu(torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0])


def tee_of(spec: SweepSpec) -> Keeping | None:
    """What the job's tee keeps: all rows that anything in the sweep reads."""
    uri = spec.job.stream.tee
    return Keeping(uri, 0, spec.last_row) if uri else None


class InlineExecutor:
    """All runs in this process, one after the other on every batch."""

    local = one_rank = True
    waves = False
    feature_tasks = staticmethod(inline_tasks)

    def plan(self, shapes: Shapes, runs: tuple[RunSpec, ...], keeps: bool) -> list[Need]:
        check_one_process(shapes.job.learner)
        return memory_plan(shapes, [runs] if runs else [], inline=True, keeps=keeps)

    def execute(self, spec: SweepSpec, runs: list[RunSpec], report: Report) -> Status:
        keep_freed_memory()
        store = open_store(spec.job.store)
        keeping = tee_of(spec)
        writers = open_writers(spec, keeping) if keeping else {}
        live = None
        if not spec.job.stream.from_:  # what is kept leaves a GPU anyway
            live = live_source(spec, store, canary_place(spec, None), on_device=not keeping)
        tee = Tee(live, spec.order.segment_rows, writers) if keeping else None
        readers = dataset_readers(spec) or {n: RowReader(tee or live, spec.order, n) for n in spec.hook_points}
        directory = wandb_directory(store, spec.job.name)
        with stop_on_signal() as should_stop:
            loop = make_loop(
                spec, runs, store, readers, directory, should_stop, lambda loop: report(loop_status(loop))
            )
            loop.run()
            if tee:
                tee.finish()
        return loop_status(loop)

    def harvest(self, spec: SweepSpec, keeping: Keeping, report: Report) -> Status:
        keep_freed_memory()
        writers = open_writers(spec, keeping)
        live = live_source(spec, open_store(spec.job.store), canary_place(spec, keeping))
        tee = Tee(live, spec.order.segment_rows, writers)
        with stop_on_signal() as should_stop:

            def progress(row: int) -> None:
                report(Status(written=row - keeping.first_row))
                if should_stop():
                    raise Interrupted("stopped; the same command goes on with the next file")

            tee.finish(progress)
        return Status(written=keeping.rows)


def open_writers(spec: SweepSpec, keeping: Keeping) -> dict[str, DatasetWriter]:
    """A writer per hook point. InputError if another dataset is in the place of one."""
    return {n: open_writer(spec, keeping.uri, n, keeping.first_row, keeping.rows) for n in spec.hook_points}


def canary_place(spec: SweepSpec, keeping: Keeping | None) -> tuple[Store, str]:
    """Where the digest of the canary is kept: beside the sweep, or beside the datasets of a harvest."""
    if keeping is None:
        return open_store(spec.job.store), layout.canary(spec.job.name)
    # A harvest of other hook points may go to the same place, and its canary sings of those.
    return open_store(keeping.uri), f"canary-{sha256(' '.join(spec.hook_points).encode())[:12]}.json"


def live_source(spec: SweepSpec, store: Store, place: tuple[Store, str], on_device: bool = False) -> LocalSource:
    """The stream made in this process, once the canary has shown that it makes the same bits as ever.

    on_device   the stream of a host on a GPU stays there, where learners want it
    """
    harvester = make_harvester(spec, store)
    canary.check(*place, canary.sing(harvester))
    device = harvester.device if on_device and harvester.device != "cpu" else None
    return LocalSource(harvester, max(spec.job.train.init_rows, spec.job.train.batch_size), device)


def dataset_readers(spec: SweepSpec) -> Mapping[str, Rows] | None:
    """Rows of the datasets of `stream.from`; None if the job streams."""
    uri = spec.job.stream.from_
    return {name: DatasetRows(find_dataset(uri, name)) for name in spec.hook_points} if uri else None


def loop_status(loop: PackLoop) -> Status:
    first = loop.runs[0]
    point = first.last_point
    note = f"mse {point['mse']:.4f} L0 {point['l0']:.0f} ({first.name})" if point else ""
    return Status(
        steps={r.name: r.step for r in loop.runs},
        errors={r.name: r.error for r in loop.runs if r.error},
        wait_share=loop.wait_share(),
        step_s=loop.mesh.pace.mean(),
        note=note,
    )


def wandb_directory(store: Store, sweep: str) -> str:
    """W&B's files beside the sweep if the store is a directory, else in the system's temporary folder."""
    if "://" in store.url:
        return str(Path(tempfile.gettempdir()) / "monosem-wandb" / sweep)
    return str(Path(store.url) / layout.sweep(sweep))
