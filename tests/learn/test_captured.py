"""A GPU's step as a graph: the same bits as without, whatever room it makes. The programs run in Triton's interpreter,
and "graphs" are the plain repetition of a step, unless there is a GPU."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from monosem.config.job import TrainConfig
from monosem.learn import adam, captured, learner
from monosem.learn.captured import Captured, roomy
from monosem.learn.learner import Learner
from monosem.sae import slot
from monosem.sae.config import SaeConfig
from monosem.sae.heads import base

gpu = pytest.importorskip("monosem.sae.kernels.gpu", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
D, F, B, STEPS = 4, 20, 10, 6
CASES = {
    "relu": {"l1_coefficient": 0.01},
    "relu by decoder norm": {"error": "sum", "decoder": "free", "l1_weight": "decoder_norm", "l1_coefficient": 0.1},
    "topk": {"variant": "topk", "k": 3, "aux_coefficient": 0.0},
    "jumprelu": {"variant": "jumprelu", "bandwidth": 0.2, "l0_coefficient": 0.01, "threshold_init": 0.1},
    "gated": {"variant": "gated", "l1_coefficient": 0.01},
}


def repeated(body, pool):
    """What `captured.record` gives, without a GPU."""
    told = torch.zeros(5)
    return (lambda: told.copy_(body())), told


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    if DEVICE == "cpu":
        for module in (adam, captured, learner, slot, base):
            monkeypatch.setattr(module, "kernels_for", lambda device: gpu)


def made(case: str, graphs: bool, slots: int = 1, train: dict | None = None) -> Learner:
    settings = {"batch_size": B, "lr": 1e-2, "sparse_share": 0.9, "steps": STEPS, "lr_decay": 0.5} | (train or {})
    one = Learner(SaeConfig(d_in=D, d_sae=F, **CASES[case]), TrainConfig(**settings), DEVICE, slots=slots)
    one.captured = None
    if graphs:
        one.captured = Captured(DEVICE, captured.record if DEVICE == "cuda" else repeated)
        one.manner = replace(one.manner, expected=one.captured.asking)
    one.sae.b_enc.fill_(-0.3)
    return one


def batch(n: int) -> torch.Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(n)).to(DEVICE)


def run(one: Learner, batches: list[torch.Tensor]) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in one.step(x).items()} for x in batches]


def same(a: Learner, b: Learner) -> bool:
    first, second = a.state(), b.state()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("case", "slots"), [*((case, 1) for case in CASES), ("relu", 2), ("topk", 2)])
def test_the_same_bits_with_graphs_and_without(case, slots):
    plain, graphs = made(case, False, slots), made(case, True, slots)
    batches = [batch(n) for n in range(STEPS)]
    assert run(plain, batches) == run(graphs, batches)
    assert graphs.captured.graphs and same(plain, graphs)


def test_more_entries_than_there_is_room_for_are_a_step_without_a_graph(monkeypatch):
    monkeypatch.setattr(captured, "roomy", lambda n: n + 5)
    plain, graphs = made("relu", False), made("relu", True)
    batches = [batch(0)] * 4 + [4 * batch(1)] + [batch(2)] * 4
    assert run(plain, batches) == run(graphs, batches) and same(plain, graphs)


def test_a_batch_that_is_dense_is_a_step_without_a_graph():
    plain, graphs = (made("relu", on, train={"sparse_share": 0.6}) for on in (False, True))
    dense = batch(3).abs() * graphs.sae.W_enc.T[:1].sign() * 30
    batches = [batch(0)] * 4 + [dense] + [batch(0)] * 4
    plain.sae.b_enc[:15] += 0.2
    graphs.sae.b_enc[:15] += 0.2
    assert run(plain, batches) == run(graphs, batches) and same(plain, graphs)


def test_a_schedule_that_moves_coefficients_makes_no_graphs():
    graphs = made("relu", True, train={"sparsity_warmup": 1.0})
    run(graphs, [batch(n) for n in range(6)])
    assert not graphs.captured.graphs


def test_masked_rows_and_resampling_between_graphs():
    plain, graphs = (made("relu", on, train={"resample_window": 3}) for on in (False, True))
    for one in (plain, graphs):
        run(one, [batch(n) for n in range(5)])
        spoilt = batch(9)
        spoilt[3] = torch.nan
        one.sae.b_enc[7] = -99.0
        run(one, [spoilt, batch(1), batch(2), batch(3)])
        assert one.resample(batch(4)) >= 1
        run(one, [batch(n) for n in range(3)])
    assert graphs.captured.graphs and same(plain, graphs)


def test_few_graphs_are_kept(monkeypatch):
    monkeypatch.setattr(captured, "KEPT", 2)
    monkeypatch.setattr(Captured, "_key", lambda self, n, now, rows: (300 + 10 * (run_steps[0] // 2), now, rows))
    graphs, run_steps, most = made("relu", True), [0], 0
    for n in range(8):
        run_steps[0] = n
        run(graphs, [batch(n)])
        most = max(most, len(graphs.captured.graphs))
    assert most == 2


def test_a_learner_and_its_graphs_go_without_the_collector():
    graphs = made("relu", True)
    if DEVICE == "cpu":  # a graph knows no learner, as what repeats a body does
        graphs.captured.record = lambda body, pool: (lambda: None, body())
    run(graphs, [batch(n) for n in range(4)])
    assert graphs.captured.graphs
    gone = weakref.ref(graphs.captured), weakref.ref(graphs)
    gc.disable()
    try:
        del graphs
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("n", [1, 255, 256, 4000, 165_000, 10**7])
def test_room_is_a_little_more(n):
    assert n * captured.SPARE < roomy(n) <= n * captured.SPARE * 1.15 + 257
    assert len({roomy(m) for m in range(n, 2 * n, max(1, n // 50))}) <= 10
