"""Who does the training of a sweep: the face of an executor, and the one that needs no Ray."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from monosem.learn.loop import PackLoop
from monosem.memory import keep_freed_memory
from monosem.stages.learning import make_harvester, make_loop
from monosem.stages.signals import stop_on_signal
from monosem.stages.spec import RunSpec, SweepSpec
from monosem.store import layout
from monosem.store.store import Store, open_store
from monosem.stream.reader import LocalSource, RowReader


@dataclass
class Status:
    """What an executor tells while it works: steps done and wait share by run, and errors by run."""

    steps: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    wait_share: float = 0.0
    note: str = ""


class Executor(Protocol):
    """`execute` trains `runs` to the end and raises Interrupted, after checkpoints, on SIGINT or SIGTERM."""

    local: bool

    def execute(self, spec: SweepSpec, runs: list[RunSpec], report: Callable[[Status], None]) -> Status: ...


class InlineExecutor:
    """All runs in this process, one after the other on every batch."""

    local = True

    def execute(self, spec: SweepSpec, runs: list[RunSpec], report: Callable[[Status], None]) -> Status:
        keep_freed_memory()
        store = open_store(spec.job.store)
        reader = RowReader(LocalSource(make_harvester(spec, store)), spec.order)
        directory = wandb_directory(store, spec.job.name)
        with stop_on_signal() as should_stop:
            loop = make_loop(spec, runs, store, reader, directory, should_stop, lambda loop: report(loop_status(loop)))
            loop.run()
        return loop_status(loop)


def loop_status(loop: PackLoop) -> Status:
    first = loop.runs[0]
    point = first.last_point
    note = f"mse {point['mse']:.4f} L0 {point['l0']:.0f} ({first.name})" if point else ""
    return Status(
        steps={r.name: r.step for r in loop.runs},
        errors={r.name: r.error for r in loop.runs if r.error},
        wait_share=loop.wait_share(),
        note=note,
    )


def wandb_directory(store: Store, sweep: str) -> str:
    """W&B's files beside the sweep if the store is a directory, else in the system's temporary folder."""
    if "://" in store.url:
        return str(Path(tempfile.gettempdir()) / "monosem-wandb" / sweep)
    return str(Path(store.url) / layout.sweep(sweep))
