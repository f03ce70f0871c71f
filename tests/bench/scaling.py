"""How a step's cost grows: with features, rows, active features, and dictionaries on one stream.

    python tests/bench/scaling.py [--only features rows active runs] [--repeat 5] [--variant topk]

Each axis is varied alone around 8,192 features, 4,096 rows of 512 floats, 20 active features, bf16 products; all points
of an axis take turns in one process. `of first` is the cost in units of the axis' first point, `per unit` the same
divided by how much larger the point is: flat where cost is proportional. Prints tables and one JSON line.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from monosem.memory import keep_freed_memory
from tests.bench.contenders import settled_learner
from tests.bench.timing import interleaved, say, say_json, versions

D_IN, FEATURES, ROWS, ACTIVE = 512, 8192, 4096, 20
AXES = {
    "features": (512, 2048, 8192, 32768),
    "rows": (1024, 2048, 4096, 8192),
    "active": (5, 20, 80, 320),
    "runs": (1, 2, 4, 8),
}


def contender(axis: str, value: int, variant: str) -> Callable[[], object]:
    """One step of every dictionary that the point has."""
    at = {"features": FEATURES, "rows": ROWS, "active": ACTIVE, "runs": 1} | {axis: value}
    torch.manual_seed(0)
    x = torch.randn(at["rows"], D_IN)
    learners = [settled_learner(x, at["features"], at["active"], variant, precision="bf16") for _ in range(at["runs"])]
    return lambda: [learner.step(x) for learner in learners]


def measure(axis: str, variant: str, repeat: int) -> dict[int, float]:
    """Median seconds by the axis' value."""
    found = interleaved({str(value): contender(axis, value, variant) for value in AXES[axis]}, repeat)
    return {int(value): seconds for value, seconds in found.items()}


def show(axis: str, found: dict[int, float]) -> None:
    first, start = next(iter(found.items()))
    say(f"\n{axis:>10} {'ms':>9} {'of first':>9} {'per unit':>9}")
    for value, seconds in found.items():
        say(f"{value:10,} {seconds * 1000:9.1f} {seconds / start:9.2f} {seconds / start / (value / first):9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--variant", choices=["relu", "topk"], default="topk")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    axes = {}
    for axis in args.only:
        axes[axis] = measure(axis, args.variant, args.repeat)
        show(axis, axes[axis])
    say_json(bench="scaling", variant=args.variant, axes=axes, versions=versions("numba"))


if __name__ == "__main__":
    main()
