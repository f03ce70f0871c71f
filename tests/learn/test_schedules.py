"""Schedules at their corners: first step, last step, and where one part meets the next."""

import pytest
import torch

from monosem.config.job import TrainConfig
from monosem.learn.learner import Learner
from monosem.learn.schedules import lr_at, now_at
from monosem.sae.config import SaeConfig

SAE = SaeConfig(d_in=4, d_sae=8, k=10, l1_power=0.2)


def at(step: int, **train):
    return now_at(step, SAE, TrainConfig(steps=100, **train))


def test_the_learning_rate():
    train = TrainConfig(steps=100, lr=2.0, lr_warmup=0.1, lr_decay=0.2)
    assert [lr_at(s, train) for s in (0, 4, 9, 10, 80)] == [0.2, 1.0, 2.0, 2.0, 2.0]
    assert [lr_at(s, train) for s in (81, 90, 99)] == pytest.approx([1.9, 1.0, 0.1])
    assert {lr_at(s, TrainConfig(steps=100, lr=2.0)) for s in range(100)} == {2.0}


def test_the_sparsity_coefficient():
    assert [at(s, sparsity_warmup=0.05).sparsity for s in (0, 3, 4, 5, 99)] == [0.2, 0.8, 1.0, 1.0, 1.0]
    assert at(0).sparsity == 1.0 and at(99, sparsity_warmup=1.0).sparsity == 1.0


def test_k_goes_from_k_start_to_k():
    assert [at(s, k_start=50, k_anneal=0.4).k for s in (0, 19, 39, 40, 99)] == [49, 30, 10, 10, 10]
    assert at(0).k == 10


def test_the_power_falls_after_power_from():
    assert [at(s, power_from=0.5).power for s in (0, 49)] == [1.0, 1.0]
    assert [at(s, power_from=0.5).power for s in (50, 74, 99)] == pytest.approx([1 - 0.8 / 50, 0.6, 0.2])
    assert now_at(99, SaeConfig(d_in=4, d_sae=8), TrainConfig(steps=100)).power == 1.0


def test_thresholds_stay_at_or_above_zero():
    learner = Learner(SaeConfig(d_in=4, d_sae=8, variant="jumprelu", bandwidth=1.0), TrainConfig(lr=0.1))
    torch.manual_seed(0)
    for _ in range(5):
        learner.step(3 * torch.randn(64, 4))
    assert float(learner.sae.threshold.min()) == 0.0
