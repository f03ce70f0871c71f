"""What one training step costs on a GPU, against its encoder's product alone, and how long the paper's ladder takes.

    python tests/bench/gpu.py [--features 4096,32768,131072] [--variant relu] [--active 20] [--repeat 15] [--profile]

Needs an NVIDIA GPU and a CUDA build of torch; without one it exits with 2. In one process the step and the product, of
bfloat16 factors both, take turns; a measurement is CALLS calls between two CUDA events, and medians are reported.
Figures are asked for once in CALLS steps, as `train.log_every` has it.
The learning rate is next to nothing, so that the dictionary stays as active as it was made.

The ladder is Bricken et al. 2023's: dictionaries of 512 to 131,072 features, each on 8.19e9 rows. A size between two
that were measured gets the time on the line between them, one that is smaller than all the time of the smallest.
Prints a table and one JSON line.
"""

import argparse
import importlib.metadata
import json
import statistics
import sys
from collections.abc import Callable

import torch

from monosem.config.job import TrainConfig
from monosem.learn.learner import Learner
from monosem.sae.config import SaeConfig

D_IN, ROWS = 512, 8192
BATCHES, CALLS, WARM = 4, 10, 3
LADDER, LADDER_ROWS = [512 << n for n in range(9)], 8.19e9


def make_learner(features: int, variant: str, active: int) -> tuple[Learner, list[torch.Tensor]]:
    """A learner whose features are active in about `active` of each row, and batches for it."""
    torch.manual_seed(0)
    batches = [torch.randn(ROWS, D_IN, device="cuda").relu() for _ in range(BATCHES)]
    sae = SaeConfig(d_in=D_IN, d_sae=features, variant=variant, k=active)
    learner = Learner(sae, TrainConfig(precision="bf16", batch_size=ROWS, lr=1e-12), device="cuda")
    some = batches[0][:128]
    pre = (some - learner.sae.b_dec) @ learner.sae.W_enc
    learner.sae.b_enc.fill_(-float(pre.flatten().topk(active * len(some), sorted=False).values.min()))
    return learner, batches


def milliseconds(run: Callable[[int], object]) -> float:
    """Per call, of CALLS calls in a row."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for turn in range(CALLS):
        run(turn)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / CALLS


def measure(features: int, variant: str, active: int, repeat: int, profile: bool) -> dict[str, float]:
    """Median milliseconds of step and product, L0, and the most memory that was in use."""
    learner, batches = make_learner(features, variant, active)
    x, W = batches[0].bfloat16(), learner.sae.W_enc.bfloat16()
    contenders = {
        "step_ms": lambda turn: learner.step(batches[turn % BATCHES], masked=0, figures=turn == 0),
        "product_ms": lambda _: x @ W,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(WARM + repeat):
        for name, run in contenders.items():
            taken = milliseconds(run)
            if turn >= WARM:  # the first turns compile, and choose algorithms
                times[name].append(taken)
    found = {name: statistics.median(values) for name, values in times.items()}
    found["step_spread"] = (max(times["step_ms"]) - min(times["step_ms"])) / found["step_ms"]
    found["l0"] = float(learner.step(batches[0])["l0"])
    found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    if profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            milliseconds(contenders["step_ms"])
        sys.stdout.write(seen.key_averages().table(sort_by="self_device_time_total", row_limit=25) + "\n")
    return found


def ladder_hours(step_ms: dict[int, float]) -> dict[int, float]:
    """Hours of each dictionary of the ladder, from milliseconds per step by number of features."""
    sizes = sorted(step_ms)
    hours = {}
    for features in LADDER:
        lo = max((s for s in sizes if s <= features), default=sizes[0])
        hi = min((s for s in sizes if s >= features), default=sizes[-1])
        part = 0.0 if lo == hi or features < lo else (features - lo) / (hi - lo)
        ms = step_ms[lo] + part * (step_ms[hi] - step_ms[lo])
        if features > sizes[-1]:
            ms *= features / sizes[-1]
        hours[features] = ms / 1000 * LADDER_ROWS / ROWS / 3600
    return hours


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", default="4096,32768,131072")
    parser.add_argument("--variant", default="relu")
    parser.add_argument("--active", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="list the kernels of a step by their time")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("tests/bench/gpu.py needs an NVIDIA GPU and a CUDA build of torch; torch finds none here\n")
        return 2
    found = {}
    sys.stdout.write(
        f"{'features':>9} {'step ms':>9} {'product ms':>11} {'ratio':>6} {'rows/s':>11} {'L0':>6} {'GiB':>6}\n"
    )
    for features in (int(n) for n in args.features.split(",")):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        m = measure(features, args.variant, args.active, args.repeat, args.profile)
        found[features] = m | {"ratio": m["step_ms"] / m["product_ms"], "rows_per_s": ROWS / m["step_ms"] * 1000}
        m = found[features]
        sys.stdout.write(
            f"{features:9} {m['step_ms']:9.3f} {m['product_ms']:11.3f} {m['ratio']:6.2f} {m['rows_per_s']:11,.0f} "
            f"{m['l0']:6.1f} {m['peak_gib']:6.1f}\n"
        )
    hours = ladder_hours({features: m["step_ms"] for features, m in found.items()})
    sys.stdout.write(f"the ladder of {LADDER_ROWS:.3g} rows: {sum(hours.values()):.1f} hours, one after the other\n")
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": version("triton")}
    about |= {"rows": ROWS, "d_in": D_IN, "variant": args.variant, "sizes": found}
    sys.stdout.write(json.dumps(about | {"ladder_hours": hours, "total_hours": sum(hours.values())}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
