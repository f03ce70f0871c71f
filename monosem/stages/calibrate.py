"""`monosem plan --calibrate`: the rates of this machine, from steps of real learners; seconds, kept in the store.

Every variant and way of the job is stepped at a few sizes of dictionary, batch and activity, and the seconds are
fitted by non-negative least squares of relative errors to the counts of `plan.cost`. The dictionaries are as wide as
the job's rows and far smaller than its largest; that the fit carries over is what `tests/bench/plan.py` checks.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace

import numpy as np
import torch
from scipy.optimize import nnls

from monosem.config.job import TOP_K, SweepJob, TrainConfig
from monosem.evals.sparsity import measure_sparsity
from monosem.host.model import HostModel
from monosem.learn.learner import Learner
from monosem.memory import keep_freed_memory
from monosem.plan.cost import GroupShape, StepCost, step_cost
from monosem.plan.devices import UNITS, Measured
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store
from monosem.store.tensors import pack_tensors
from monosem.threads import torch_threads

SPARSE = ((1024, 1, 16), (4096, 1, 16), (4096, 1, 64), (16384, 1, 16), (1024, 4, 16), (4096, 4, 16))
DENSE = ((512, 4), (2048, 4), (512, 16), (2048, 16))
"""Features, what the batch is divided by, and for sparse steps the active features of a row."""
MOST_ROWS, MOST_WIDTH = 4096, 4096
TURNS = 4
"""Times that each point is measured; the first does not count, medians do."""
PROBE_PARAMETERS = 1 << 26
"""Of the dictionary whose checkpoint is timed: 805 MB."""
NEIGHBOUR = 16384
"""Features of the two learners that are timed beside each other."""
SETTLED = 256
"""Rows that decide where a dictionary's biases are put, so that as many features are active as wanted."""

Report = Callable[[int], None]


def calibration(job: SweepJob, saes: Sequence[SaeConfig], host: HostModel | None, store: Store, again: bool,
                report: Report = lambda n: None) -> Measured:  # fmt: skip
    """The rates of this machine for this job: those in the store, or measured now and kept there."""
    path = _path(job, saes, host)
    if not again:
        try:
            return Measured(**unpack_json(store.get(path), path))
        except FileNotFoundError:
            pass
    found = measure(job, saes, host, store, report)
    store.put(path, pack_json(asdict(found)))
    return found


def points(variants: int) -> int:
    """How many steps of progress a calibration reports."""
    return variants * (len(SPARSE) + len(DENSE)) + 3


def measure(job: SweepJob, saes: Sequence[SaeConfig], host: HostModel | None, store: Store,
            report: Report = lambda n: None) -> Measured:  # fmt: skip
    keep_freed_memory()
    shapes = list({sae.variant: sae for sae in saes}.values())
    seconds, worst, done = {}, 0.0, 0

    def tick() -> None:
        nonlocal done
        done += 1
        report(done)

    with torch_threads(job.learner.threads):
        for sae in shapes:
            for way, points in (("sparse", SPARSE), ("dense", DENSE)):
                costs, times = _measured_points(sae, job, way, points, tick)
                fitted, misfit = fit(costs, times, way)
                seconds[f"{sae.variant} {job.train.precision} {way}"] = fitted
                worst = max(worst, misfit)
        learner = Learner(_probe(saes), job.train)
        commit = _commit_rate(learner, store)
        tick()
        evaluate, draw = _evaluate_rate(learner), _draw_rate(learner.config)
        tick()
        crowd = _crowd(shapes[0], job)
    item_s, start = _item_s(job, host) if host else 0.0, _start_s()
    tick()
    return Measured(machine_name(), job.learner.threads, seconds, item_s, commit, evaluate, draw, start,
                    crowd, worst)  # fmt: skip


def _probe(saes: Sequence[SaeConfig]) -> SaeConfig:
    """A dictionary as large as the largest, but not above PROBE_PARAMETERS: what is written at once sets the rate."""
    sae = max(saes, key=lambda sae: sae.n_parameters)
    most = PROBE_PARAMETERS // (sae.d_in + sae.width_out)
    return replace(sae, d_sae=min(sae.d_sae, max(most, sae.k)), aux_coefficient=0.0)


def fit(costs: Sequence[StepCost], times: Sequence[float], way: str) -> tuple[dict[str, float], float]:
    """Seconds per unit of each of UNITS, none negative, by least squares of relative errors; and the largest error."""
    counts = np.array([[cost.count(unit) for unit in UNITS[way]] for cost in costs])
    scale = counts.max(axis=0)
    scale[scale == 0] = 1.0
    relative = counts / scale / np.array(times)[:, None]
    found, _ = nnls(relative, np.ones(len(times)))
    misfit = float(np.abs(relative @ found - 1).max())
    return {unit: float(x) for unit, x in zip(UNITS[way], found / scale, strict=True)}, misfit


