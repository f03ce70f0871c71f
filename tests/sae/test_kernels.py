"""The kernels on CPU against plain torch: the same entries to the digit, the same sums but for rounding."""

import pytest
import torch

from monosem.sae.kernels import Entries, cpu, plain
from monosem.sae.products import Product
from monosem.threads import torch_threads

FLOATS = (torch.float32, torch.float64)
SHAPES = ((1, 5), (64, 48), (67, 131), (200, 16))
"""Rows and features: less than a block, whole groups, and neither."""


def product(B: int, F: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """An encoder's product and its bias; bfloat16's goes with a float32 bias."""
    torch.manual_seed(seed)
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    return torch.randn(B, F).to(dtype), torch.randn(F).to(wide) - 1.0


def assert_same(one: Entries | None, other: Entries | None) -> None:
    assert (one is None) == (other is None)
    if one is not None:
        for name in ("start_B", "feature_n", "row_n", "pre_n", "start_F", "order_n"):
            a, b = getattr(one, name), getattr(other, name)
            assert a.dtype == b.dtype and torch.equal(a, b), name


@pytest.mark.parametrize("dtype", (*FLOATS, torch.bfloat16))
@pytest.mark.parametrize("B, F", SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_entries_are_those_of_plain_torch(B, F, dtype, threads):
    p, bias = product(B, F, dtype)
    with torch_threads(threads):
        for bound in (torch.zeros(1), torch.rand(F) - 0.5, torch.full((F,), 1e9), torch.full((1,), -1e9)):
            bound = bound.to(bias.dtype)
            assert_same(cpu.above(Product(whole_BF=p), bias, bound, 1.0), plain.above(Product(whole_BF=p), bias, bound, 1.0))
        for k in (1, 3, F - 1, F):
            assert_same(cpu.largest(Product(whole_BF=p), bias, k, 1.0), plain.largest(Product(whole_BF=p), bias, k, 1.0))

@pytest.mark.parametrize("F, k", [(131, 7), (700, 20), (4096, 3)])
def test_entries_of_any_bits(F, k):
    """Every exponent, zeros of both signs, infinities, ties: a bound is compared in another form than it is given in."""
    torch.manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (70, F), dtype=torch.int16)
    p = bits.view(torch.bfloat16).nan_to_num(0.0)
    p[:5] = torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf], dtype=torch.bfloat16)[:, None]
    p[5:30] = torch.randn(25, F).bfloat16()
    scale = 10.0 ** torch.randint(-40, 30, (F,)).float()
    for product in (p, p.float()):
        for bias in (torch.zeros(F), torch.randn(F) * scale, torch.full((F,), -1.0)):
            for bound in (torch.zeros(1), torch.randn(F) * scale, -bias):
                assert_same(
                    cpu.above(Product(whole_BF=product), bias, bound, 1.0),
                    plain.above(Product(whole_BF=product), bias, bound, 1.0),
                )
            assert_same(
                cpu.largest(Product(whole_BF=product), bias, k, 1.0),
                plain.largest(Product(whole_BF=product), bias, k, 1.0),
            )


@pytest.mark.parametrize("F, k", [(130, 4), (130, 130), (1200, 30)])
def test_infinite_values_are_found(F, k):
    """A row that overflows must show in the loss."""
    p, bias = product(6, F, torch.float32)
    p[0], p[3, :5], p[4, : k + 1] = torch.inf, torch.inf, torch.inf
    assert_same(cpu.largest(Product(whole_BF=p), bias, k, 1.0), plain.largest(Product(whole_BF=p), bias, k, 1.0))


@pytest.mark.parametrize("kernels", [cpu, plain])
def test_at_most_that_share_of_a_group(kernels):
    """For groups of rows, not for the whole batch: 40 crowded rows among 640 are too many, spread out they are not."""
    F, zero = 64, torch.zeros(64)
    crowded = -torch.ones(640, F)
    crowded[100:140, :32] = 1
    spread = crowded[torch.arange(640).view(16, 40).T.flatten()]
    assert kernels.above(Product(whole_BF=crowded), zero, zero, 0.1) is None
    assert kernels.above(Product(whole_BF=spread), zero, zero, 0.1) is not None
    block = crowded[100:101].expand(64, F).contiguous()
    assert kernels.above(Product(whole_BF=block), zero, zero, 0.5) is not None
    assert kernels.above(Product(whole_BF=block), zero, zero, 0.499) is None
    assert kernels.largest(Product(whole_BF=block), zero, 16, 0.25) is not None
    assert kernels.largest(Product(whole_BF=block), zero, 17, 0.25) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_values_the_first_features_win(dtype):
    p = torch.tensor([[1.0, 2, 2, 2, 0, 2, 3, 1], [1, 1, 1, 1, 1, 1, 1, 1], [-1, -1, 0, 0, 5, -1, 0, 0]], dtype=dtype)
    for kernels in (cpu, plain):
        found = kernels.largest(Product(whole_BF=p), torch.zeros(8), 3, 1.0)
        assert found.feature_n.tolist() == [1, 2, 6, 0, 1, 2, 4] and found.start_B.tolist() == [0, 3, 6, 7]


