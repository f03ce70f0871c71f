"""One run of a sweep while it trains: its learner, checkpoints, curve, tracker, and its result."""

import contextlib
import json
import math
import time
from collections import deque

import xxhash
from torch import Tensor

from monosem.config.job import TrainConfig
from monosem.errors import Diverged, StoreError
from monosem.evals.evaluate import Evaluator
from monosem.learn.feed import Batch, told
from monosem.learn.learner import Learner
from monosem.learn.shares import Share, assembled
from monosem.memory import return_freed_memory
from monosem.sae.model import Sae
from monosem.store import layout
from monosem.store.checkpoints import Checkpoint, CheckpointLog
from monosem.store.dictionary import write_dictionary
from monosem.store.plain import pack_json
from monosem.store.store import Store
from monosem.track.tracker import Tracker

DIGESTS_BEHIND = 3
"""Batches whose digests a thread may still be at: to wait for each would make it as long as the step."""


def chained(before: str, digest: str) -> str:
    """The digest of all batches up to and with the one of `digest`: equal only for equal rows in equal order."""
    return xxhash.xxh3_128((before + digest).encode()).hexdigest()


def _ranged(checkpoint: Checkpoint, d_sae: int) -> list[Share]:
    """A checkpoint's shares; one that was written whole has all features."""
    return [(lo, hi or d_sae, tensors) for lo, hi, tensors in checkpoint.shares]


def clear_training_state(store: Store, prefix: str) -> None:
    """Remove what a run that is finished had for its training alone. What is gone already is fine: a process may be
    killed after monosem.json and before the end of this, and another one comes to it."""
    there = store.list(prefix)
    if "checkpoints" in there:
        CheckpointLog(store, f"{prefix}/checkpoints").clear()
    for name in store.list(f"{prefix}/curve") if "curve" in there else ():
        store.delete(f"{prefix}/curve/{name}")
    if layout.FAILED in there:
        store.delete(f"{prefix}/{layout.FAILED}")


def _figures(record: dict) -> dict[str, float]:
    return {key: value for key, value in record.items() if isinstance(value, int | float)}


