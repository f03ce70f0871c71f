"""What memory a sweep is going to need, from its config: printed before it starts, and checked against the machine.

Two figures of each process: `bytes`, an upper bound of what was measured, which decides whether a job may start, and
`estimate`, what a settled run is expected to peak at (`monosem plan` shows both; `tests/bench/plan.py` measures). The
bases are what processes weigh with their libraries loaded (PSS on Linux, torch 2.13, Ray 2.60). What a dictionary takes
is in `plan/memory.py`. Shape letters: rows of a segment K*r, generations G, width D, d_sae F.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from monosem.config.job import SweepJob, TrainConfig
from monosem.errors import InputError
from monosem.evals.evaluate import batch_contexts
from monosem.evals.sparsity import CHUNK_ELEMENTS
from monosem.host.model import HostModel
from monosem.plan.cost import GroupShape
from monosem.plan.memory import DENSE_AT_FIRST, RankMemory, rank_memory
from monosem.plan.placement import cpus_of, ranks_beside
from monosem.rows.order import StreamOrder
from monosem.stages.spec import RunSpec, SweepSpec
from monosem.stream.fill import TOGETHER

MIB, GIB = 2**20, 2**30
BASE = {"inline": 520 * MIB, "driver": 560 * MIB, "actor": 330 * MIB, "worker": 400 * MIB, "learner": 460 * MIB,
        "ray": 470 * MIB}  # fmt: skip
"""Libraries loaded and nothing done: the one process of --inline, the driver, an actor, one with a host, one with
compiled kernels and what an evaluation needs, Ray's own."""
EXPECTED = {"driver": 490 * MIB, "ray": 400 * MIB}
"""Of the bases, those that leave room for what a run seldom needs: what they were found to be."""
STORE_KNOBS, SHARD_KNOBS = "stream.ahead_rows, stream.shuffle_rows", "stream.shuffle_rows"
LEARNER_KNOBS = "sae.expansion_factor, train.batch_size, learner.slots"
FLOAT = 4
SCATTERED = 1 / 8
"""Of a learner's memory, what the C library may hold beside it: freed, but too scattered to be of use again."""
LEARNER = "learner of "
"""How the names of learners' processes begin."""
DEVICE_RESERVE = 2 * 10**9
"""Of a GPU's memory, for its context, kernels and the allocator's gaps: assumed."""
LEAST_STORE = 96 * MIB
"""Ray takes no object store below 75 MiB."""


@dataclass(frozen=True)
class Need:
    """`count` processes of `bytes` each; `knobs` are the fields of the job file that make them larger or smaller.

    estimate   bytes of a process at its peak, as expected
    settled    bytes of a process most of the time, as expected
    """

    name: str
    count: int
    bytes: int
    knobs: str
    estimate: int = 0
    settled: int = 0

    @property
    def total(self) -> int:
        return self.count * self.bytes


@dataclass(frozen=True)
class Gpu:
    """free: bytes"""

    name: str
    free: int


@dataclass(frozen=True)
class Shapes:
    """What the formulas need to know of a sweep before its corpus is built.

    inner   the widest layer inside the host; 0: not known, no wider than its hook points
    """

    job: SweepJob
    order: StreamOrder
    widths: dict[str, int]
    host_bytes: int
    vocab_size: int
    inner: int = 0

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


def widest_layer(model: HostModel) -> int:
    """The widest layer of a host, which its MLP's often is; embeddings are looked up, not worked out."""
    module = getattr(model, "model", model)
    sides = {side for p in module.parameters() if p.ndim == 2 for side in p.shape}
    return max(sides - {model.vocab_size}, default=0)


def forward_bytes(s: Shapes) -> int:
    """Workspace of one forward pass: some tensors of the MLP's size over all tokens of an item."""
    tokens = s.order.contexts_per_item * s.job.corpus.context_length
    return 6 * tokens * max(s.inner, *s.widths.values()) * FLOAT + 2 * s.item_bytes


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


