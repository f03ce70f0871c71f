"""What memory a sweep is going to need, from its config: printed before it starts, and checked against the machine.

The formulas are upper bounds of what was measured; the bases are what processes weigh with their libraries
loaded (PSS on Linux, torch 2.13, Ray 2.60). Shape letters: rows of a segment K*r, generations G, width D, d_sae F.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from monosem.config.job import SweepJob
from monosem.errors import InputError
from monosem.evals.evaluate import batch_contexts
from monosem.evals.sparsity import CHUNK_ELEMENTS
from monosem.host.model import HostModel
from monosem.rows.order import StreamOrder
from monosem.stages.spec import RunSpec, SweepSpec
from monosem.stream.fill import TOGETHER

MIB, GIB = 2**20, 2**30
BASE = {"inline": 520 * MIB, "driver": 480 * MIB, "actor": 330 * MIB, "ray": 470 * MIB}
"""Libraries loaded and nothing done: the one process of --inline, the driver, an actor, Ray's own processes."""
LEARNER_KNOBS = "sae.expansion_factor, train.batch_size, learner.slots"
FLOAT = 4
WORK = {"relu": 3, "topk": 5, "batch_topk": 7, "matryoshka": 8, "jumprelu": 7, "gated": 7}
"""Tensors of [rows of a slot, d_sae] that a step of each variant holds at a time."""
LEAST_STORE = 96 * MIB
"""Ray takes no object store below 75 MiB."""


@dataclass(frozen=True)
class Need:
    """`count` processes of `bytes` each; `knobs` are the fields of the job file that make them larger or smaller."""

    name: str
    count: int
    bytes: int
    knobs: str

    @property
    def total(self) -> int:
        return self.count * self.bytes


