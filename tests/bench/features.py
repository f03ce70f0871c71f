"""What a feature pass costs as the dictionary grows: phases, the encoder's product, peak memory against the plan.

    python -m tests.bench.features STORE/sweeps/SWEEP/runs/8x STORE/sweeps/SWEEP/runs/64x [features.tokens=... ...]

Each pass runs in a process of its own, from nothing, on a copy of the run's sweep without its features. `product` is the
encoder's product on as many rows, alone, in the tiles that the pass makes, timed between its tasks: in float32, and in
what the pass makes it where few features are active (`made`). L0 should be equal for the ratio to mean anything.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product as product_of
from pathlib import Path

import torch

from monosem.features.rough import rough_kind
from monosem.features.state import State
from monosem.features.tasks import run_task
from monosem.features.tiles import COLUMNS, TILE_BYTES
from monosem.stages.features import features_need, run_features, sweep_and_run
from monosem.stages.resume import stored_job
from monosem.store.store import open_store
from tests.bench.timing import say, say_json

TURNS = 10
"""Of a dictionary of one tile's columns; fewer of larger ones, at least two."""


def one_pass(uri: str, overrides: list[str]) -> dict:
    """Seconds by phase, the product's, bytes. The product is timed after every task of `collect`, and not counted."""
    root, sweep, name = sweep_and_run(uri)
    job = stored_job(f"{root}/{sweep}", overrides)
    seconds: dict[str, float] = defaultdict(float)
    planned, rows, samples, timing = 0, 0, {"product": [], "made": []}, 0.0

    def run(state: State, phase: list[tuple[str, int]], done) -> None:
        nonlocal planned, rows, timing
        planned, rows = features_need(state).bytes, state.plan.tokens
        for n, (kind, number) in enumerate(phase):
            began = time.perf_counter()
            run_task(state, kind, number)
            ended = time.perf_counter()
            seconds[kind] += ended - began
            if kind == "collect":
                sae = state.sae(0)
                samples["product"].append(product(sae.W_enc, torch.float32))
                samples["made"].append(product(sae.W_enc, rough_kind()))
                timing += time.perf_counter() - ended
            done(n + 1)

    began = time.perf_counter()
    run_features(open_store(root), sweep, job.features, job.learner.threads, lambda line: None, run, name)
    whole = time.perf_counter() - began - timing
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    products = {name: statistics.mean(each) * rows for name, each in samples.items()}
    return {"whole": whole, **seconds, **products, "peak": peak, "planned": planned}


def product(W_enc: torch.Tensor, kind: torch.dtype) -> float:
    """Seconds that the product of a row takes, in the tiles that the pass makes."""
    rows = TILE_BYTES // (COLUMNS * kind.itemsize)
    x, F, times = torch.randn(4 * rows, W_enc.shape[0]).to(kind), W_enc.shape[1], []
    columns = [part.to(kind).contiguous() for part in W_enc.split(COLUMNS, dim=1)]
    out = torch.empty(rows * min(COLUMNS, F), dtype=kind)
    for _ in range(max(2, TURNS * COLUMNS // F)):
        began = time.perf_counter()
        for W, part in product_of(columns, x.split(rows)):
            torch.mm(part, W, out=out[: rows * W.shape[1]].view(rows, W.shape[1]))
        times.append(time.perf_counter() - began)
    return statistics.mean(times) / len(x)


def main(uris: list[str], overrides: list[str]) -> None:
    results = []
    for uri in uris:
        with tempfile.TemporaryDirectory() as folder:
            root, sweep, name = sweep_and_run(uri)
            leave_out = shutil.ignore_patterns("features", "browser", "wandb", "checkpoints")
            shutil.copytree(root, f"{folder}/s", ignore=leave_out)
            command = [sys.executable, "-m", "tests.bench.features", "--one", f"{folder}/s/sweeps/{sweep}/runs/{name}"]
            done = subprocess.run([*command, *overrides], stdout=subprocess.PIPE, check=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        results.append(found)
        shown = (
            f"{k} {v / 2**20:,.0f} MiB" if k in ("peak", "planned") else f"{k} {v:.1f} s" for k, v in found.items()
        )
        say(f"{Path(uri).name:>6}  " + "  ".join(shown))
    first, last = results[0], results[-1]
    say(f"whole pass of the last {last['whole']:.1f} s; 1.3 times the first's without its product, and the last's product:")
    for name, meaning in (("product", "in float32"), ("made", "as it was made")):
        rest = [r["whole"] - r[name] for r in (first, last)]
        say(f"  {meaning:16} {1.3 * rest[0] + last[name]:6.1f} s   without products {rest[0]:.1f} and {rest[1]:.1f} s")
    say_json(bench="features", passes=dict(zip(uris, results, strict=True)), overrides=overrides)


if __name__ == "__main__":
    given = [a for a in sys.argv[1:] if a != "--one"]
    named, more = [a for a in given if "=" not in a], [a for a in given if "=" in a]
    if "--one" in sys.argv:
        say(json.dumps(one_pass(named[0], more)))
    else:
        main(named, more)
