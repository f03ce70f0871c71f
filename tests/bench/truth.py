"""The exam of every variant at full size, against SAELens' trainer of the same architecture.

    python tests/bench/truth.py [--kinds topk ...] [--seeds 0 1 2] [--who monosem SAELens] [--steps 1600] [--threads 2]

1,024 known features in 256 dimensions, 12 active: both see the same rows in the same batches for the same number of
steps, with the settings below, and start from the same decoder bias. SAELens runs in the environment of `make peers`;
its dictionaries are read back by `monosem.load` and marked like ours. Prints a table and one JSON line.
Goals: at least 95 % of the features found, on the mean over seeds; not behind SAELens.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import monosem
from monosem.config.job import TrainConfig
from monosem.learn.learner import Learner
from monosem.memory import keep_freed_memory
from monosem.sae.config import SaeConfig
from monosem.sae.init import geometric_median
from monosem.truth.generator import Truth, TruthConfig
from monosem.truth.score import score

BATCH, D_IN, D_SAE, MARKING_ROWS, INIT_ROWS = 512, 256, 2048, 16384, 8192
PEERS = Path(__file__).parents[2] / ".venv-peers/bin/python"
SINCE_2024 = {"error": "sum", "decoder": "free", "init": "transposed", "init_norm": 0.5}
WARM = {"lr": 2e-3, "sparsity_warmup": 0.05}
TOP_K = {"k": 12, "init": "transposed", "decoder": "free", "init_norm": 0.5, "aux_coefficient": 1.0}

OURS: dict[str, tuple[dict, dict]] = {
    "relu (2023)": ({"init": "kaiming", "l1_coefficient": 0.0025}, {"lr": 4e-3, "sparsity_warmup": 0.5}),
    "relu (april 2024)": (SINCE_2024 | {"l1_weight": "decoder_norm", "l1_coefficient": 0.5}, WARM),
    "gated": (
        SINCE_2024 | {"variant": "gated", "gate_decoder": "shared", "l1_weight": "decoder_norm", "l1_coefficient": 0.5},
        WARM | {"lr": 4e-3, "clip_norm": 1.0},
    ),
    "jumprelu (step)": (
        SINCE_2024 | {"variant": "jumprelu", "l0_coefficient": 0.1, "bandwidth": 0.5, "threshold_init": 0.1}, WARM
    ),
    "jumprelu (tanh)": (
        SINCE_2024
        | {"variant": "jumprelu", "sparsity": "tanh", "l1_coefficient": 0.06, "bandwidth": 0.5, "threshold_init": 0.1},
        WARM | {"clip_norm": 1.0},
    ),
    "topk": (TOP_K | {"variant": "topk"}, {"lr": 2e-3}),
    "batch_topk": (TOP_K | {"variant": "batch_topk"}, {"lr": 2e-3}),
    "matryoshka": (TOP_K | {"variant": "matryoshka", "prefixes": (0.5, 1.0)}, {"lr": 2.5e-3}),
}  # fmt: skip
"""By kind: values of SaeConfig and of TrainConfig."""

THEIRS = {
    "relu (2023)": ("standard", {"l1_coefficient": 0.5}),
    "relu (april 2024)": ("standard", {"l1_coefficient": 0.5}),
    "gated": ("gated", {"l1_coefficient": 0.5}),
    "jumprelu (step)": (
        "jumprelu", {"l0_coefficient": 0.1, "jumprelu_bandwidth": 0.5, "jumprelu_init_threshold": 0.1}
    ),
    "jumprelu (tanh)": (
        "jumprelu",
        {"l0_coefficient": 0.06, "jumprelu_bandwidth": 0.5, "jumprelu_init_threshold": 0.1,
         "jumprelu_sparsity_loss_mode": "tanh", "pre_act_loss_coefficient": 3e-6, "jumprelu_ste_to_input": True},
    ),
    "topk": ("topk", {"k": 12}),
    "batch_topk": ("batchtopk", {"k": 12}),
    "matryoshka": ("matryoshka_batchtopk", {"k": 12, "matryoshka_widths": [1024, 2048]}),
}  # fmt: skip
"""By kind: SAELens' architecture and what is set in its configuration."""


def train_ours(kinds: list[str], truth: Truth, seed: int, steps: int) -> dict[str, monosem.Sae]:
    """All kinds on the same batches."""
    median = geometric_median(torch.from_numpy(truth.rows(0, INIT_ROWS)))
    learners = {}
    for kind in kinds:
        sae, train = OURS[kind]
        train = TrainConfig(steps=steps, batch_size=BATCH, **({"lr_decay": 0.2, "dead_rows": 50_000} | train))
        learners[kind] = Learner(SaeConfig(d_in=D_IN, d_sae=D_SAE, seed=seed, **sae), train, b_dec=median)
    for step in range(steps):
        x = torch.from_numpy(truth.rows(step * BATCH, (step + 1) * BATCH))
        for learner in learners.values():
            learner.step(x)
    return {kind: learner.dictionary() for kind, learner in learners.items()}


def train_theirs(kind: str, seed: int, steps: int, threads: int, directory: Path) -> monosem.Sae:
    architecture, values = THEIRS[kind]
    train = OURS[kind][1]
    job = {
        "architecture": architecture, "values": values | {"d_in": D_IN, "d_sae": D_SAE, "decoder_init_norm": 0.5},
        "warm_up": train.get("sparsity_warmup", 0.0), "lr": train["lr"], "seed": seed, "steps": steps, "batch": BATCH,
        "init_rows": INIT_ROWS, "threads": threads, "directory": str(directory),
    }  # fmt: skip
    script = Path(__file__).with_name("truth_saelens.py")
    subprocess.run([PEERS, script, json.dumps(job)], check=True, env={"PYTHONPATH": str(script.parents[2])})
    return monosem.load(str(directory))


def trained(args: argparse.Namespace, truth: Truth, seed: int) -> Iterator[tuple[str, str, monosem.Sae]]:
    """(who, kind, dictionary) of all that take the exam."""
    if "monosem" in args.who:
        for kind, sae in train_ours(args.kinds, truth, seed, args.steps).items():
            yield "monosem", kind, sae
    for kind in args.kinds if "SAELens" in args.who else []:
        with tempfile.TemporaryDirectory() as directory:
            yield "SAELens", kind, train_theirs(kind, seed, args.steps, args.threads, Path(directory) / "sae")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--who", nargs="+", choices=["monosem", "SAELens"], default=["monosem", "SAELens"])
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    found: dict[str, dict[str, list[dict]]] = {kind: {"monosem": [], "SAELens": []} for kind in args.kinds}
    for seed in args.seeds:
        truth, seen = Truth(TruthConfig(seed=seed)), args.steps * BATCH
        for who, kind, sae in trained(args, truth, seed):
            marks = score(sae, truth, seen, seen + MARKING_ROWS)
            found[kind][who].append(marks.as_dict())
            sys.stdout.write(
                f"seed {seed}  {kind:18} {who:8} found {marks.recovered:.3f}  mcc {marks.mcc:.3f}  L0 {marks.l0:5.1f}"
                f"  fvu {marks.fvu:.3f}  dead {marks.dead:.2f}\n"
            )
            sys.stdout.flush()
    for kind, by in found.items():
        means = {who: statistics.mean(m["recovered"] for m in marks) for who, marks in by.items() if marks}
        sys.stdout.write(f"{kind:18} " + "  ".join(f"{who} {value:.3f}" for who, value in means.items()) + "\n")
    sys.stdout.write(json.dumps({"steps": args.steps, "torch": torch.__version__, "found": found}) + "\n")


if __name__ == "__main__":
    main()
