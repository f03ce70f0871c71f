"""`monosem plan`: what a job needs and how long it takes, on this machine or on a cluster in words. Starts nothing.

The formulas are `monosem/plan/`'s: `cost.py` of a step, `memory.py` of a rank, `placement.py` of waves, `pace.py` of
time; `devices.py` says which rates are measured and which are from datasheets.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from monosem.config.job import SweepJob
from monosem.errors import InputError
from monosem.host.model import HostModel
from monosem.host.stored import load_host, resolve_hook_points
from monosem.plan.cluster import Cluster, this_machine
from monosem.plan.cost import FLOAT, GroupShape, active_of, is_sparse, step_cost, wire_bytes
from monosem.plan.devices import DATASHEET, EFFICIENCY, Datasheet, Measured
from monosem.plan.hosts import HostShape, forward_flops, from_outline
from monosem.plan.memory import CHECKPOINT, DENSE_AT_FIRST, RankMemory, rank_memory, storage_bytes
from monosem.plan.pace import Pace, StreamPace, together, wave_pace
from monosem.plan.placement import Group, Room, suggest, waves
from monosem.stages.budget import (
    BASE,
    DEVICE_RESERVE,
    GIB,
    LEARNER,
    Need,
    Shapes,
    file_bytes,
    host_bytes,
    inline_bytes,
    learner_bytes,
    memory_plan,
    peak_together,
    ranks_by_cores,
    widest_layer,
)
from monosem.stages.prepare import check_group, check_shapes, check_target, order_of
from monosem.stages.spec import RunSpec, check_one_process, expand_runs, pack_runs, settled


@dataclass(frozen=True)
class Wishes:
    """What the command line asks. l0: active features per row where no k says it; efficiency: of datasheet peaks."""

    inline: bool = False
    l0: float = 32.0
    efficiency: float = EFFICIENCY


@dataclass(frozen=True)
class Planned:
    """A job as planning sees it: everything but rates."""

    job: SweepJob
    host: HostShape
    model: HostModel | None
    shapes: Shapes
    runs: tuple[RunSpec, ...]
    packs: list[list[RunSpec]]
    mesh: GroupShape


def outline_job(job: SweepJob, inline: bool = False, cluster: Cluster | None = None) -> Planned:
    """The job's runs, host and shapes, checked. The host is asked unless `host.outline` describes it.

    cluster   says how many replicas there are, if the job leaves that to it
    """
    host, model, target = _host(job)
    check_shapes(job, host.context_length)
    runs = expand_runs(job, host.widths, target)
    if inline:
        check_one_process(job.learner)
    elif cluster:
        job = settled(job, runs, cluster.gpus, cluster.cores)
    check_group(job, runs)
    shapes = Shapes(job, order_of(job), host.widths, host.bytes, host.vocab_size, host.inner)
    packs = [list(runs)] if inline else pack_runs(runs, job.learner.pack_parameters)
    mesh = GroupShape(slots=job.learner.slots) if inline else GroupShape.of(job.learner)
    return Planned(job, host, model, shapes, runs, packs, mesh)


RAYS_OWN = 2
"""What Ray's own processes take to start, in processes with a learner's libraries: assumed."""


def _host(job: SweepJob) -> tuple[HostShape, HostModel | None, str | None]:
    outline = job.host.outline
    if outline.width:
        missing = [n for n in ("parameters", "vocab_size", "context_length") if not getattr(outline, n)]
        if missing:
            raise InputError(f"host.outline.{missing[0]}=0: an outline with a width needs {', '.join(missing)} too")
        if job.sae.target:
            check_target(job, job.sae.target, job.host.hook_point)
        names = [*job.host.hook_point, *([job.sae.target] if job.sae.target else [])]
        return from_outline(job.host, names), None, job.sae.target
    host = load_host(job.host, weights=False)
    points = resolve_hook_points(host.model, job.host.hook_point)
    target = resolve_hook_points(host.model, [job.sae.target], "sae.target")[0] if job.sae.target else None
    if target:
        check_target(job, host.model.place(target), [host.model.place(name) for name in points])
    names = [*points, *([target] if target else [])]
    length = min(job.corpus.context_length, host.model.context_length)
    shape = HostShape(
        widths={name: host.model.width(name) for name in names},
        flops_per_token=forward_flops(host.model, names, length),
        bytes=host_bytes(host.model),
        vocab_size=host.model.vocab_size,
        context_length=host.model.context_length,
        source="counted over its forward pass",
        inner=widest_layer(host.model),
    )
    on_cpu = next(getattr(host.model, "model", host.model).parameters()).device.type == "cpu"
    return shape, host.model if on_cpu else None, target


def make_plan(planned: Planned, cluster: Cluster, rates: Datasheet | Measured, wishes: Wishes) -> dict:
    """The plan as plain values; `plan["fits"]` is False if a run does not fit as the job stands."""
    groups = {tuple(run.name for run in pack): pack for pack in planned.packs}
    keeps = planned.job.stream.tee is not None
    needs = memory_plan(planned.shapes, planned.packs, wishes.inline, keeps, planned.mesh, wishes.l0)
    room, notes = _room(planned, needs, cluster, wishes)
    made = [_group(planned, pack, planned.mesh, bool(cluster.kind), wishes) for pack in planned.packs]
    misfits = {g.runs: _suggestion(planned, groups[g.runs], room, cluster, wishes) for g in made if not room.takes([g])}
    waves_ = waves([g for g in made if g.runs not in misfits], room)
    pace_of = {run.name: _pace(planned, run, rates, cluster, wishes) for run in planned.runs}
    paces = {g.runs: together([pace_of[name] for name in g.runs]) for g in made}
    stream = _stream(planned, rates, cluster)
    cores = 0 if cluster.kind else cluster.cores
    job, rows = planned.job, planned.job.train.steps * planned.job.train.batch_size
    wave_rows = []
    for number, wave in enumerate(waves_, 1):
        crowd = rates.crowd if isinstance(rates, Measured) else 1.0
        pace = wave_pace([paces[g.runs] for g in wave], stream, job.train.batch_size, cores, wishes.inline, crowd)
        once = sum(_once_s(planned, groups[g.runs], rates) for g in wave) if cores else 0.0
        if not wishes.inline:
            once += _start_s(planned, sum(g.mesh.ranks for g in wave), number == 1, rates, cores)
        wave_rows.append(
            {"wave": number, "runs": [name for g in wave for name in g.runs], "ranks": sum(g.mesh.ranks for g in wave),
             "bytes": None if cluster.kind else _peak_bytes(planned, needs, wave),
             "train_s": rows * pace.row_s, "once_s": once, "rows_per_s": 1 / pace.row_s, "bottleneck": pace.bottleneck}
        )  # fmt: skip
    wave_of = {name: row["wave"] for row in wave_rows for name in row["runs"]}
    run_rows = [
        _run_row(planned, run, group, pace_of[run.name], wave_of.get(run.name), misfits.get(group.runs), wishes,
                 bool(cluster.kind))
        for group in made
        for run in groups[group.runs]
    ]
    return {
        "job": job.name,
        "cluster": cluster.text,
        "rates": rates.source,
        "host": {"model": job.host.model, **asdict(planned.host)},
        "stream": _stream_row(planned, stream, wave_rows),
        "processes": [
            {"process": n.name, "count": n.count, "bytes": n.estimate, "bound_bytes": n.bytes} for n in needs
        ],
        "runs": run_rows,
        "waves": wave_rows,
        "total": _total(planned, run_rows, wave_rows, cluster),
        "fits": not misfits,
        "notes": notes + _assumptions(planned, rates, wishes),
    }


def _group(planned: Planned, pack: list[RunSpec], mesh: GroupShape, on_device: bool, wishes: Wishes) -> Group:
    """A pack's group; its rank's bytes are an upper bound, on the device or of the process."""
    return Group(tuple(run.name for run in pack), mesh, _rank_bytes(planned, pack, mesh, on_device, wishes))


def _rank_bytes(planned: Planned, pack: list[RunSpec], mesh: GroupShape, on_device: bool, wishes: Wishes) -> int:
    s, width = planned.shapes, sum(planned.shapes.widths[n] for n in pack[0].reads)
    if wishes.inline:
        return inline_bytes(s, pack, file_bytes(planned.job, planned.job.stream.tee is not None))
    if not on_device:
        return BASE["learner"] + learner_bytes(s, pack, width, mesh)
    memories = [_memory(planned, run, mesh, wishes, gpu=True) for run in pack]
    rows = 4 * mesh.rows(planned.job.train.batch_size) * width * FLOAT
    return sum(m.held for m in memories) + max(m.step for m in memories) + rows


def _memory(planned: Planned, run: RunSpec, mesh: GroupShape, wishes: Wishes, gpu: bool = False) -> RankMemory:
    train = planned.job.train
    dense = run.sae.variant in DENSE_AT_FIRST
    return rank_memory(run.sae, train.batch_size, mesh, train.precision, train.sparse_share, dense, wishes.l0, gpu)


def _peak_bytes(planned: Planned, needs: Sequence[Need], wave: Sequence[Group]) -> int:
    train = planned.job.train
    return peak_together(needs, [LEARNER + ", ".join(g.runs) for g in wave], train.checkpoint_every < train.steps)


def _room(planned: Planned, needs: Sequence[Need], cluster: Cluster, wishes: Wishes) -> tuple[Room, list[str]]:
    """What the cluster leaves for learners beside the other processes, and notes on both."""
    s = planned.shapes
    if not cluster.kind:
        free = sorted((node.memory for node in cluster.nodes), reverse=True)
        for need in [] if wishes.inline else [n for n in needs if not n.name.startswith(LEARNER)]:
            for _ in range(need.count):
                free.sort(reverse=True)
                free[0] -= need.bytes
        keepers = len(s.widths) if s.job.stream.tee is not None else 0
        ranks = None if wishes.inline else ranks_by_cores(s.job, cluster.cores, True, keepers)
        return Room(nodes=tuple(free), ranks=ranks), _of_gpus(cluster)
    device = DATASHEET[cluster.kind]
    workers = s.job.stream.workers if s.job.stream.from_ is None else 0
    memory, notes = device.memory - DEVICE_RESERVE, []
    if any(not node.memory for node in cluster.nodes):
        notes.append("the nodes' own memory and cores are not told: not checked")
    if cluster.gpus - workers >= planned.mesh.ranks:
        return Room(cluster.gpus - workers, memory), notes
    notes.append("workers share devices with learners: there are too few for both")
    return Room(cluster.gpus, memory - planned.host.bytes), notes


def _of_gpus(cluster: Cluster) -> list[str]:
    """A note if this machine's GPUs are left out of the plan: a sweep takes them."""
    import torch

    if cluster != this_machine() or not torch.cuda.is_available():
        return []
    kinds = ", ".join(DATASHEET)
    return [f"by the processor's rates, and a sweep here takes the GPU: --cluster 1xKIND plans that ({kinds})"]