def shard_bytes(s: Shapes, windows: int = 2) -> int:
    """A shard's share of what waits, in each window, and items on their way. One window while nobody falls behind."""
    return windows * waiting_bytes(s) // s.job.stream.shards + 2 * s.item_bytes


def learner_bytes(
    s: Shapes, runs: Sequence[RunSpec], pack_widths: int, mesh: GroupShape = GroupShape(),  # noqa: B008
    l0: float | None = None, settled: bool = False,
) -> int:  # fmt: skip
    """A rank's pack: all its dictionaries, what the largest step, checkpoint or evaluation adds, rows held.

    What one of these frees goes back before the next (`memory.return_freed_memory`): they do not add up.

    l0       the estimate for so many active features per row; None: the bound, by dense steps of every variant
    settled  while it steps: between checkpoints, before its evaluation
    """
    train = s.job.train
    memories = [_rank_memory(s, run, mesh, l0) for run in runs]
    evaluation = evaluation_bytes(s, runs, l0 is None) // mesh.shards
    passing = max(m.step for m in memories)
    if not settled:
        median = MEDIAN * train.init_rows * pack_widths * FLOAT
        passing = max(passing, evaluation, median, *(m.checkpoint for m in memories))
    own = sum(m.held for m in memories) + passing
    rows = resample_copies(train) * train.resample_rows if train.resample_steps else 0
    held = (rows + train.init_rows + 4 * train.batch_size) * pack_widths * FLOAT
    held += 2 * s.order.segment_rows * pack_widths * FLOAT
    return int(own * (1 + SCATTERED if l0 is None else 1)) + held + s.host_bytes


MEDIAN = 7
"""How often the geometric median of some rows has as much memory as these, beside them: float64, and two of a step."""


def resample_copies(train: TrainConfig) -> int:
    """How often rows that resampling weighs are there at most: as they passed by and in one piece, and scaled."""
    return 2 + (train.input_scale != "none")


def _rank_memory(s: Shapes, run: RunSpec, mesh: GroupShape, l0: float | None, gpu: bool = False) -> RankMemory:
    t = s.job.train
    anneals = t.k_start > t.sparse_share * run.sae.d_sae
    dense = run.sae.variant in DENSE_AT_FIRST or anneals or (l0 is None and run.sae.variant != "topk")
    active = run.sae.d_sae if l0 is None else l0
    return rank_memory(run.sae, t.batch_size, mesh, t.precision, t.sparse_share, dense, active, gpu)


def device_bytes(s: Shapes, packs: Sequence[Sequence[RunSpec]], host_there: bool) -> int:
    """Of one GPU that all learners share: a bound.

    A sparse step's memory counts twice: a graph has memory of its own beside that of steps without one.
    host_there   the host and the stream are on it too
    """
    found, t = DEVICE_RESERVE, s.job.train
    for pack in packs:
        dense = [_rank_memory(s, run, GroupShape(), None, gpu=True) for run in pack]
        settled = (t.batch_size, GroupShape(), t.precision, t.sparse_share, False, 1, True)
        sparse = [rank_memory(run.sae, *settled) for run in pack]
        width = sum(s.widths[name] for name in dict.fromkeys(name for run in pack for name in run.reads))
        found += sum(m.held for m in dense) + 6 * t.batch_size * width * FLOAT
        found += max((max(a.step, 2 * b.step) for a, b in zip(dense, sparse, strict=True)), default=0)
    if host_there:
        rows = resample_copies(t) * t.resample_rows if t.resample_steps else 0
        found += filling_bytes(s) + shared_bytes(s) + forward_bytes(s) + s.host_bytes
        found += (rows + t.init_rows) * sum(s.widths.values()) * FLOAT
    return found


