"""A step leaves nothing that only Python's search for cycles would free: what it holds may be gigabytes."""

import gc

import pytest
import torch

from monosem.learn.mesh import Mesh
from tests.learn.test_mesh import BATCH, VARIANTS, learner_of, rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_leave_no_cycles(variant):
    learner = learner_of(Mesh(), variant, 100, 12, 0.25)

    def work(first: int, end: int) -> None:
        for step in range(first, end):
            x = rows(step)
            learner.step(x, *([torch.tanh(x[:, :9].flip(1))] if learner.config.transcoder else []))
        learner.resample(torch.cat([rows(n) for n in range(4)])[: 4 * BATCH])
        learner.state()

    work(0, 25)  # what is made once, and only from when it is sparse, is made
    gc.collect()
    gc.disable()
    try:
        work(25, 28)
        assert gc.collect() == 0
    finally:
        gc.enable()
