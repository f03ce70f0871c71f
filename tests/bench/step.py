"""What one training step costs, as ratios measured in one process with the contenders taking turns.

    python tests/bench/step.py [--rows 1024] [--features 4096] [--repeat 7]

Prints a table and one JSON line: the step against its encoder product alone, against autograd, and with
glibc's default handling of freed memory (a second process, since the setting cannot be undone).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from monosem.config.job import TrainConfig
from monosem.learn.learner import Learner
from monosem.memory import keep_freed_memory
from monosem.sae.config import SaeConfig

D_IN = 512


def autograd_step(learner: Learner, x: torch.Tensor, adam: torch.optim.Adam) -> None:
    sae = learner.sae
    f = sae.encode(x)
    loss = (sae.decode(f) - x).square().mean() + sae.config.l1_coefficient * f.sum(dim=1).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    with torch.no_grad():
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)


def measure(rows: int, features: int, repeat: int) -> dict[str, float]:
    """Median seconds of each contender, interleaved."""
    x = torch.randn(rows, D_IN).relu()
    ours = Learner(SaeConfig(d_in=D_IN, d_sae=features), TrainConfig())
    theirs = Learner(SaeConfig(d_in=D_IN, d_sae=features), TrainConfig())
    for t in theirs.sae.tensors().values():
        t.requires_grad_(True)
    adam = torch.optim.Adam(theirs.sae.tensors().values())
    contenders = {
        "step": lambda: ours.step(x),
        "autograd": lambda: autograd_step(theirs, x, adam),
        "encoder_product": lambda: x @ ours.sae.W_enc,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeat + 2):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn >= 2:  # the first turns warm up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--default-memory", action="store_true", help="leave glibc's settings alone")
    args = parser.parse_args()
    if not args.default_memory:
        keep_freed_memory()
    found = measure(args.rows, args.features, args.repeat)
    if args.default_memory:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    command = [sys.executable, __file__, "--default-memory", f"--rows={args.rows}", f"--features={args.features}"]
    default = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ratios = {
        "step / encoder product": found["step"] / found["encoder_product"],
        "autograd / step": found["autograd"] / found["step"],
        "step with glibc's default memory / step": default["step"] / found["step"],
    }
    for name, value in ratios.items():
        sys.stdout.write(f"{name:42} {value:6.2f}\n")
    sys.stdout.write(
        json.dumps({"rows": args.rows, "features": args.features, "torch": torch.__version__} | ratios) + "\n"
    )


if __name__ == "__main__":
    main()
