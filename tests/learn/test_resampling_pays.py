"""What resampling is for: eight times more features than dimensions, rows that repeat, and far fewer dead at the end.

The learning rate falls to zero over the run. Features die early, while it is high; those reborn later stay.
"""

import torch

from monosem.config.job import TrainConfig
from monosem.evals.sparsity import measure_sparsity
from monosem.learn.learner import Learner
from monosem.sae.config import SaeConfig
from monosem.sae.init import geometric_median
from monosem.threads import torch_threads
from monosem.truth.generator import Truth, TruthConfig

D, BATCH, STEPS, TEST_ROWS, POOL = 32, 256, 6000, 32768, 30_000
AT = [STEPS * k // 10 for k in range(1, 10)]


def redundant_rows(seed: int) -> torch.Tensor:
    """POOL different rows, drawn again and again: the k-th with probability ~ k^-1/2."""
    truth = Truth(TruthConfig(features=256, d_in=D, active=3.0, zipf=1.0, seed=seed))
    pool = torch.from_numpy(truth.rows(0, POOL))
    weight = (torch.arange(POOL) + 1.0).rsqrt()
    drawn = torch.Generator().manual_seed(seed)
    return pool[torch.multinomial(weight, STEPS * BATCH + TEST_ROWS, replacement=True, generator=drawn)]


def dead_at_the_end(rows: torch.Tensor, seed: int, resample_at: list[int]) -> float:
    train = TrainConfig(steps=STEPS, batch_size=BATCH, lr=0.01, lr_decay=1.0, resample_steps=resample_at,
                        resample_window=200, resample_rows=10_240)  # fmt: skip
    learner = Learner(SaeConfig(d_in=D, d_sae=8 * D, l1_coefficient=0.005, seed=seed), train,
                      b_dec=geometric_median(rows[:4096]))  # fmt: skip
    with torch_threads(1):
        for step in range(STEPS):
            if step in resample_at:
                learner.resample(rows[step * BATCH - train.resample_rows : step * BATCH])
            learner.step(rows[step * BATCH : (step + 1) * BATCH])
        test = rows[STEPS * BATCH :]
        return measure_sparsity(learner.dictionary(), [(test, test)]).dead_fraction


def test_resampling_leaves_at_most_a_fifth_of_the_dead():
    off, on = 0.0, 0.0
    for seed in range(3):
        rows = redundant_rows(seed)
        off += dead_at_the_end(rows, seed, []) / 3
        on += dead_at_the_end(rows, seed, AT) / 3
    assert off > 0.1, "nothing dies: the data are too easy to tell"
    assert on <= off / 5, (on, off)