def check_device(need: int, gpu: Gpu) -> None:
    """InputError with the numbers if the GPU has not as much memory free."""
    if need > gpu.free:
        raise InputError(
            f"{LEARNER_KNOBS}, stream.shuffle_rows: the sweep needs up to {need / GIB:,.1f} GiB of GPU memory; "
            f"{gpu.name} has {gpu.free / GIB:,.1f} free"
        )


def evaluation_bytes(s: Shapes, runs: Sequence[RunSpec], most: bool) -> int:
    """Splicing: logits of a batch of contexts and their softmax; a chunk of feature activations and its decoding.

    most   of as many contexts and rows as an evaluation ever takes at a time, not of those that the job asks for
    """
    e, length = s.job.evaluate, s.job.corpus.context_length
    contexts = batch_contexts(length, s.vocab_size)
    tokens = (contexts if most else min(contexts, e.contexts)) * length
    rows = tokens if most else max(tokens, e.rows)
    features = min(CHUNK_ELEMENTS, rows * max(run.sae.d_sae for run in runs))
    return FLOAT * (4 * tokens * s.vocab_size + 3 * features) + max(FLOAT * run.sae.n_parameters for run in runs)


def object_store_bytes(s: Shapes) -> int:
    """The size of Ray's object store: what the stream keeps there, with two windows."""
    return stored_bytes(s, 2) + LEAST_STORE


def stored_bytes(s: Shapes, windows: int) -> int:
    """Parts of the windows, and items on their way."""
    items = 4 * s.job.stream.workers * s.job.stream.shards * s.item_bytes
    return windows * (s.ahead + 3) * s.segment_bytes + items


def file_bytes(job: SweepJob, keeps: bool) -> int:
    """Of a dataset's file that is being written, per unit of width."""
    return 3 * job.dataset.shard_rows * FLOAT if keeps else 0


def memory_plan(
    s: Shapes,
    packs: Sequence[Sequence[RunSpec]],
    inline: bool,
    keeps: bool,
    mesh: GroupShape = GroupShape(),  # noqa: B008  (a frozen value)
    l0: float = 32.0,
) -> list[Need]:
    """The processes of a sweep and the memory of each. `keeps`: rows are written to a dataset on the side."""
    stream = s.job.stream
    file = file_bytes(s.job, keeps)
    live = stream.from_ is None
    if inline:
        runs = [run for pack in packs for run in pack]
        knobs = f"{LEARNER_KNOBS}, stream.shuffle_rows" if runs else "stream.shuffle_rows"
        knobs += ", dataset.shard_rows" if keeps else ""
        return [_expected("this process", 1, inline_bytes(s, runs, file), knobs, inline_bytes(s, runs, file, l0))]
    needs = [
        _expected("driver", 1, BASE["driver"], "", EXPECTED["driver"]),
        _expected("Ray's own processes", 1, BASE["ray"], "", EXPECTED["ray"]),
    ]
    if live:
        shard = BASE["actor"] + shard_bytes(s)
        needs += [
            _expected("object store", 1, object_store_bytes(s), STORE_KNOBS, stored_bytes(s, 1)),
            _same("model worker", stream.workers, BASE["worker"] + s.host_bytes + forward_bytes(s), "stream.workers"),
            _expected("buffer shard", stream.shards, shard, SHARD_KNOBS, BASE["actor"] + shard_bytes(s, 1)),
        ]
    for pack in packs:
        width = sum(s.widths[name] for name in pack[0].reads)
        name = LEARNER + ", ".join(run.name for run in pack)
        of = [(None, False), (l0, False), (l0, True)]
        bound, estimate, settled = (BASE["learner"] + learner_bytes(s, pack, width, mesh, *which) for which in of)
        needs.append(Need(name, mesh.ranks, bound, LEARNER_KNOBS, estimate, settled))
    if keeps:
        keeper = "dataset.shard_rows"
        needs += [_same(f"keeper of {name}", 1, BASE["actor"] + file * w, keeper) for name, w in s.widths.items()]
    return needs


