"""Whole runs on real activations: time from the first step to the last, and what comes out, in turns on the same batches.

    .venv-peers/bin/python tests/bench/whole_run.py ROWS.npy [--features 4096] [--batch 4096] [--steps 800] [--seeds 1]

ROWS.npy: float32 [rows, d_in], for example from the bundled host:
    .venv/bin/python tests/bench/whole_run.py --harvest ROWS.npy

monosem's ReLU with the recipe of April 2024 against the dense fp32 reference of the same, against plain torch and
against SAELens' standard SAE, which minimise the same loss; and the recipe of 2023 with resampling, sparse and dense.
All see the same batches in the same order (ROWS in a fixed order, again and again) and are measured on the last rows,
which none was trained on. Prints a table and one JSON line: seconds, loss of the April objective, FVU, L0.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from monosem.config.job import TrainConfig
from monosem.learn.learner import Learner
from monosem.memory import keep_freed_memory
from monosem.sae.config import SaeConfig
from monosem.sae.init import geometric_median, input_scale
from tests.bench.contenders import autocast
from tests.bench.timing import say, say_json, versions

L1, LR, TURN, HELD_OUT = 5.0, 1e-3, 20, 16384
APRIL = {"error": "sum", "subtract_b_dec": False, "decoder": "free", "init": "transposed", "init_norm": 0.1,
         "l1_weight": "decoder_norm", "l1_coefficient": L1}  # fmt: skip


@dataclass
class Contender:
    """step(x), reconstruct(x) -> (f, x_hat), and what its steps took so far."""

    step: object
    reconstruct: object
    resample: object = None
    seconds: float = 0.0
    marks: dict = field(default_factory=dict)


def ours(sae: dict, train: dict, median: torch.Tensor, d_in: int, args: argparse.Namespace, seed: int) -> Contender:
    config = SaeConfig(d_in=d_in, d_sae=args.features, seed=seed, **sae)
    settings = TrainConfig(steps=args.steps, batch_size=args.batch, **train)
    learner = Learner(config, settings, b_dec=median)

    def reconstruct(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f = learner.sae.encode(x)
        return f, learner.sae.decode(f)

    return Contender(learner.step, reconstruct, learner.resample)


def plain_torch(median: torch.Tensor, d_in: int, args: argparse.Namespace, seed: int) -> Contender:
    """The April recipe by autograd, factors of products in bfloat16."""
    sae = Learner(SaeConfig(d_in=d_in, d_sae=args.features, seed=seed, **APRIL), TrainConfig(), b_dec=median).sae
    t = {name: v.clone().requires_grad_(True) for name, v in sae.tensors().items()}
    adam = torch.optim.Adam(t.values(), lr=LR, fused=True)
    done = 0

    def reconstruct(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f = torch.relu(x @ t["W_enc"] + t["b_enc"])
        return f, f @ t["W_dec"] + t["b_dec"]

    def step(x: torch.Tensor) -> None:
        nonlocal done
        with autocast(True):
            f, x_hat = reconstruct(x)
        warm = min(1.0, (done + 1) / (0.05 * args.steps))
        norms = t["W_dec"].norm(dim=1)
        loss = (x_hat.float() - x).square().sum(dim=1).mean() + L1 * warm * (f.float() @ norms).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(t.values(), 1.0)
        left = args.steps - done
        adam.param_groups[0]["lr"] = LR * min(1.0, left / (0.2 * args.steps))
        adam.step()
        done += 1

    return Contender(step, reconstruct)


def saelens(median: torch.Tensor, d_in: int, args: argparse.Namespace, bf16: bool) -> Contender:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes import standard_sae
    from sae_lens.training.sae_trainer import SAETrainer

    config = standard_sae.StandardTrainingSAEConfig(
        d_in=d_in, d_sae=args.features, l1_coefficient=L1, l1_warm_up_steps=int(0.05 * args.steps),
        apply_b_dec_to_input=False,
    )  # fmt: skip
    sae = standard_sae.StandardTrainingSAE(config)
    sae.b_dec.data = median.clone()
    settings = SAETrainerConfig(
        total_training_samples=args.steps * args.batch, train_batch_size_samples=args.batch, lr=LR, lr_end=0.0,
        lr_decay_steps=args.steps // 5, autocast=bf16,
    )  # fmt: skip
    trainer = SAETrainer(settings, sae, iter(()))

    def reconstruct(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f = sae.encode(x)
        return f, sae.decode(f)

    def step(x: torch.Tensor) -> None:
        trainer._train_step(sae, x)
        trainer.n_training_steps += 1

    return Contender(step, reconstruct)


def contenders(median: torch.Tensor, d_in: int, args: argparse.Namespace, seed: int) -> dict[str, Contender]:
    april = {"lr": LR, "lr_decay": 0.2, "sparsity_warmup": 0.05, "clip_norm": 1.0}
    old = {"lr": LR, "resample_window": args.steps // 10}
    mean = {"l1_coefficient": L1 / d_in}
    dense = {"sparse_share": 0.0}
    found = {
        "monosem april, sparse bf16": ours(APRIL, april | {"precision": "bf16"}, median, d_in, args, seed),
        "monosem april, dense fp32": ours(APRIL, april | dense, median, d_in, args, seed),
        "monosem 2023, sparse bf16": ours(mean, old | {"precision": "bf16"}, median, d_in, args, seed),
        "monosem 2023, dense fp32": ours(mean, old | dense, median, d_in, args, seed),
    }
    if not args.alone:
        found["plain torch april, bf16"] = plain_torch(median, d_in, args, seed)
        found["SAELens standard, bf16"] = saelens(median, d_in, args, True)
    return {name: c for name, c in found.items() if not args.only or any(word in name for word in args.only)}


def train(found: dict[str, Contender], rows: torch.Tensor, args: argparse.Namespace) -> None:
    """Everyone's steps, some at a time; the 2023 recipe resamples at a quarter and at half of them."""
    n = len(rows) // args.batch

    def batch(step: int) -> torch.Tensor:
        return rows[step % n * args.batch : (step % n + 1) * args.batch]

    for first in range(0, args.steps, TURN):
        for name, one in found.items():
            start = time.perf_counter()
            for step in range(first, min(first + TURN, args.steps)):
                if "2023" in name and step in (args.steps // 4, args.steps // 2):
                    one.resample(torch.cat([batch(step - 1), batch(step - 2)]))
                one.step(batch(step))
            one.seconds += time.perf_counter() - start


@torch.no_grad()
def mark(one: Contender, rows: torch.Tensor) -> dict[str, float]:
    squares = total = active = 0.0
    mean = rows.mean(dim=0)
    for x in rows.split(4096):
        f, x_hat = one.reconstruct(x)
        squares += float((x_hat - x).square().sum())
        total += float((x - mean).square().sum())
        active += float((f > 0).sum())
    return {"fvu": squares / total, "l0": active / len(rows), "seconds": one.seconds}


def harvest(path: Path) -> None:
    """Rows of the bundled host's MLP on its own kind of text, shuffled."""
    import subprocess
    import tempfile

    from monosem.dataset.manifest import open_dataset
    from monosem.dataset.rows import DatasetRows

    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "monosem", "harvest", "jobs/quickstart.yaml", "--inline"]
        values = [f"store={store}", "dataset.rows=450560", "corpus.max_tokens=1_200_000"]
        subprocess.run(command + values, check=True)
        rows = DatasetRows(open_dataset(f"{store}/activations/quickstart/mlp.post")).rows(0, 450560)
        np.save(path, rows.numpy())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("--harvest", action="store_true", help="write ROWS.npy and end")
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without other tools")
    parser.add_argument("--only", nargs="*", default=[], help="contenders whose name holds one of these words")
    args = parser.parse_args()
    if args.harvest:
        return harvest(args.rows)
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    rows = torch.from_numpy(np.load(args.rows))
    rows = rows * input_scale(rows[:HELD_OUT], "sqrt_d")
    rows, held_out = rows[:-HELD_OUT], rows[-HELD_OUT:]
    median, marks = geometric_median(rows[:8192]), {}
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        found = contenders(median, rows.shape[1], args, seed)
        train(found, rows, args)
        for name, one in found.items():
            marks.setdefault(name, []).append(mark(one, held_out))
    say(f"{'contender':28} {'seconds':>8} {'FVU':>8} {'L0':>7}     means of {args.seeds} seeds")
    for name, seen in marks.items():
        mean = {key: sum(m[key] for m in seen) / len(seen) for key in seen[0]}
        say(f"{name:28} {mean['seconds']:8.1f} {mean['fvu']:8.4f} {mean['l0']:7.2f}")
    say_json(
        bench="whole_run", rows=len(rows), features=args.features, batch=args.batch, steps=args.steps, marks=marks,
        versions=versions("numba", "sae-lens"),
    )  # fmt: skip
    return None


if __name__ == "__main__":
    main()
