"""Training on the stream's order is as good as on a perfect shuffle; on rows as they lie in the text it is not."""

import numpy as np
import pytest
import torch

from monosem.config.job import TrainConfig
from monosem.dataset.manifest import Dataset
from monosem.dataset.rows import DatasetRows
from monosem.dataset.writer import DatasetWriter, Plan
from monosem.evals.sparsity import measure_sparsity
from monosem.learn.learner import Learner
from monosem.rows.order import StreamOrder, plan_order
from monosem.sae.config import SaeConfig
from monosem.store.store import open_store
from monosem.threads import torch_threads

WIDTH, FEATURES, PER_CONTEXT = 32, 128, 6
CONTEXTS, LENGTH, BATCH = 2048, 32, 256
TRAIN = TrainConfig(steps=1, batch_size=BATCH, lr=1e-3)


def make_rows(contexts: int, seed: int) -> np.ndarray:
    """Rows of a host whose contexts are about few things each: float32 [contexts, LENGTH, WIDTH]."""
    directions = np.random.default_rng(0).standard_normal((FEATURES, WIDTH)) / np.sqrt(WIDTH)
    rng = np.random.default_rng(seed)
    topics = np.stack([rng.permutation(FEATURES)[:PER_CONTEXT] for _ in range(contexts)])
    strength = rng.exponential(size=(contexts, LENGTH, PER_CONTEXT)) * (rng.random((contexts, LENGTH, 1)) < 0.9)
    return np.einsum("ntk,nkd->ntd", strength, directions[topics]).astype(np.float32)


def orders(order: StreamOrder, n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same `n` rows in three orders, as (context, token)."""
    j, rho = order.row(np.arange(n))
    draws = np.stack([order.tokens(int(place)) for place in range(int(j.max()) + 1)])
    context, token = order.context(j), draws[j, rho]
    shuffle, text = np.random.default_rng(1).permutation(n), np.lexsort((token, context))
    return {
        "stream": (context, token),
        "perfect": (context[shuffle], token[shuffle]),
        "sequential": (context[text], token[text]),
    }


def write(path, rows: np.ndarray) -> Dataset:
    plan = Plan(WIDTH, len(rows), 0, "raw", 16384, {"kind": "file"})
    writer = DatasetWriter(open_store(str(path)), "", plan)
    writer.add(rows)
    return writer.finish()


def held_out_fvu(dataset: Dataset, seed: int, held_out: torch.Tensor) -> float:
    learner = Learner(SaeConfig(d_in=WIDTH, d_sae=256, l1_coefficient=0.002, seed=seed), TRAIN)
    reader = DatasetRows(dataset)
    for lo in range(0, dataset.manifest.rows - BATCH + 1, BATCH):
        learner.step(reader.rows(lo, lo + BATCH))
    return measure_sparsity(learner.sae, [(held_out, held_out)]).fvu


@pytest.fixture(scope="module")
def fvu(tmp_path_factory) -> dict[str, np.ndarray]:
    """Held-out FVU by order, of two seeds."""
    order = plan_order(5, CONTEXTS, LENGTH, LENGTH, 4, 8192)
    host = make_rows(CONTEXTS, 1)
    held_out = torch.from_numpy(make_rows(256, 2).reshape(-1, WIDTH))
    n = (order.contexts_per_epoch * LENGTH - order.generations * order.segment_rows) // BATCH * BATCH
    found = {}
    with torch_threads(1):
        for name, (context, token) in orders(order, n).items():
            dataset = write(tmp_path_factory.mktemp(name), host[context, token])
            found[name] = np.array([held_out_fvu(dataset, seed, held_out) for seed in (0, 1)])
    return found


def test_the_stream_is_as_good_as_a_perfect_shuffle(fvu):
    assert fvu["stream"].mean() <= 1.01 * fvu["perfect"].mean(), fvu


def test_rows_as_they_lie_in_the_text_are_clearly_worse(fvu):
    """Else the test above could not tell a good order from a bad one."""
    assert (fvu["sequential"] > 1.10 * fvu["perfect"]).all(), fvu
