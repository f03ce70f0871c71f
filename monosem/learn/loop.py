"""The training loop of a pack: several runs of a sweep in one process, each batch read once for all of a hook point
(of two, for transcoders).

Runs are isolated: what one of them raises ends that run and no other. All of them may stand at
different steps after a restart; the ones furthest behind go first until they have caught up.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial

from monosem.config.job import TrainConfig
from monosem.errors import Diverged, Interrupted
from monosem.evals.evaluate import Evaluator
from monosem.learn.feed import Feed
from monosem.learn.recent import RecentRows, before
from monosem.learn.run import Run
from monosem.sae.model import Sae
from monosem.stream.reader import Rows
from monosem.threads import torch_threads


class PackLoop:
    def __init__(
        self,
        runs: list[Run],
        train: TrainConfig,
        readers: Mapping[str, Rows],
        make_evaluator: Callable[[str, str | None], Evaluator],
        threads: int,
        should_stop: Callable[[], bool] = lambda: False,
        report: Callable[["PackLoop"], None] = lambda loop: None,
    ):
        self.runs, self.train = runs, train
        self.feed = Feed(readers, train.batch_size, train.steps, runs[0].learner.device)
        self.make_evaluator, self.threads = make_evaluator, threads
        self.should_stop, self.report = should_stop, report
        self.recent = {
            name: RecentRows(partial(self.feed.rows, name), train.resample_steps, train.batch_size, train.resample_rows)
            for name in readers
        }
        self.mesh = runs[0].learner.mesh
        self.manifests: dict[str, dict] = {}
        self.started = time.monotonic()

    def run(self) -> None:
        """Train all runs to the end; raises Interrupted (after a checkpoint) if asked to stop."""
        with torch_threads(self.threads), closing(self.feed):
            while active := self._active():
                if self.mesh.leaders(self.should_stop()):
                    for run in self._active():
                        self._guard(run, run.commit)
                    raise Interrupted(f"stopped at step {min(r.step for r in active)}")
                self._one_step(active)
                self.report(self)
            self._finish()
            self.report(self)

    def wait_share(self) -> float:
        """Share of the time so far that was spent waiting for rows."""
        return self.feed.wait_s / max(1e-9, time.monotonic() - self.started)

    def _active(self) -> list[Run]:
        return [r for r in self.runs if r.error is None and r.step < self.train.steps]

    def _one_step(self, active: list[Run]) -> None:
        n = min(r.step for r in active)
        behind = [r for r in active if r.step == n]
        for reads in dict.fromkeys(r.reads for r in behind):
            self._one_batch(n, reads, [r for r in behind if r.reads == reads])
        if (n + 1) % self.train.checkpoint_every == 0 and n + 1 < self.train.steps:
            for run in behind:
                if run.error is None:
                    self._guard(run, run.commit)

    def _one_batch(self, n: int, reads: tuple[str, ...], runs: list[Run]) -> None:
        """Step n of the runs that read the same hook points."""
        if n in self.train.resample_steps:
            rows = before([self.recent[name] for name in reads], n)
            for run in runs:
                self._guard(run, run.resample, *rows)
        batch = self.feed.batch(n, reads)
        for name, rows in zip(reads, batch.rows, strict=True):
            self.recent[name].add(n, rows)
        for run in runs:
            if run.error is None:
                with self.mesh.pace:
                    self._guard(run, run.train_step, batch)

    def _finish(self) -> None:
        done = [r for r in self.runs if r.error is None]
        trained = time.monotonic() - self.started
        for run in done:
            run.wait_s, run.train_s = self.feed.wait_s, trained
            self._guard(run, run.commit)  # evaluation may be interrupted; training is not done twice
        for run in done:
            if self.mesh.leaders(self.should_stop()):
                raise Interrupted("stopped after the training, before all runs were evaluated")
            if run.error is None:
                sae = run.learner.dictionary()  # all ranks together
                if self.mesh.leads:
                    self._guard(run, self._finish_one, run, sae)

    def _finish_one(self, run: Run, sae: Sae) -> None:
        self.manifests[run.name] = run.finish(sae, self.make_evaluator(run.hook_point, run.target))

    def _guard(self, run: Run, action: Callable, *args: object) -> None:
        """Do something for one run; an exception ends that run only.

        Where ranks work together, only what all of them find at the same time does: anything else ends this process,
        so that the others do not wait for it, and the supervisor starts all of them again.
        """
        try:
            action(*args)
        except Interrupted:  # by a second signal: the run did nothing wrong
            raise
        except Diverged as error:
            run.fail(error)
        except Exception as error:
            if self.mesh.seat.world > 1 and action != self._finish_one:
                raise
            run.fail(error)