@dataclass(frozen=True)
class Shapes:
    """What the formulas need to know of a sweep before its corpus is built."""

    job: SweepJob
    order: StreamOrder
    widths: dict[str, int]
    host_bytes: int
    vocab_size: int

    @property
    def segment_bytes(self) -> int:
        """One segment at all hook points."""
        return self.order.segment_rows * sum(self.widths.values()) * FLOAT

    @property
    def ahead(self) -> int:
        """`stream.ahead_rows` in whole segments, at least one."""
        return max(1, self.job.stream.ahead_rows // self.order.segment_rows)

    @property
    def item_bytes(self) -> int:
        return self.order.contexts_per_item * self.order.rows_per_context * sum(self.widths.values()) * FLOAT


def shapes_of(spec: SweepSpec) -> Shapes:
    """The shapes of a planned sweep; what only the learners need is left at zero."""
    return Shapes(spec.job, spec.order, spec.widths, 0, 0)


def host_bytes(model: HostModel) -> int:
    """Memory of a host's weights."""
    module = getattr(model, "model", model)
    return sum(p.numel() * p.element_size() for p in module.parameters())


def forward_bytes(s: Shapes) -> int:
    """Workspace of one forward pass: some tensors of the MLP's size over all tokens of an item."""
    tokens = s.order.contexts_per_item * s.job.corpus.context_length
    return 6 * tokens * max(s.widths.values()) * FLOAT + 2 * s.item_bytes


def filling_bytes(s: Shapes) -> int:
    """The segments under way in one process, G, with the rest of their blocks at both ends, and their places."""
    return (s.order.generations + 2 * TOGETHER - 1) * s.segment_bytes + 8 * s.order.generations * s.order.segment_rows


def waiting_bytes(s: Shapes) -> int:
    """Rows that wait for their segment in a shard, K*r*(G+1)/2, and the segments being mixed."""
    return s.segment_bytes * (s.order.generations + 1) // 2 + 3 * s.segment_bytes


def shared_bytes(s: Shapes) -> int:
    """Segments that one process keeps until every hook point has read them."""
    rows = max(s.job.train.init_rows, s.job.train.batch_size) if len(s.widths) > 1 else 0
    return rows * sum(s.widths.values()) * FLOAT + s.segment_bytes


def shard_bytes(s: Shapes) -> int:
    """A shard's share of what waits, in two windows, and items on their way."""
    return 2 * waiting_bytes(s) // s.job.stream.shards + 2 * s.item_bytes


def learner_bytes(s: Shapes, runs: Sequence[RunSpec], pack_widths: int) -> int:
    """A learner's pack: all its parameters, the work of one run at a time, rows held, and the evaluation."""
    job = s.job
    slot = job.train.batch_size // job.learner.slots
    state = sum(4 * FLOAT * run.sae.n_parameters for run in runs)
    step = max(WORK[run.sae.variant] * FLOAT * slot * run.sae.d_sae for run in runs)
    rows = job.train.resample_rows if job.train.resample_steps else 0
    held = (rows + job.train.init_rows + 4 * job.train.batch_size) * pack_widths * FLOAT
    held += 2 * s.order.segment_rows * pack_widths * FLOAT
    return state + max(step, evaluation_bytes(s, runs)) + held + s.host_bytes


def evaluation_bytes(s: Shapes, runs: Sequence[RunSpec]) -> int:
    """Splicing: logits of a batch of contexts and their softmax; a chunk of feature activations and its decoding."""
    length = s.job.corpus.context_length
    tokens = batch_contexts(length, s.vocab_size) * length
    features = min(CHUNK_ELEMENTS, tokens * max(run.sae.d_sae for run in runs))
    return FLOAT * (4 * tokens * s.vocab_size + 3 * features) + max(FLOAT * run.sae.n_parameters for run in runs)


def object_store_bytes(s: Shapes) -> int:
    """What the stream keeps in Ray's object store: parts of two windows, and items on their way."""
    items = 4 * s.job.stream.workers * s.job.stream.shards * s.item_bytes
    return 2 * (s.ahead + 3) * s.segment_bytes + items + LEAST_STORE


def memory_plan(s: Shapes, packs: Sequence[Sequence[RunSpec]], inline: bool, keeps: bool) -> list[Need]:
    """The processes of a sweep and the memory of each. `keeps`: rows are written to a dataset on the side."""
    stream, total_width = s.job.stream, sum(s.widths.values())
    file = 3 * s.job.dataset.shard_rows * FLOAT if keeps else 0
    live = stream.from_ is None
    if inline:
        runs = [run for pack in packs for run in pack]
        need = BASE["inline"] + (learner_bytes(s, runs, total_width) if runs else s.host_bytes)
        need += (filling_bytes(s) + forward_bytes(s) + shared_bytes(s) if live else 0) + file * total_width
        knobs = f"{LEARNER_KNOBS}, stream.shuffle_rows" if runs else "stream.shuffle_rows"
        return [Need("this process", 1, need, knobs)]
    needs = [Need("driver", 1, BASE["driver"], ""), Need("Ray's own processes", 1, BASE["ray"], "")]
    if live:
        needs += [
            Need("object store", 1, object_store_bytes(s), "stream.ahead_rows, stream.shuffle_rows"),
            Need("model worker", stream.workers, BASE["actor"] + s.host_bytes + forward_bytes(s), "stream.workers"),
            Need("buffer shard", stream.shards, BASE["actor"] + shard_bytes(s), "stream.shuffle_rows"),
        ]
    for pack in packs:
        width = sum(s.widths[name] for name in pack[0].reads)
        name = f"learner of {', '.join(run.name for run in pack)}"
        needs.append(Need(name, 1, BASE["actor"] + learner_bytes(s, pack, width), LEARNER_KNOBS))
    if keeps:
        keeper = "dataset.shard_rows"
        needs += [Need(f"keeper of {name}", 1, BASE["actor"] + file * w, keeper) for name, w in s.widths.items()]
    return needs


def check_memory(needs: Sequence[Need], have: int) -> str:
    """The plan as one line; InputError with the numbers if the machine has less than it asks for."""
    total = sum(need.total for need in needs)
    parts = [f"{f'{n.count} x ' if n.count > 1 else ''}{n.name} {n.total / GIB:.2f}" for n in needs]
    if total > have:
        largest = max(needs, key=lambda n: n.total)
        raise InputError(
            f"{largest.knobs or 'job'}: the sweep needs {total / GIB:,.1f} GiB of memory, most for {largest.name} "
            f"({largest.count:,} x {largest.bytes / GIB:,.2f}); this machine has {have / GIB:,.1f}"
        )
    return f"memory plan, GiB: {', '.join(parts)}; {total / GIB:.1f} of {have / GIB:.1f}"
