"""What one training step costs: monosem's against the encoder's product alone, plain torch, and other tools.

    .venv-peers/bin/python tests/bench/step.py [--features 4096,32768] [--rows 4096] [--repeat 7] [--alone]

Run it with the environment that `make peers` makes, and all tools take turns in one process; with `.venv/bin/python`
those that are not there are left out, and named. Prints a table and one JSON line. `step / product` is the roofline: a
step cannot cost less than the encoder's bf16 product.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from monosem.memory import keep_freed_memory
from tests.bench.contenders import ours, theirs
from tests.bench.timing import interleaved, say, say_json, versions

D_IN, ACTIVE = 512, 20


def measure(features: int, rows: int, repeat: int, alone: bool) -> dict[str, float]:
    """Median seconds of every contender."""
    torch.manual_seed(0)
    x = torch.randn(rows, D_IN)
    steps = ours(x, features, ACTIVE)
    xb, W = x.bfloat16(), torch.randn(features, D_IN).bfloat16().T
    contenders = {"encoder product, bf16": lambda: xb @ W}
    if not alone:
        others, missing = theirs(x, features, ACTIVE)
        steps |= others
        for line in missing:
            say(f"left out: {line}")
    contenders |= {name: lambda step=step: step(x) for name, step in steps.items()}
    return interleaved(contenders, repeat)


def show(features: int, found: dict[str, float]) -> dict[str, float]:
    product = found.pop("encoder product, bf16")
    best = min(v for name, v in found.items() if name.startswith("monosem"))
    say(f"\n{features:,} features; encoder's bf16 product alone {product * 1000:.1f} ms")
    say(f"{'contender':34} {'ms':>8} {'/ product':>10} {'/ fastest of ours':>18}")
    for name, seconds in sorted(found.items(), key=lambda item: item[1]):
        say(f"{name:34} {seconds * 1000:8.1f} {seconds / product:10.2f} {seconds / best:18.2f}")
    others = [v for name, v in found.items() if not name.startswith("monosem")]
    ratios = {"step / product": found["monosem relu bf16"] / product}
    ratios["topk step / product"] = found["monosem topk bf16"] / product
    if others:
        ratios["fastest peer / relu step"] = min(others) / found["monosem relu bf16"]
        ratios["fastest peer / topk step"] = min(others) / found["monosem topk bf16"]
    for name, value in ratios.items():
        say(f"{name:34} {value:8.2f}")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", default="4096,32768")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without other tools")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    ratios = {}
    for features in map(int, args.features.split(",")):
        ratios[features] = show(features, measure(features, args.rows, args.repeat, args.alone))
    say_json(
        bench="step", rows=args.rows, d_in=D_IN, active=ACTIVE, ratios=ratios,
        versions=versions("numba", "sae-lens", "dictionary-learning", "eai-sparsify"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