def inline_bytes(s: Shapes, runs: Sequence[RunSpec], file: int, l0: float | None = None) -> int:
    """The one process of --inline. `file`: bytes of a dataset's file per unit of width; `l0` as in `learner_bytes`."""
    width = sum(s.widths.values())
    need = BASE["inline"] + (learner_bytes(s, runs, width, l0=l0) if runs else s.host_bytes) + file * width
    if s.job.stream.from_ is None:
        need += filling_bytes(s) + forward_bytes(s) + shared_bytes(s)
    return need


def _same(name: str, count: int, size: int, knobs: str) -> Need:
    return _expected(name, count, size, knobs, size)


def _expected(name: str, count: int, size: int, knobs: str, estimate: int) -> Need:
    """A process that holds as much most of the time as at its peak."""
    return Need(name, count, size, knobs, estimate, estimate)


def peak_together(needs: Sequence[Need], learners: Sequence[str], checkpoints: bool) -> int:
    """Bytes of all processes, some of the learners among them, at their peak as expected.

    Learners make checkpoints and evaluations one at a time, as they are not equally fast, and end in the order of
    their size.
    checkpoints   whether there are any before the last, at which all learners are there
    """
    beside = sum(n.count * n.settled for n in needs if not n.name.startswith(LEARNER))
    there = sorted((n for n in needs if n.name in learners), key=lambda n: n.count * n.settled)
    most = settled = sum(n.count * n.settled for n in there)
    for n in there:
        most = max(most, settled + n.count * (n.estimate - n.settled))
        settled -= 0 if checkpoints else n.count * n.settled
    return beside + most


def ranks_by_cores(job: SweepJob, cpus: float, trains: bool, keepers: int) -> int:
    """How many ranks Ray's scheduler lets run beside the stream and the keepers. InputError if no group."""
    stream, live = job.stream, job.stream.from_ is None
    ranks = GroupShape.of(job.learner).ranks if trains else 0
    beside = (stream.workers if live else 0, stream.shards if live else 0, keepers)
    room = ranks_beside(cpus, *beside)
    if room < ranks:
        raise InputError(
            f"stream.workers={stream.workers}, stream.shards={stream.shards} and a learner of {ranks} "
            f"rank{'s' if ranks > 1 else ''} (learner.replicas x learner.feature_shards) need "
            f"{cpus_of(ranks, *beside):.1f} CPUs, the cluster has {cpus:.0f}; ask for fewer"
        )
    return room


def groups_at_a_time(needs: Sequence[Need], have: int) -> int:
    """How many of the learners, whichever they are, fit into `have` bytes beside everything else."""
    learners = sorted((n.total for n in needs if n.name.startswith(LEARNER)), reverse=True)
    left = have - sum(n.total for n in needs if not n.name.startswith(LEARNER))
    return sum(total <= left for total in accumulate(learners))


def check_memory(needs: Sequence[Need], have: int, in_waves: bool = False) -> str:
    """The plan as one line; InputError with the numbers if the machine has less than it asks for.

    in_waves   learners may wait for each other
    """
    groups, learners = groups_at_a_time(needs, have), [n for n in needs if n.name.startswith(LEARNER)]
    waits = sorted((n.total for n in learners), reverse=True)[max(groups, 1) :] if in_waves else []
    total = sum(need.total for need in needs) - sum(waits)
    parts = [f"{f'{n.count} x ' if n.count > 1 else ''}{n.name} {n.total / GIB:.2f}" for n in needs]
    if total > have:
        largest = max(needs, key=lambda n: n.total)
        raise InputError(
            f"{largest.knobs or 'job'}: the sweep needs {total / GIB:,.1f} GiB of memory, most for {largest.name} "
            f"({largest.count:,} x {largest.bytes / GIB:,.2f}); this machine has {have / GIB:,.1f}"
        )
    told = f", {groups} of {len(learners)} learners at a time" if waits else ""
    return f"memory plan, GiB: {', '.join(parts)}; {total / GIB:.1f} of {have / GIB:.1f}{told}"