class Run:
    """Ties a learner to its place in the store.

    reads    the hook point of its rows, and for a transcoder that of its targets
    prefix   where the run lives in the store
    record   what is known of it before training: names, config, lineage (goes into monosem.json)
    """

    def __init__(
        self,
        name: str,
        reads: tuple[str, ...],
        learner: Learner,
        store: Store,
        prefix: str,
        record: dict,
        tracker: Tracker,
    ):
        self.name, self.reads = name, reads
        self.learner, self.store, self.prefix = learner, store, prefix
        self.record, self.tracker = record, tracker
        self.train: TrainConfig = learner.train
        self.checkpoints = CheckpointLog(store, f"{prefix}/checkpoints")
        self.pending: list[dict] = []  # curve points since the last checkpoint
        self.last_point: dict = {}
        self.error: str | None = None
        self.started: float | None = None  # when this attempt's first step began
        self.started_at = 0
        self.committed_at = -1
        self.ended = 0.0  # when the last step so far did
        # Of this attempt: in its own steps; of its pack: waiting for rows, and from the first rows to the last step.
        self.step_s = self.wait_s = self.train_s = 0.0
        self.topologies: list[int] = []  # see `_topologies`
        self.digest_so_far, self.digested = "", deque()  # see `rows_digest`

    @property
    def step(self) -> int:
        return self.learner.steps_done

    @property
    def hook_point(self) -> str:
        return self.reads[0]

    @property
    def target(self) -> str | None:
        return self.reads[1] if len(self.reads) > 1 else None

    def restore(self) -> bool:
        """Continue from the last checkpoint; False if there is none."""
        learner = self.learner
        checkpoint = self.checkpoints.last((learner.first, learner.end), alone=learner.mesh.seat.world == 1)
        if self.leads:
            self._drop_curve_after(checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return False
        shares = _ranged(checkpoint, learner.config.d_sae)
        learner.load_state(assembled(shares, learner.first, learner.end), checkpoint.step)
        self.topologies = checkpoint.meta.get("feature_shards", [])
        self.started_at = self.committed_at = checkpoint.step
        self.digest_so_far = checkpoint.meta["rows_digest"]
        return True

    def train_step(self, batch: Batch) -> None:
        """One step on the rows of each hook point it reads."""
        began = time.monotonic()
        self.started = self.started or began
        logged = (self.step + 1) % self.train.log_every == 0 or self.step + 1 == self.train.steps
        metrics = self.learner.step(*batch.on_device(), masked=batch.masked, figures=logged)
        self.ended = time.monotonic()
        self.step_s += self.ended - began
        self.digested.append(batch.digested)
        self._chain(DIGESTS_BEHIND)
        if logged:
            self._log({name: float(value) for name, value in metrics.items()})

    def resample(self, *rows: Tensor) -> None:
        reborn = self.learner.resample(*rows)
        if not self.leads:
            return
        self.tracker.log({"resampled": reborn}, self.step)
        self.pending.append({"step": self.step, "resampled": reborn})

    def commit(self) -> None:
        """Make the present state the newest checkpoint. Nothing that is not finite is ever committed."""
        if self.committed_at == self.step:
            return
        return_freed_memory()
        learner, mesh = self.learner, self.learner.mesh
        learner.check_finite()
        self._put_curve()
        lo, hi = learner.held()
        shares = mesh.gather_text(json.dumps(self.checkpoints.put(learner.state(), (lo, hi)) if lo < hi else None))
        if self.leads:
            meta = {"rows_digest": self.rows_digest, "feature_shards": self._topologies()}
            self.checkpoints.record(self.step, [s for s in map(json.loads, shares) if s], meta)
        self.committed_at = self.step
        return_freed_memory()

    def finish(self, sae: Sae, evaluator: Evaluator) -> dict:
        """Evaluate the dictionary, write it, and let the checkpoints go. Returns the manifest."""
        self._put_curve()
        self.store.put(f"{self.prefix}/{layout.METRICS}", self._whole_curve())
        evaluation = evaluator.measure(sae)
        record = self.record | {
            "step": self.step,
            "rows": self.step * self.train.batch_size,
            "rows_digest": self.rows_digest,
            "masked_rows": self.learner.masked_rows,
            "feature_shards": self._topologies(),
            "metrics": evaluation.metrics,
            "timing": {
                "rows_per_s": round(self.rows_per_s(), 1),
                "step_s": round(self.step_s, 2),
                "wait_s": round(self.wait_s, 2),
                "train_s": round(self.train_s, 2),
            },
        }
        metadata = {
            "model_name": self.record["host"]["model_name"],
            "hook_name": self.record["host"]["alias"],
            "context_size": self.record["corpus"]["context_length"],
            "dataset_path": self.record["corpus"]["source"],
        }
        if self.target:
            metadata["hook_name_out"] = self.record["host"]["target_alias"]
        return_freed_memory()
        manifest = write_dictionary(self.store, self.prefix, sae, evaluation.density_F, metadata, record)
        self._track(evaluation.metrics)
        clear_training_state(self.store, self.prefix)
        return_freed_memory()
        return manifest

    def _track(self, metrics: dict) -> None:
        """The headline figures as the tracker's summary, and as a table of the run and of its domains."""
        figures = _figures(metrics)
        self.tracker.table("figures", ["figure", "value"], [[name, float(value)] for name, value in figures.items()])
        domains = [[name, *map(float, (d["rows"], d["l0"], d["fvu"]))] for name, d in metrics["domains"].items()
                   if d["fvu"] is not None]  # fmt: skip
        if domains:
            self.tracker.table("domains", ["domain", "rows", "l0", "fvu"], domains)
        self.tracker.finish(figures | self._shuffle_figures())

    def _shuffle_figures(self) -> dict[str, float]:
        return {f"shuffle/{key}": value for key, value in _figures(self.record["shuffle"] or {}).items()}

    @property
    def rows_digest(self) -> str:
        """Of all rows so far, in order: what was seen, once each."""
        self._chain(0)
        return self.digest_so_far

    def _chain(self, left: int) -> None:
        """Add to the digest the batches but for the last few, which a thread may still be at."""
        while len(self.digested) > left:
            for digest in told(self.digested.popleft()):
                self.digest_so_far = chained(self.digest_so_far, digest)

    @property
    def leads(self) -> bool:
        """Whether this rank writes to the store what belongs to the whole run."""
        return self.learner.mesh.leads

    def _topologies(self) -> list[int]:
        """Into how many parts the features were cut, one time after the other: bits depend on it."""
        now = self.learner.mesh.seat.parts
        return self.topologies if self.topologies[-1:] == [now] else [*self.topologies, now]

    def fail(self, error: BaseException) -> None:
        """Note why the run ended. Its checkpoints stay: the next attempt starts from them."""
        self.error = f"{type(error).__name__}: {error}"
        if not self.leads:
            return
        with contextlib.suppress(StoreError):  # the store may be what failed; the caller reports self.error
            self.store.put(f"{self.prefix}/{layout.FAILED}", pack_json({"error": self.error, "step": self.step}))
        self.tracker.finish({}, failed=True)

    def rows_per_s(self) -> float:
        """Rows per second from the first to the last step of this attempt; 0 if it found nothing left to train."""
        if self.started is None:
            return 0.0
        return (self.step - self.started_at) * self.train.batch_size / (self.ended - self.started)

    def _log(self, metrics: dict[str, float]) -> None:
        if not math.isfinite(metrics["loss"]):
            raise Diverged(f"the loss is {metrics['loss']} at step {self.step}; try a lower train.lr")
        dead_fraction = self.learner.dead_fraction(min(self.train.resample_window, self.step))  # at first: never active
        if not self.leads:
            return
        point = {
            "step": self.step,
            "rows": self.step * self.train.batch_size,
            **metrics,
            "dead_fraction": dead_fraction,
            "masked_rows": self.learner.masked_rows,
        }
        self.pending.append(point)
        self.last_point = point
        self.tracker.log({k: v for k, v in point.items() if k != "step"}, self.step)

    def _put_curve(self) -> None:
        """Points since the last checkpoint, in an object named by the step they reach to."""
        if not self.pending:
            return
        lines = "".join(json.dumps(point) + "\n" for point in self.pending)
        self.store.put(f"{self.prefix}/curve/{self.step:012d}.jsonl", lines.encode())
        self.pending = []

    def _drop_curve_after(self, step: int) -> None:
        """Points that a killed attempt wrote beyond its last checkpoint will be written again."""
        for name in self.store.list(f"{self.prefix}/curve"):
            if int(name.split(".")[0]) > step:
                self.store.delete(f"{self.prefix}/curve/{name}")

    def _whole_curve(self) -> bytes:
        names = self.store.list(f"{self.prefix}/curve")
        return b"".join(self.store.get(f"{self.prefix}/curve/{name}") for name in names)
