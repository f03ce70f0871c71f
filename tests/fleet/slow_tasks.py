"""Tasks of a shuffle that take their time inside a Ray worker, so that a test can kill it while it works."""

import sys
import time
from dataclasses import dataclass

from monosem.dataset.manifest import open_dataset
from monosem.dataset.passes import Costs
from monosem.dataset.pieces import Task
from monosem.dataset.shuffle import run_shuffle
from monosem.fleet.shuffle import RayTasks
from monosem.store.store import open_store

COSTS = Costs(base=0, source=0, block_rows=16, write=0, read=0, piece=1120)
MEMORY, SHARD_ROWS, SEED = 30_000, 16, 5
"""Twelve hundred rows of 28 bytes then take three passes of about eight tasks."""


@dataclass(frozen=True)
class Slow:
    task: Task
    seconds: float

    def run(self) -> None:
        time.sleep(self.seconds / 2)
        self.task.run()
        time.sleep(self.seconds / 2)


def shuffle(source: str, out: str, run, memory: int = MEMORY):
    """The shuffle of these tests, with tasks that run two at a time."""
    return run_shuffle(
        open_dataset(source), open_store(out), "", SEED, memory, 2, run, costs=COSTS, shard_rows=SHARD_ROWS
    )


def main(source: str, out: str, seconds: str) -> None:
    with RayTasks(None, 2) as ray:

        def run(tasks, done):
            ray([Slow(task, float(seconds)) for task in tasks], lambda slow: done(slow.task))

        shuffle(source, out, run)


if __name__ == "__main__":
    from tests.fleet import slow_tasks  # not as __main__, which a worker cannot import

    slow_tasks.main(*sys.argv[1:])
