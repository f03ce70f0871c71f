"""The plain trainer behind the golden curves: float64, autograd of the written formula, torch's Adam.

    python -m tests.learn.curves        writes golden_curves.json anew
"""

import json
from pathlib import Path

import numpy as np
import torch

from monosem.config.job import TrainConfig
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae
from tests.sae.reference import loss_of

GOLDEN = Path(__file__).parent / "golden_curves.json"
STEPS, BATCH, D, F = 50, 64, 16, 48
FREE = {"error": "sum", "subtract_b_dec": False, "decoder": "free", "init": "transposed", "init_norm": 0.3}
TRAIN = {"steps": STEPS, "batch_size": BATCH, "lr": 3e-3}
CASES = {
    "relu-2023": ({"l1_coefficient": 0.01}, {}),
    "relu-april-2024": (
        FREE | {"l1_weight": "decoder_norm", "l1_coefficient": 0.3},
        {"lr_decay": 0.2, "sparsity_warmup": 0.2, "clip_norm": 1.0},
    ),
    "p-annealed": ({"l1_coefficient": 0.01, "l1_power": 0.5}, {"power_from": 0.2}),
    "topk": ({"variant": "topk", "k": 5, "init": "transposed"}, {"k_start": 12, "k_anneal": 0.5, "lr_warmup": 0.1}),
    "topk-auxk": ({"variant": "topk", "k": 3, "aux_k": 6}, {"dead_rows": 3 * BATCH}),
    "batch_topk": ({"variant": "batch_topk", "k": 5}, {"dead_rows": 5 * BATCH}),
    "matryoshka": ({"variant": "matryoshka", "k": 5, "prefixes": (0.25, 0.5, 1.0)}, {}),
    "jumprelu": (
        {"variant": "jumprelu", "bandwidth": 0.2, "l0_coefficient": 0.01, "threshold_init": 0.1},
        {"sparsity_warmup": 0.5},
    ),
    "jumprelu-tanh": (
        FREE | {"variant": "jumprelu", "sparsity": "tanh", "bandwidth": 0.4, "threshold_init": 0.1,
                "l1_coefficient": 0.2, "pre_act_coefficient": 0.01},
        {"sparsity_warmup": 1.0},
    ),
    "gated": ({"variant": "gated", "l1_coefficient": 0.01}, {"beta1": 0.0}),
    "transcoder": ({"transcoder": True, "skip": True, "d_out": 9, "variant": "topk", "k": 5}, {}),
}  # fmt: skip


def configs(case: str) -> tuple[SaeConfig, TrainConfig]:
    sae, train = CASES[case]
    return SaeConfig(d_in=D, d_sae=F, **sae), TrainConfig(**(TRAIN | train))


def batches() -> list[torch.Tensor]:
    """Rows with structure: sparse sums of 24 directions, and a constant. float32 [BATCH, D] each."""
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((24, D)) / 2
    strengths = rng.exponential(size=(STEPS, BATCH, 24)) * (rng.random((STEPS, BATCH, 24)) < 0.15)
    return [torch.from_numpy((s @ directions + 0.3).astype(np.float32)) for s in strengths]


def targets(x: torch.Tensor, case: str) -> torch.Tensor:
    """The rows themselves, or for the transcoder a function of them."""
    return torch.tanh(x[:, :9].flip(1)) if case == "transcoder" else x


def schedule(step: int, sae: SaeConfig, train: TrainConfig) -> tuple[float, float, int, float]:
    """(lr, sparsity, k, power) in words of one line each, apart from the code under test."""
    n = train.steps
    lr = train.lr
    if train.lr_warmup:
        lr *= min(1, (step + 1) / (train.lr_warmup * n))
    if train.lr_decay:
        lr *= min(1, (n - step) / (train.lr_decay * n))
    sparsity = min(1, (step + 1) / (train.sparsity_warmup * n)) if train.sparsity_warmup else 1.0
    done = min(1, (step + 1) / (train.k_anneal * n))
    k = round(train.k_start * (1 - done) + sae.k * done) if train.k_start else sae.k
    start = train.power_from * n
    past = min(1, max(0, (step + 1 - start) / (n - start)))
    return lr, sparsity, k, 1 + (sae.l1_power - 1) * past


def plain_curve(case: str) -> list[float]:
    """Loss of each of the 50 steps."""
    sae, train = configs(case)
    t = {n: v.double().requires_grad_(True) for n, v in init_sae(sae, torch.zeros(sae.width_out)).tensors().items()}
    adam = torch.optim.Adam(list(t.values()), lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps)
    silent, losses = torch.zeros(F), []
    for step, x in enumerate(batches()):
        x, y = x.double(), targets(x, case).double()
        lr, sparsity, k, power = schedule(step, sae, train)
        now = SaeConfig(**(vars(sae) | {"k": k}))
        dead = (silent * BATCH >= train.dead_rows).nonzero().flatten()
        wants_aux = sae.variant in ("topk", "batch_topk", "matryoshka") and len(dead)
        loss, f = loss_of(now, t, x, y, sparsity, power, dead if wants_aux else None)
        losses.append(float(loss.detach()))
        silent = torch.where((f > 0).any(dim=0), 0.0, silent + 1)
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            constrained_step(sae, train, t, adam, lr)
    return losses


def constrained_step(sae: SaeConfig, train: TrainConfig, t: dict, adam: torch.optim.Adam, lr: float) -> None:
    """Adam, with the decoder's gradient projected and its rows rescaled where they have unit norm."""
    W, unit = t["W_dec"], sae.decoder == "unit"
    if unit:
        W.grad -= (W.grad * W).sum(dim=1, keepdim=True) * W
    if train.clip_norm:
        torch.nn.utils.clip_grad_norm_(list(t.values()), train.clip_norm)
    adam.param_groups[0]["lr"] = lr
    adam.step()
    if unit:
        W /= W.norm(dim=1, keepdim=True)
    if "threshold" in t:
        t["threshold"].clamp_(min=0)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({case: plain_curve(case)[::7] for case in CASES}, indent=1) + "\n")