@pytest.mark.parametrize("dtype", (*FLOATS, torch.bfloat16))
@pytest.mark.parametrize("n", [1, 7, 500, 10**6])
def test_the_largest_values_are_among_those_found(dtype, n):
    p, bias = product(67, 131, dtype)
    found, expected = (k.largest_values(Product(whole_BF=p), bias, n).sort(descending=True).values for k in (cpu, plain))
    assert torch.equal(found[: len(expected)], expected)
    assert len(found) <= 4 * n + 128 and bool((found > 0).all())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("B, F", SHAPES)
@pytest.mark.parametrize("ends", [(1.0,), (0.25, 0.5, 1.0)])
@pytest.mark.parametrize("rounded", [False, True])
def test_sums_over_entries_are_those_of_plain_torch(B, F, dtype, ends, rounded):
    if rounded and dtype == torch.float64:
        pytest.skip("bfloat16 goes with float32")
    p, bias = product(B, F, dtype)
    at = cpu.above(Product(whole_BF=p), bias, torch.zeros(1, dtype=dtype), 1.0)
    n, wide = len(at.pre_n), 20
    torch.manual_seed(1)
    W, y, v = torch.randn(F, wide).to(dtype), torch.randn(B, wide).to(dtype), torch.randn(n).to(dtype)
    ends = tuple(max(1, int(F * share)) for share in ends)
    table = y
    if rounded:
        W, table = W.bfloat16(), y.bfloat16()
    one, other = (k.decode(at, at.pre_n, W, y, ends, 0.3, True) for k in (cpu, plain))
    for name in ("squares_BP", "g_PBO", "back", "r_BO"):
        close(getattr(one, name), getattr(other, name))
    assert cpu.decode(at, at.pre_n, W, y, ends, 0.3, False).r_BO is None
    a, b = torch.full((F, wide), 7.0, dtype=dtype), torch.full((F, wide), 7.0, dtype=dtype)
    first, last = F // 3, F - 1
    cpu.outer(at, v, table, a, first, last), plain.outer(at, v, table, b, first, last)
    close(a, b)
    assert bool((a[:first] == 7).all()) and bool((a[last:] == 7).all())
    close(cpu.sum_F(at, v), plain.sum_F(at, v)), close(cpu.sum_B(at, v), plain.sum_B(at, v))
    assert torch.equal(cpu.fired_F(at, v), plain.fired_F(at, v))
    both = torch.stack([k.spread(y + 3) for k in (cpu, plain)])
    assert torch.allclose(both, (y - y.mean(0)).square().sum(), atol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("unit", [False, True])
def test_adam_is_torchs(dtype, unit):
    torch.manual_seed(2)
    ours = torch.nn.functional.normalize(torch.randn(37, 20, dtype=dtype), dim=1)
    theirs = ours.double().clone().requires_grad_(True)
    plainly, moments, others = ours.clone(), *([torch.zeros_like(ours) for _ in range(2)] for _ in range(2))
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    for step in range(1, 8):
        g = torch.randn(37, 20, dtype=torch.float64)
        cpu.adam(ours, g.to(dtype), *moments, step, 0.01, 0.8, 0.95, 1e-6, unit)
        plain.adam(plainly, g.to(dtype), *others, step, 0.01, 0.8, 0.95, 1e-6, unit)
        with torch.no_grad():
            theirs.grad = g - (g * theirs).sum(dim=1, keepdim=True) * theirs if unit else g
            adam.step()
            if unit:
                theirs /= theirs.norm(dim=1, keepdim=True)
    for mine in (ours, plainly):
        close(mine.double(), theirs.detach(), 1e-12 if dtype == torch.float64 else 1e-5)


def test_any_number_of_threads_gives_the_same_bits():
    p, bias = product(300, 600, torch.float32)
    W, y = torch.randn(600, 32), torch.randn(300, 32)

    def all_of_it(threads: int) -> list[torch.Tensor]:
        with torch_threads(threads):
            at = cpu.above(Product(whole_BF=p), bias, torch.zeros(1), 1.0)
            out = torch.empty(600, 32)
            cpu.outer(at, at.pre_n, y, out, 0, 600)
            d = cpu.decode(at, at.pre_n, W, y, (600,), 0.3, False)
            return [at.feature_n, at.order_n, out, d.squares_BP, d.g_PBO, d.back, cpu.largest_values(Product(whole_BF=p), bias, 999)]

    for one, other in zip(all_of_it(1), all_of_it(5), strict=True):
        assert torch.equal(one, other)


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float | None = None) -> None:
    tolerance = tolerance or (1e-12 if one.dtype == torch.float64 else 1e-5)
    assert one.shape == other.shape
    assert float((one - other).norm()) <= tolerance * float(other.norm()) + 1e-30
