"""Sweeps in simulated time (`events.py`): held against real small ones here, then taken to 8 to 4,096 GPUs that fail.

    python tests/bench/simulate.py --check [--steps 600]      real sweeps on Ray, and the simulation of each
    python tests/bench/simulate.py --scale [--days 7] [--mtbf-hours 50000] [--restart-s 300] [--store-gb-s 1.0]

--check measures a learner's step, its commit, and the start of a process on one core while another process keeps the
other one busy; it takes what the stream costs (an item, mixing and carrying a row, reading it) from the CPU time of the
threads of a traced sweep on Ray, of a size that is not predicted. It runs sweeps with 1 and 2 workers, one and three
packs, and some of which a process is killed, and compares rows/s, the share of time spent waiting, and the time of
training. Everything, real sweeps too, is measured in three turns, and the means count: the same work takes 15 % more or
less from one minute to the next here. Goal: within 20 %.

--scale is weak scaling: one dictionary of 131,072 features per shard on a residual stream 4,096 wide, one sixteenth of the
GPUs harvesting. Its assumptions are printed with the table. Prints tables and one JSON line.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from monosem.config.job import SweepJob
from monosem.config.load import load_job
from monosem.learn.learner import Learner
from monosem.memory import keep_freed_memory
from monosem.plan.cost import GroupShape, step_cost, wire_bytes
from monosem.plan.devices import DATASHEET, EFFICIENCY, Datasheet
from monosem.plan.memory import CHECKPOINT
from monosem.sae.config import SaeConfig
from monosem.stages.budget import shapes_of
from monosem.stages.prepare import prepare_stream
from monosem.store.store import open_store
from monosem.threads import torch_threads
from tests.bench.events import Group, Outcome, Setup, Sweep
from tests.bench.footprint import held_by, tree_of
from tests.bench.timing import say, say_json

JOB = Path(__file__).parents[2] / "jobs/quickstart.yaml"
BATCH, EVERY = 2048, 100


@dataclass(frozen=True)
class Case:
    """sizes: expansion factors, a pack each; kill: the kind of actor that is killed, two seconds after `EVERY` x 2
    steps are committed."""

    sizes: tuple[int, ...]
    workers: int
    kill: str = ""


CASES = {
    "1 worker, 1 pack": Case((1,), 1),
    "2 workers, 1 pack": Case((1,), 2),
    "1 worker, slow pack": Case((16,), 1),
    "1 worker, 3 packs": Case((1, 2, 4), 1),
    "learner killed": Case((4,), 1, "LearnerActor"),
    "worker killed": Case((4,), 1, "ModelWorker"),
}
TRACED = Case((2,), 1)
TURNS = 3


def values(case: Case, steps: int, store: str) -> list[str]:
    return [
        f"store={store}", "name=real", "sae.variant=topk", "sae.k=16", "sae.init=transposed", "train.precision=bf16",
        f"sae.expansion_factor=[{','.join(map(str, case.sizes))}]", f"train.batch_size={BATCH}", f"train.steps={steps}",
        "train.resample_steps=[]", f"train.checkpoint_every={EVERY}", "learner.pack_parameters=0", "learner.threads=1",
        f"stream.workers={case.workers}", "evaluate.rows=1024", "evaluate.contexts=1", "track.wandb=disabled",
        "features.enabled=false",
    ]  # fmt: skip


# -- rates, each measured by itself -----------------------------------------------------------------


def median_s(work, turns: int = 9) -> float:
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


@dataclass(frozen=True)
class Rates:
    """Seconds of one core: item_s of an item with its digest; mix_s per row, for all that happens to it between worker
    and reader, Ray's own processes included; read_s per row and reader; step_s and commit_s by expansion factor;
    beside_s of what a learner does per step besides it (rows put in place, losses noted); start_s of a process until
    its first step."""

    item_s: float
    mix_s: float
    read_s: float
    beside_s: float
    step_s: dict[int, float]
    commit_s: dict[int, float]
    start_s: float


@contextmanager
def busy_neighbour():
    """Another process steps beside this one: in a sweep all cores are busy, and share caches and memory."""
    code = "from monosem.stages import calibrate as c; c.keep_stepping(threads=1, d_in=512, rows=2048, precision='bf16')"
    other = subprocess.Popen([sys.executable, "-c", f"while True:\n    {code}"], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        yield
    finally:
        other.kill()
        other.wait()


def measured_rates(spec, store: str, sizes: set[int]) -> Rates:
    step_s, commit_s = {}, {}
    with busy_neighbour(), torch_threads(1):
        for size in sizes:
            learner = Learner(spec_sae(size), load_job(SweepJob, str(JOB), values(TRACED, 1, store)).train)
            x = torch.randn(BATCH, 512).relu_()
            step_s[size] = median_s(lambda learner=learner, x=x: learner.step(x))
            commit_s[size] = _commit(learner, store)
        start_s = _start_s(store)
    item_s, mix_s, read_s, traced_step_s = traced(spec.order.segment_rows // spec.order.items_per_block, store)
    beside_s = max(0.0, traced_step_s - step_s[TRACED.sizes[0]])
    return Rates(item_s, mix_s, read_s, beside_s, step_s, commit_s, start_s)


def mean_rates(rounds: list[Rates]) -> Rates:
    def mean(values: list):
        if isinstance(values[0], dict):
            return {size: mean([v[size] for v in values]) for size in values[0]}
        return statistics.mean(values)

    return Rates(**{field.name: mean([getattr(rates, field.name) for rates in rounds]) for field in fields(Rates)})


def spec_sae(size: int) -> SaeConfig:
    return SaeConfig(d_in=512, d_sae=512 * size, variant="topk", k=16, init="transposed")


def _commit(learner: Learner, store: str) -> float:
    from monosem.store.checkpoints import CheckpointLog

    log, steps = CheckpointLog(open_store(store), "probe"), iter(range(100))
    taken = median_s(lambda: log.commit(next(steps), learner.state(), {}), 5)
    log.clear()  # the next learner's come under the same steps
    return taken


def _start_s(store: str) -> float:
    """A process from nothing to its first step: that of an inline sweep of one step, with its tiny evaluation."""
    command = [sys.executable, "-m", "monosem", "sweep", str(JOB), *values(TRACED, 1, store)]
    began = time.perf_counter()
    subprocess.run([*command, "name=start", "--inline"], check=True, capture_output=True)
    return time.perf_counter() - began


# -- what the stream costs, from a traced sweep ---------------------------------------------------------

HZ = os.sysconf("SC_CLK_TCK")


def cpu_s(root: int) -> dict[tuple[str, int], float]:
    """CPU seconds so far by (kind of process, thread) of a process and all that descend from it."""
    found = {}
    for pid in tree_of(root):
        kind = held_by(pid)[0]
        for path in Path(f"/proc/{pid}/task").glob("*/stat"):
            try:
                words = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[kind, int(path.parent.name)] = (int(words[11]) + int(words[12])) / HZ
    return found


def traced(item_rows: int, store: str) -> tuple[float, float, float, float]:
    """(item_s, mix_s, read_s, seconds of a learner's thread per step) between two commits of a sweep on Ray.

    Of a worker's threads the busiest makes items; of a learner's, the busiest steps and the others read. All else is
    what it takes to mix rows and to carry them.
    """
    first, last = 1, 5
    command = [sys.executable, "-m", "monosem", "sweep", str(JOB), *values(TRACED, (last + 1) * EVERY, store)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = Path(store) / f"sweeps/real/runs/{TRACED.sizes[0]}x/checkpoints/log"
    looks = []
    for number in (first, last):
        wait_for(process, log / f"{number * EVERY:012d}.json")
        looks.append(cpu_s(process.pid))
    if process.wait():
        raise RuntimeError("the traced sweep failed")
    spent = {key: seconds - looks[0].get(key, 0.0) for key, seconds in looks[1].items()}
    by_kind = {kind: sorted(s for (k, _), s in spent.items() if kind in k) for kind in ("ModelWorker", "LearnerActor")}
    rows = (last - first) * EVERY * BATCH
    items, steps, reading = by_kind["ModelWorker"][-1], by_kind["LearnerActor"][-1], sum(by_kind["LearnerActor"][:-1])
    say(f"traced: of {sum(spent.values()):.1f} s CPU, items {items:.1f}, steps {steps:.1f}, reading {reading:.1f}")
    carrying = sum(spent.values()) - items - steps - reading
    return items * item_rows / rows, carrying / rows, reading / rows, steps / ((last - first) * EVERY)


def wait_for(process: subprocess.Popen, path: Path) -> None:
    while not path.exists():
        if process.poll() is not None:
            raise RuntimeError(f"the sweep ended before {path.name} was there")
        time.sleep(0.05)


# -- real sweeps ------------------------------------------------------------------------------------


def real(case: Case, steps: int, store: str) -> dict:
    """Rows/s and wait share of the slowest pack, seconds from start to end, and second of the kill."""
    command = [sys.executable, "-m", "monosem", "sweep", str(JOB), *values(case, steps, store)]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)
        if case.kill:
            kill_one(process, case.kill, Path(store) / f"sweeps/real/runs/{case.sizes[0]}x/checkpoints/log")
        process.wait()
        out.seek(0)
        output = out.read()
    if process.returncode:
        sys.exit(output)
    whole_s = time.perf_counter() - began
    records = [json.loads(p.read_text()) for p in sorted(Path(store).glob("sweeps/real/runs/*/monosem.json"))]
    slowest = max((record["timing"] for record in records), key=lambda t: t["train_s"])
    train_s = float(re.findall(r"train: [\d,]+ rows in ([\d.]+) s", output)[-1])
    return {"rows_per_s": steps * BATCH / slowest["train_s"], "wait": slowest["wait_s"] / slowest["train_s"],
            "train_s": slowest["train_s"], "phase_s": train_s, "whole_s": whole_s}  # fmt: skip


def kill_one(process: subprocess.Popen, kind: str, log: Path) -> None:
    """Kill an actor of our own sweep, by its id, two seconds after 2 x EVERY steps are in the store."""
    wait_for(process, log / f"{2 * EVERY:012d}.json")
    time.sleep(2.0)
    [victim] = [pid for pid in tree_of(process.pid) if kind in held_by(pid)[0]]
    os.kill(victim, signal.SIGKILL)


# -- the same in simulated time ---------------------------------------------------------------------


def setup_of(case: Case, spec, rates: Rates, steps: int, kills: tuple = ()) -> Setup:
    order = spec.order
    groups = tuple(Group((rates.step_s[s] + rates.beside_s) / BATCH, rates.commit_s[s]) for s in case.sizes)
    mix_s = rates.mix_s + rates.read_s * len(groups)  # readers read ahead, beside their steps
    return Setup(
        groups=groups, rows=steps * BATCH, item_s=rates.item_s, item_rows=order.segment_rows // order.items_per_block,
        items_per_block=order.items_per_block, generations=order.generations, ahead=shapes_of(spec).ahead,
        workers=case.workers, row_bytes=2048, mix_s=mix_s, checkpoint_every=EVERY * BATCH,
        restart_s=rates.start_s, worker_restart_s=rates.start_s, kills=kills, cores=os.cpu_count(),
    )  # fmt: skip


def simulated(case: Case, spec, rates: Rates, steps: int) -> dict:
    kills = ()
    if case.kill:
        short = Sweep(setup_of(case, spec, rates, 2 * EVERY)).run()[0]
        kills = ((short.ended + 2.0, "group" if case.kill == "LearnerActor" else "worker", 0),)
    outs = Sweep(setup_of(case, spec, rates, steps, kills)).run()
    slowest = max(outs, key=lambda out: out.ended)
    return {"rows_per_s": steps * BATCH / slowest.ended, "wait": slowest.share("wait"), "train_s": slowest.ended}


def check(steps: int, names: list[str]) -> dict:
    sizes = {*TRACED.sizes, *(size for name in names for size in CASES[name].sizes)}
    rounds, turns = [], {name: [] for name in names}
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(TURNS):
            store = f"{directory}/{turn}/rates"
            spec = prepare_stream(load_job(SweepJob, str(JOB), values(CASES[names[0]], steps, store)), open_store(store))
            rounds.append(measured_rates(spec, store, sizes))
            say(f"rates: {rounds[-1]}")
            for number, name in enumerate(names):
                turns[name].append(real(CASES[name], steps, f"{directory}/{turn}/{number}"))
            say("real seconds: " + ", ".join(f"{name} {turns[name][-1]['phase_s']:.1f}" for name in names))
    had = {name: {key: statistics.mean(t[key] for t in some) for key in some[0]} for name, some in turns.items()}
    alone = [h for name, h in had.items() if not CASES[name].kill and len(CASES[name].sizes) == 1]
    started_s, rates = statistics.mean(h["phase_s"] - h["train_s"] for h in alone), mean_rates(rounds)
    say(f"\n{'':22} {'rows/s':>18} {'waiting':>15} {'seconds':>16} {'ratio':>6}")
    said = {name: simulated(CASES[name], spec, rates, steps) for name in names}
    found = {name: _compared(name, had[name], said[name], started_s, steps) for name in names}
    return {"rounds": [r.__dict__ for r in rounds], "turns": turns, "rates": rates.__dict__, "cases": found}


def _compared(name: str, had: dict, said: dict, started_s: float, steps: int) -> dict:
    """started_s: what a start takes, of sweeps with one learner. Of a sweep of which a process was killed the store has
    only the last attempt's times: it is the whole phase, less a start."""
    if CASES[name].kill:
        had |= {"train_s": had["phase_s"] - started_s, "wait": float("nan")}
        had["rows_per_s"] = steps * BATCH / had["train_s"]
    ratio = said["train_s"] / had["train_s"]
    say(
        f"{name:22} {had['rows_per_s']:8,.0f} {said['rows_per_s']:9,.0f} {had['wait']:7.2f} {said['wait']:7.2f} "
        f"{had['train_s']:7.1f} {said['train_s']:8.1f} {ratio:6.2f}"
    )
    return {"real": had, "simulated": said, "ratio": ratio}


# -- scale ------------------------------------------------------------------------------------------

WIDTH, FEATURES, ROWS, ACTIVE = 4096, 131_072, 8192, 64
HOST_FLOPS = 8.03e9
"""Of a token: half of a model of 8 billion parameters."""
SEGMENT_ROWS = 65_536
"""Of a real segment: what is held in memory is told in these."""
SEGMENTS = 20_000
"""As many as a simulated history is cut into: segments here stand for several."""


def at_scale(gpus: int, args: argparse.Namespace, minutes: float) -> Setup:
    device = DATASHEET[args.device]
    rates = Datasheet(device, args.efficiency)
    workers = max(1, gpus // 16)
    mesh = GroupShape(1, gpus - workers, 1)
    sae = SaeConfig(d_in=WIDTH, d_sae=FEATURES * mesh.shards, variant="topk", k=ACTIVE)
    cost = step_cost(sae, ROWS, mesh, ACTIVE, 1 / 16)
    wire = wire_bytes(sae, ROWS, mesh).shards / (device.link if mesh.shards < 8 else device.network)
    row_s = (rates.step_s(cost, "topk", "bf16") + wire) / ROWS
    horizon = args.days * 86400
    segment = max(1, round(horizon / row_s / SEGMENTS))
    return Setup(
        groups=(Group(row_s, CHECKPOINT * cost.parameters / (args.store_gb_s * 1e9), mesh.shards),),
        rows=10**15, item_s=rates.forward_s(HOST_FLOPS * 2 * segment, "bf16"), item_rows=segment, items_per_block=1,
        generations=1, ahead=2 * workers, workers=workers, row_bytes=4 * WIDTH,
        checkpoint_every=round(minutes * 60 / row_s), restart_s=args.restart_s, worker_restart_s=args.restart_s,
        mtbf_s=args.mtbf_hours * 3600, until_s=horizon,
    )  # fmt: skip


def figures(setup: Setup, out: Outcome, sweep: Sweep) -> dict:
    """Shares of the horizon; goodput: rows that count, at the pace of a group that nothing stops."""
    return {
        "goodput": out.rows * setup.groups[0].row_s / setup.until_s,
        "wait": out.seconds["wait"] / setup.until_s,
        "commit": out.seconds["commit"] / setup.until_s,
        "lost": out.seconds["lost"] / setup.until_s,
        "restart": out.seconds["restart"] / setup.until_s,
        "deaths": out.deaths,
        "worker_deaths": sweep.worker_deaths,
        "held_gb": sweep.most_rows / setup.segment_rows * SEGMENT_ROWS * setup.row_bytes / 1e9,
        "rows_per_s": 1 / setup.groups[0].row_s,
        "step_ms": setup.groups[0].row_s * ROWS * 1000,
        "commit_s": setup.groups[0].commit_s,
    }


def scale(args: argparse.Namespace) -> list[dict]:
    say(
        f"assumed, not measured: steps by the datasheet of {args.device} times {args.efficiency}; a device lives "
        f"{args.mtbf_hours:,.0f} hours in the mean; a\ngroup is back {args.restart_s:.0f} s after one of its ranks died; each "
        f"rank writes its part of a checkpoint at {args.store_gb_s} GB/s, and waits for it;\n{ROWS:,} rows of {WIDTH} per step, segments of "
        f"{SEGMENT_ROWS:,}, {FEATURES:,} features per shard, {args.days:g} days; networks and store do not fill up; whole nodes do not fail"
    )
    say(
        f"\n{'GPUs':>5} {'every':>6} {'goodput':>8} {'waiting':>8} {'commits':>8} {'lost':>7} {'restarts':>9} {'deaths':>7} "
        f"{'step ms':>8} {'held GB':>8}"
    )
    rows = []
    for gpus in args.gpus:
        for minutes in args.every:
            setup = at_scale(gpus, args, minutes)
            outs = []
            for seed in range(args.seeds):
                sweep = Sweep(replace(setup, seed=seed))
                outs.append(figures(setup, sweep.run()[0], sweep))
            row = {"gpus": gpus, "minutes": minutes} | {k: statistics.mean(o[k] for o in outs) for k in outs[0]}
            rows.append(row)
            say(
                f"{gpus:5,} {minutes:4g} m {row['goodput']:8.1%} {row['wait']:8.1%} {row['commit']:8.1%} {row['lost']:7.1%} "
                f"{row['restart']:9.1%} {row['deaths']:7.1f} {row['step_ms']:8.1f} {row['held_gb']:8.2f}"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--every", type=float, nargs="+", default=[5, 15, 60], help="minutes between checkpoints")
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=list(DATASHEET), default="H200")
    parser.add_argument("--efficiency", type=float, default=EFFICIENCY)
    parser.add_argument("--mtbf-hours", type=float, default=50_000)
    parser.add_argument("--restart-s", type=float, default=300)
    parser.add_argument("--store-gb-s", type=float, default=1.0)
    args = parser.parse_args()
    if not args.check and not args.scale:
        parser.error("--check, --scale or both")
    keep_freed_memory()
    found = {}
    if args.check:
        found["check"] = check(args.steps, args.cases)
    if args.scale:
        found["scale"] = scale(args)
    say_json(bench="simulate", **found)


if __name__ == "__main__":
    main()
