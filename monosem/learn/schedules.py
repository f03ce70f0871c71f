"""What changes with the step: pure functions of the step and the config.

A share is a part of `train.steps`; 0 switches a schedule off.
"""

import math

from monosem.config.job import TrainConfig
from monosem.sae.config import SaeConfig
from monosem.sae.heads import Now


def ramp(step: int, steps: float) -> float:
    """1 from `steps` on, below it the step's part of the way; the first step is not 0."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def lr_at(step: int, train: TrainConfig) -> float:
    """Learning rate of step `step` (from 0): linear up over lr_warmup, linear to zero over the last lr_decay."""
    n = train.steps
    down = n * train.lr_decay
    return train.lr * ramp(step, n * train.lr_warmup) * (min(1.0, (n - step) / down) if down > 0 else 1.0)


def steps_with_last_k(steps_done: int, train: TrainConfig) -> int:
    """How many of the steps so far had the k of the end."""
    before = max(0, math.ceil(train.steps * train.k_anneal) - 1) if train.k_start else 0
    return max(0, steps_done - before)


def now_at(step: int, sae: SaeConfig, train: TrainConfig) -> Now:
    """The coefficients of step `step`.

    sparsity   linear from 0 over sparsity_warmup. April 2024: 5 % of the steps
    k          from k_start linearly to k over k_anneal
    power      1 until power_from, then linearly to l1_power at the last step. Karvonen et al. 2024
    """
    n = train.steps
    k = sae.k
    if train.k_start:
        k = round(train.k_start + (sae.k - train.k_start) * ramp(step, n * train.k_anneal))
    power = sae.l1_power
    if power != 1.0:
        start = n * train.power_from
        power = 1.0 + (sae.l1_power - 1.0) * min(1.0, max(0.0, (step + 1 - start) / max(1.0, n - start)))
    return Now(sparsity=ramp(step, n * train.sparsity_warmup), k=k, power=power)