def _suggestion(
    planned: Planned, pack: list[RunSpec], room: Room, cluster: Cluster, wishes: Wishes
) -> GroupShape | None:
    def rank_bytes(mesh: GroupShape) -> int:
        return _rank_bytes(planned, pack, mesh, bool(cluster.kind), wishes)

    return suggest(rank_bytes, tuple(run.name for run in pack), planned.mesh, room)


def _pace(planned: Planned, run: RunSpec, rates: Datasheet | Measured, cluster: Cluster, wishes: Wishes) -> Pace:
    """A run's seconds per step."""
    train, mesh = planned.job.train, planned.mesh
    cost = step_cost(run.sae, train.batch_size, mesh, wishes.l0, train.sparse_share)
    step_s = rates.step_s(cost, run.sae.variant, train.precision)
    checkpoint = CHECKPOINT * cost.owned / train.checkpoint_every
    if isinstance(rates, Measured):
        return Pace(step_s, 0.0, checkpoint / rates.commit, "arithmetic", rates.threads, mesh.ranks)
    bound = rates.memory_s(cost, train.precision) > rates.compute_s(cost, train.precision)
    near, far = rates.device.link, _network(rates, cluster)
    per_node, wire = max(node.gpus for node in cluster.nodes), wire_bytes(run.sae, train.batch_size, mesh)
    wire_s = wire.shards / (near if mesh.shards <= per_node else far)
    wire_s += wire.replicas / (near if mesh.ranks <= per_node else far)
    return Pace(step_s, wire_s, checkpoint / far, "memory" if bound else "compute")


