"""Loss and gradients of every variant against float64 autograd of its written formula."""

import pytest
import torch

from monosem.sae.config import SaeConfig
from monosem.sae.gradients import batch_gradients, row_losses
from monosem.sae.heads import Now
from monosem.sae.init import init_sae
from monosem.sae.model import Sae
from monosem.sae.slot import Manner
from tests.sae.reference import loss_of

APRIL = {"error": "sum", "subtract_b_dec": False, "decoder": "free", "l1_weight": "decoder_norm"}
DEAD = [1, 4, 5, 30, 39]
CASES = {
    "relu": ({"l1_coefficient": 0.01}, {}),
    "relu, warm-up": ({"l1_coefficient": 0.01}, {"sparsity": 0.25}),
    "april 2024": (APRIL | {"l1_coefficient": 0.3}, {}),
    "p-annealed": ({"l1_coefficient": 0.02}, {"power": 0.4}),
    "p-annealed, by norm": ({"l1_coefficient": 0.02, "l1_weight": "decoder_norm"}, {"power": 0.7, "sparsity": 0.5}),
    "topk": ({"variant": "topk", "k": 5}, {}),
    "topk + AuxK": ({"variant": "topk", "k": 5, "aux_k": 3}, {"dead": DEAD}),
    "topk + AuxK, few dead": ({"variant": "topk", "k": 5, "aux_k": 16, "error": "sum"}, {"dead": DEAD}),
    "batch_topk": ({"variant": "batch_topk", "k": 5}, {}),
    "batch_topk + AuxK": ({"variant": "batch_topk", "k": 4, "error": "sum", "subtract_b_dec": False}, {"dead": DEAD}),
    "matryoshka": ({"variant": "matryoshka", "k": 6}, {}),
    "matryoshka + AuxK": ({"variant": "matryoshka", "k": 6, "prefixes": (0.1, 0.3, 1.0)}, {"dead": DEAD}),
    "jumprelu": ({"variant": "jumprelu", "bandwidth": 0.3, "l0_coefficient": 0.02}, {"sparsity": 0.5}),
    "jumprelu, tanh": (
        APRIL | {"variant": "jumprelu", "sparsity": "tanh", "bandwidth": 0.5, "l1_coefficient": 0.2,
                 "pre_act_coefficient": 0.03}, {}),
    "gated": ({"variant": "gated", "l1_coefficient": 0.02}, {"sparsity": 0.7}),
    "gated, summed error": ({"variant": "gated", "l1_coefficient": 0.02, "error": "sum"}, {}),
    "gated, by norm": (APRIL | {"variant": "gated", "l1_coefficient": 0.2}, {"sparsity": 0.7}),
    "gated, shared decoder": (
        {"variant": "gated", "l1_coefficient": 0.2, "l1_weight": "decoder_norm", "gate_decoder": "shared"}, {}),
    "transcoder": ({"transcoder": True, "d_out": 11, "l1_coefficient": 0.01}, {}),
    "skip transcoder": ({"transcoder": True, "d_out": 11, "skip": True, "variant": "topk", "k": 5}, {"dead": DEAD}),
    "jumprelu transcoder": ({"transcoder": True, "variant": "jumprelu", "bandwidth": 0.3}, {}),
    "gated skip transcoder": ({"transcoder": True, "variant": "gated", "skip": True, "error": "sum"}, {}),
    "gated skip transcoder, shared decoder": (
        {"transcoder": True, "variant": "gated", "skip": True, "gate_decoder": "shared"}, {}),
}  # fmt: skip


def example(case: str, dtype=torch.float64, rows=24, d_in=16, d_sae=40) -> tuple[Sae, torch.Tensor, torch.Tensor]:
    """An SAE nothing of which is at its starting point, rows, and targets."""
    torch.manual_seed(0)
    config = SaeConfig(d_in=d_in, d_sae=d_sae, **CASES[case][0])
    sae = init_sae(config, torch.randn(config.width_out) * 0.3)
    for name, t in sae.tensors().items():
        if name not in ("W_dec", "W_enc", "b_dec"):
            t += torch.rand(t.shape) * 0.3
    sae.W_dec *= 0.5 + torch.rand(d_sae, 1)  # nothing in the formulas relies on unit norm
    x = torch.randn(rows, d_in)
    y = torch.randn(rows, config.width_out) if config.transcoder else x
    sae = sae.to(dtype=dtype)
    return sae, x.to(dtype), (x if y is x else y).to(dtype)