def machine_name() -> str:
    """What rates belong to: the processor, by its name. Nothing here is measured on a GPU, if there is one."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    name = lines[0] if lines else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def _path(job: SweepJob, saes: Sequence[SaeConfig], host: HostModel | None) -> str:
    """Named by everything that the rates depend on."""
    about = {
        "machine": machine_name(),
        "torch": torch.__version__,
        "threads": [job.learner.threads, job.stream.threads],
        "precision": job.train.precision,
        "batch_size": min(job.train.batch_size, MOST_ROWS),
        "shapes": sorted({(sae.variant, sae.d_in, sae.width_out) for sae in saes}),
        "host": [job.host.model, *_points(job), job.corpus.context_length] if host else None,
        "item": [job.stream.contexts_per_item, job.stream.rows_per_context],
        "measured": sorted(field.name for field in fields(Measured)),
    }
    return f"calibrations/{sha256(pack_json(about))[:16]}.json"


def _measured_points(sae: SaeConfig, job: SweepJob, way: str, points: Sequence[tuple], tick: Callable[[], None]):
    """Costs and seconds of the points of one way; learners of the same size are made once."""
    width, out = min(sae.d_in, MOST_WIDTH), min(sae.width_out, MOST_WIDTH)
    batch = min(job.train.batch_size, MOST_ROWS)
    made: dict[tuple, Learner] = {}
    costs, times = [], []
    for features, part, *active in points:
        rows, k = max(16, batch // part), min([*active, 16][0], features // 16)
        target = out if sae.transcoder else None
        shape = replace(sae, d_in=width, d_out=target, d_sae=features, k=k, aux_coefficient=0.0)
        share = job.train.sparse_share or 1 / 16
        train = TrainConfig(batch_size=rows, lr=1e-12, precision=job.train.precision,
                            sparse_share=share if way == "sparse" else 0.0)  # fmt: skip
        torch.manual_seed(0)
        x = torch.randn(rows, width).relu_()
        y = torch.randn(rows, out) if sae.transcoder else None
        if (features, k) not in made:
            made.clear()
            made[features, k] = Learner(shape, train)
        learner = made[features, k]
        _settle(learner, x[:SETTLED], k)
        times.append(_seconds(lambda learner=learner, x=x, y=y: learner.step(x, y)))
        costs.append(step_cost(shape, rows, GroupShape(), k, train.sparse_share))
        tick()
    return costs, times


def _settle(learner: Learner, x: torch.Tensor, active: int) -> None:
    """Biases such that about `active` features of a row are, where the variant does not see to it itself."""
    if learner.config.variant in TOP_K:
        return
    pre = x @ learner.sae.W_enc
    bound = float(pre.flatten().topk(active * len(x), sorted=False).values.min())
    learner.sae.b_enc.fill_(-bound)


def _seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(TURNS):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _commit_rate(learner: Learner, store: Store) -> float:
    """Bytes/s of a checkpoint as `CheckpointLog.commit` makes one."""
    path = "calibrations/probe"
    began = time.perf_counter()
    data = pack_tensors(learner.state())
    sha256(data)
    store.put(path, data)
    taken = time.perf_counter() - began
    store.delete(path)
    return len(data) / taken


def _evaluate_rate(learner: Learner) -> float:
    sae, rows = learner.sae, 1024
    x, y = torch.randn(rows, sae.config.d_in), torch.randn(rows, sae.config.width_out)
    flops = 2 * rows * sae.config.d_sae * (sae.config.d_in + sae.config.width_out)
    return flops / _seconds(lambda: measure_sparsity(sae, [(x, y)]))


def _draw_rate(config: SaeConfig) -> float:
    began = time.perf_counter()
    init_sae(config)
    return config.n_parameters / (time.perf_counter() - began)


def _crowd(sae: SaeConfig, job: SweepJob) -> float:
    """Two learners' steps beside each other, by what they would take if cores were shared without loss; at least 1."""
    if torch.cuda.is_available():
        return 1.0
    rows = min(job.train.batch_size, MOST_ROWS)
    about = {"d_in": min(sae.d_in, MOST_WIDTH), "rows": rows, "precision": job.train.precision,
             "threads": job.learner.threads}  # fmt: skip
    run, threads = neighbour(**about), torch.get_num_threads()
    alone = _seconds(run)
    code = "import sys, json; from monosem.stages import calibrate as c; c.keep_stepping(**json.loads(sys.argv[1]))"
    other = subprocess.Popen([sys.executable, "-c", code, pack_json(about).decode()], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()  # its first step is behind it
        beside = _seconds(run)
    finally:
        other.kill()
        other.wait()
    return max(1.0, beside / (alone * max(1.0, 2 * threads / os.cpu_count())))


def neighbour(d_in: int, rows: int, precision: str, threads: int) -> Callable[[], object]:
    """A step of a sparse dictionary of NEIGHBOUR features."""
    learner = Learner(
        SaeConfig(d_in=d_in, d_sae=NEIGHBOUR, variant="topk", k=16, aux_coefficient=0.0),
        TrainConfig(batch_size=rows, lr=1e-12, precision=precision, sparse_share=1 / 16),
    )
    x = torch.randn(rows, d_in).relu_()
    return lambda: learner.step(x)


def keep_stepping(threads: int, **about: object) -> None:
    """Until it is killed, or for a while should nobody be left to do that; a line when the first step is done."""
    with torch_threads(threads):
        run = neighbour(threads=threads, **about)
        run()
        sys.stdout.write("\n")
        sys.stdout.flush()
        for _ in range(100):
            run()


def _start_s() -> float:
    """Of a process with what a learner's imports, once they are in the page cache, as all but the first find them."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import monosem.learn.loop, monosem.stages.learning, ray"], check=True)
    return time.perf_counter() - began


def _points(job: SweepJob) -> list[str]:
    """Names of the hook points whose rows a work item gives: a transcoder's target is one."""
    return [*job.host.hook_point, *([job.sae.target] if job.sae.target else [])]


def _item_s(job: SweepJob, host: HostModel) -> float:
    """Seconds of a work item: the host on its contexts, and its rows taken out."""
    s, T = job.stream, job.corpus.context_length
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, host.vocab_size, (s.contexts_per_item, T)))
    points = [host.resolve(name) for name in _points(job)]

    def item() -> None:
        for x in host.capture(tokens, points).values():
            x[:, : s.rows_per_context].reshape(-1, x.shape[-1]).float().cpu().clone()

    with torch_threads(s.threads):
        return _seconds(item)