def _network(rates: Datasheet, cluster: Cluster) -> float:
    """Bytes/s of a device to other nodes: the slowest that is told, else that of the vendor's machine."""
    return min((n.network / n.gpus for n in cluster.nodes if n.network), default=rates.device.network)


def _stream(planned: Planned, rates: Datasheet | Measured, cluster: Cluster) -> StreamPace:
    job, order = planned.job, planned.shapes.order
    tokens = order.contexts_per_item * job.corpus.context_length
    measured = rates.item_s if isinstance(rates, Measured) else 0.0
    item_s = measured or rates.forward_s(planned.host.flops_per_token * tokens, job.host.precision)
    if job.stream.from_ is not None:
        item_s = 0.0
    return StreamPace(item_s, order.contexts_per_item * order.rows_per_context, job.stream.workers, job.stream.threads)


def _once_s(planned: Planned, pack: list[RunSpec], rates: Datasheet | Measured) -> float:
    """Drawing the weights, the last checkpoint, and the evaluation."""
    if not isinstance(rates, Measured):
        return 0.0
    e, T = planned.job.evaluate, planned.job.corpus.context_length
    found = 0.0
    for run in pack:
        P = run.sae.n_parameters
        flops = 2 * (e.rows + e.contexts * T) * run.sae.d_sae * (run.sae.d_in + run.sae.width_out)
        found += P / rates.draw + (CHECKPOINT + FLOAT) * P / rates.commit + flops / rates.evaluate
    return found