WAYS = {"dense": Manner(), "sparse": Manner(sparse_share=1.0)}
"""Matrices always, and entries always, however many."""
either_way = pytest.mark.parametrize("way", WAYS)


def ours(case: str, sae: Sae, x: torch.Tensor, y: torch.Tensor, slots: int = 1, way: str = "dense", **more):
    now = dict(CASES[case][1])
    dead = now.pop("dead", None)
    dead_F = None if dead is None else torch.tensor(dead)
    target = y if sae.config.transcoder else None
    return batch_gradients(sae, x, slots, WAYS[way], now=Now(**now), dead_F=dead_F, y_BO=target, **more)


def autograd(case: str, sae: Sae, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    leaves = {name: t.double().clone().requires_grad_(True) for name, t in sae.tensors().items()}
    now = CASES[case][1]
    dead = torch.tensor(now["dead"]) if "dead" in now else None
    power, sparsity = now.get("power", 1.0), now.get("sparsity", 1.0)
    loss, _ = loss_of(sae.config, leaves, x.double(), y.double(), sparsity, power, dead)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@either_way
@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("case", CASES)
def test_float64_gradients_equal_autograd(case, slots, way):
    sae, x, y = example(case)
    loss, expected = autograd(case, sae, x, y)
    found = ours(case, sae, x, y, slots, way)
    assert list(found.gradients) == list(sae.config.shapes)
    for name, g in found.gradients.items():
        assert float(expected[name].norm()) > 0, f"{name}: the example says nothing"
        assert torch.allclose(g, expected[name], rtol=1e-9, atol=1e-12), name
    assert abs(float(found.loss - loss)) < 1e-9 * abs(float(loss))


@either_way
@pytest.mark.parametrize("case", CASES)
def test_float32_gradients_are_within_1e_4(case, way):
    sae, x, y = example(case, torch.float32, rows=128, d_in=32, d_sae=96)
    loss, expected = autograd(case, sae, x, y)
    found = ours(case, sae, x, y, way=way)
    for name, g in found.gradients.items():
        assert float((g - expected[name]).norm() / expected[name].norm()) < 1e-4, name
    assert abs(float(found.loss) - float(loss)) < 1e-4 * abs(float(loss))


@either_way
@pytest.mark.parametrize("case", CASES)
def test_masked_rows_count_for_nothing(case, way):
    sae, x, y = example(case)
    bad = torch.zeros(24, dtype=torch.bool)
    bad[[0, 7, 23]] = True
    holed = x.masked_fill(bad[:, None], torch.nan)
    target = y.masked_fill(bad[:, None], torch.nan) if sae.config.transcoder else holed
    found = ours(case, sae, holed, target, 4, way, masked_B=bad)
    rest = ours(case, sae, x[~bad], y[~bad], way=way)
    for name, g in found.gradients.items():
        assert torch.allclose(g * 24 / 21, rest.gradients[name], rtol=1e-9, atol=1e-12), name
    assert torch.equal(found.fired_F, rest.fired_F) and int(found.active) == int(rest.active)


@either_way
@pytest.mark.parametrize("case", [c for c, (_, now) in CASES.items() if not now and c != "matryoshka"])
def test_row_losses_average_to_the_loss(case, way):
    """Matryoshka's is that of all features, without the shorter prefixes."""
    sae, x, y = example(case)
    assert abs(float(row_losses(sae, x, WAYS[way], y).mean() - ours(case, sae, x, y, way=way).loss)) < 1e-12


def test_batch_topk_keeps_k_per_row_of_the_batch():
    sae, x, _ = example("batch_topk")
    found = ours("batch_topk", sae, x, x, 4)
    f = sae.encode(x)
    assert int(found.active) == 5 * 24 == int((f > 0).sum())
    assert float(found.least) == float(f[f > 0].min())
    assert len(set((f > 0).sum(dim=1).tolist())) > 1
