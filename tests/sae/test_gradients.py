"""The written-out gradients against float64 autograd of the written formula."""

import pytest
import torch

from monosem.sae.config import SaeConfig
from monosem.sae.gradients import batch_gradients, row_losses
from monosem.sae.init import init_sae
from monosem.sae.model import Sae
from monosem.sae.slot import Manner
from monosem.sae.tree import tree_sum


def example(dtype, rows=24, d_in=16, d_sae=40, l1=0.01) -> tuple[Sae, torch.Tensor]:
    torch.manual_seed(0)
    sae = init_sae(SaeConfig(d_in=d_in, d_sae=d_sae, l1_coefficient=l1), torch.randn(d_in))
    sae.b_enc.normal_(std=0.3)
    sae.W_dec *= 1.7  # nothing in the formula relies on unit norm
    return sae.to(dtype=dtype), torch.randn(rows, d_in).to(dtype)


def autograd(sae: Sae, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """L = mean over rows and elements of (x - x_hat)^2 + l1 * mean over rows of sum |f|."""
    leaves = {name: t.double().clone().requires_grad_(True) for name, t in sae.tensors().items()}
    double = Sae(sae.config, **leaves)
    f = double.encode(x.double())
    loss = (x.double() - double.decode(f)).pow(2).mean() + sae.config.l1_coefficient * f.abs().sum(dim=1).mean()
    loss.backward()
    return loss, {name: t.grad for name, t in leaves.items()}


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_gradients_equal_autograd_in_float64(slots):
    sae, x = example(torch.float64)
    loss, expected = autograd(sae, x)
    result = batch_gradients(sae, x, slots)
    for name, g in result.gradients.items():
        assert torch.allclose(g, expected[name], rtol=1e-9, atol=1e-12), name
    total = result.squared_error / x.numel() + sae.config.l1_coefficient * result.l1 / len(x)
    assert abs(float(total - loss)) < 1e-12


def test_gradients_equal_autograd_in_float32():
    sae, x = example(torch.float32, rows=256, d_in=64, d_sae=256)
    _, expected = autograd(sae, x)
    for name, g in batch_gradients(sae, x, 1).gradients.items():
        assert float((g - expected[name]).norm() / expected[name].norm()) < 1e-5, name


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_bf16_products_are_close(share):
    sae, x = example(torch.float32, rows=256, d_in=64, d_sae=256)
    _, expected = autograd(sae, x)
    for name, g in batch_gradients(sae, x, 1, Manner("bf16", share)).gradients.items():
        error = float((g - expected[name]).norm() / expected[name].norm())
        assert 1e-5 < error < 3e-2, f"{name}: {error}"


def test_what_fired():
    sae, x = example(torch.float64)
    sae.b_enc[:5] = -1e6
    result = batch_gradients(sae, x, 4)
    f = sae.encode(x)
    assert torch.equal(result.fired_F, (f > 0).any(dim=0)) and not result.fired_F[:5].any()
    assert int(result.active) == int((f > 0).sum())


def test_row_losses_average_to_the_loss():
    sae, x = example(torch.float64)
    loss, _ = autograd(sae, x)
    assert abs(float(row_losses(sae, x).mean() - loss)) < 1e-12


def test_slots_must_divide_the_batch():
    sae, x = example(torch.float64)
    with pytest.raises(ValueError, match="24 rows does not divide into 7"):
        batch_gradients(sae, x, 7)


@pytest.mark.parametrize("n", range(1, 18))
def test_tree_pairs_neighbours(n):
    """The tree of n parts: left subtree of the largest power of two below n, the same for any number of ranks."""

    def shape(lo, hi):
        if hi - lo == 1:
            return str(lo)
        half = 1
        while half * 2 < hi - lo:
            half *= 2
        return f"({shape(lo, lo + half)}{shape(lo + half, hi)})"

    class Named(str):
        def __add__(self, other):
            return Named(f"({str.__str__(self)}{str.__str__(other)})")

    assert tree_sum([lambda i=i: Named(i) for i in range(n)]) == shape(0, n)