def _start_s(planned: Planned, ranks: int, first: bool, rates: Datasheet | Measured, cores: int) -> float:
    """Starting the processes of a wave, on the cores that there are: learners, and at first Ray and the stream's."""
    if not isinstance(rates, Measured) or not cores:
        return 0.0
    stream = planned.job.stream
    others = RAYS_OWN + (stream.workers + stream.shards if stream.from_ is None else 0)
    return rates.start * -(-(ranks + (others if first else 0)) // cores)


def _run_row(planned: Planned, run: RunSpec, group: Group, pace: Pace, wave: int | None, other: GroupShape | None,
             wishes: Wishes, gpu: bool) -> dict:  # fmt: skip
    job, mesh = planned.job, planned.mesh
    memory = _memory(planned, run, mesh, wishes, gpu)
    cost = step_cost(run.sae, job.train.batch_size, mesh, wishes.l0, job.train.sparse_share)
    storage = storage_bytes([run.sae])
    rows_per_s = job.train.batch_size / pace.whole_s
    return {
        "run": run.name,
        "d_in": run.sae.d_in,
        "d_sae": run.sae.d_sae,
        "variant": run.sae.variant,
        "parameters": run.sae.n_parameters,
        "group": list(group.runs),
        "replicas": mesh.replicas,
        "feature_shards": mesh.shards,
        "rank": asdict(memory),
        "rank_bytes": group.rank_bytes,
        "way": cost.way,
        "active": active_of(run.sae, wishes.l0),
        "flops_per_step": cost.flops * mesh.ranks,
        "flops": cost.flops * mesh.ranks * job.train.steps,
        "step_s": pace.whole_s,
        "hours": job.train.steps * pace.whole_s / 3600,
        "rows_per_s": rows_per_s,
        "bytes_per_s": rows_per_s * sum(planned.shapes.widths[n] for n in run.reads) * FLOAT,
        "bottleneck": pace.bottleneck,
        "checkpoint_bytes": storage["checkpoint"],
        "finished_bytes": storage["finished"],
        "wave": wave,
        "fits": wave is not None,
        "suggestion": None if wave or other is None else {"replicas": other.replicas, "feature_shards": other.shards},
    }


def _stream_row(planned: Planned, stream: StreamPace, wave_rows: list[dict]) -> dict:
    job, width = planned.job, sum(planned.shapes.widths.values())
    rows = job.train.steps * job.train.batch_size
    epoch = job.corpus.max_tokens // job.corpus.context_length * job.stream.rows_per_context
    wanted = max((row["rows_per_s"] for row in wave_rows), default=0.0)
    return {
        "rows": rows,
        "row_bytes": width * FLOAT,
        "passes": rows / max(1, epoch),
        "workers": job.stream.workers,
        "item_s": stream.item_s,
        "most_rows_per_s": 1 / stream.row_s if stream.row_s else None,
        "rows_per_s": wanted,
        "bytes_per_s": wanted * width * FLOAT,
        "harvests": len(wave_rows),
    }


def _total(planned: Planned, runs: list[dict], wave_rows: list[dict], cluster: Cluster) -> dict:
    storage = storage_bytes([run.sae for run in planned.runs])
    seconds = sum(row["train_s"] + row["once_s"] for row in wave_rows)
    return {
        "parameters": sum(row["parameters"] for row in runs),
        "flops": sum(row["flops"] for row in runs),
        "hours": seconds / 3600,
        "device_hours": seconds / 3600 * (cluster.gpus or 1) if cluster.kind else None,
        "checkpoint_bytes": storage["checkpoint"],
        "kept_bytes": storage["kept"],
        "finished_bytes": storage["finished"],
    }


def _assumptions(planned: Planned, rates: Datasheet | Measured, wishes: Wishes) -> list[str]:
    """What the numbers rest on."""
    job, notes = planned.job, []
    free = [run for run in planned.runs if run.sae.variant not in ("topk", "batch_topk", "matryoshka")]
    if free:
        settled = [run for run in free if is_sparse(run.sae, wishes.l0, job.train.sparse_share)]
        notes.append(
            f"{wishes.l0:g} active features per row are assumed (--l0); {len(settled)} of {len(free)} runs are then "
            "sparse, and until they are, early on, their steps take longer"
        )
    if isinstance(rates, Datasheet):
        notes.append(
            f"GPU times are datasheet peaks times {rates.efficiency:.2f} (--efficiency); at the peaks themselves steps "
            f"would take {rates.efficiency:.2f} of that. `python tests/bench/gpu.py` measures a real one"
        )
    epoch = job.corpus.max_tokens // job.corpus.context_length * job.stream.rows_per_context
    if job.train.steps * job.train.batch_size > epoch:
        notes.append(f"corpus.max_tokens={job.corpus.max_tokens:,} gives at most {epoch:,} rows: rows will repeat")
    return notes


def misfit_line(plan: dict, cluster: Cluster) -> str:
    """The first run that does not fit, with its numbers and what would."""
    row = next(row for row in plan["runs"] if not row["fits"])
    device = f"a {cluster.kind} has {DATASHEET[cluster.kind].memory / GIB:,.1f}" if cluster.kind else (
        f"the largest node has {max(n.memory for n in cluster.nodes) / GIB:,.1f}"
    )
    other = row["suggestion"]
    advice = "; no learner.feature_shards up to 4,096 makes it fit here"
    if other:
        advice = f"; learner.replicas={other['replicas']} learner.feature_shards={other['feature_shards']} would fit"
    return (
        f"run {row['run']} does not fit {cluster.text}: a rank of {row['replicas']} x {row['feature_shards']} needs "
        f"{row['rank_bytes'] / GIB:,.1f} GiB, {device}{advice}"
    )
