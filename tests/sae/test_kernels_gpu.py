"""The Triton kernels against plain torch: on a CUDA device if there is one, else on CPU in Triton's interpreter."""

import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
pytest.importorskip("triton", reason="triton is not installed: it comes with CUDA builds of torch")

from monosem.sae.kernels import gpu, plain  # noqa: E402
from monosem.sae.kernels.entries import Entries  # noqa: E402
from monosem.sae.products import Product  # noqa: E402

LISTS = ("start_B", "feature_n", "row_n", "start_F", "order_n")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks so small that rows have several and the last one is not full, and groups of few rows.

    The interpreter takes a millisecond for every sum, so rows are few.
    """
    monkeypatch.setattr(gpu, "BLOCK", 64)
    monkeypatch.setattr(gpu, "LISTED", 32)
    monkeypatch.setattr(gpu, "CHUNK", 8)
    monkeypatch.setattr(gpu, "PIECE", 16)
    monkeypatch.setattr(gpu, "SPAN", 4)
    for kernels in (gpu, plain):
        monkeypatch.setattr(kernels, "GROUP", 4)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """To 1e-6 of the largest value."""
    return a.shape == b.shape and bool(((a - b).abs() <= 1e-6 * b.abs().amax()).all() if len(b) else True)


def same(found: Entries | None, expected: Entries | None) -> None:
    assert found is not None and expected is not None
    for name in LISTS:
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == torch.int64 and torch.equal(a, b), name
    assert torch.equal(found.pre_n, expected.pre_n)
    assert found.kernels is gpu


def same_bits(first: object, second: object) -> None:
    for field in fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert not isinstance(a, torch.Tensor) or torch.equal(a, b), field.name


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@dataclass
class Case:
    """A product with its bias and bound."""

    product_BF: torch.Tensor
    bias_F: torch.Tensor
    bound_F: torch.Tensor


def case(kind: str, rows: int = 6, features: int = 150) -> Case:
    product, bias = numbers(rows, features), numbers(features, seed=1) / 4
    bound = torch.zeros_like(bias)
    if kind == "sparse":
        bias -= 2
    elif kind == "bound":
        bound = numbers(features, seed=2).abs() * 2
        bound[3], bound[5] = -torch.inf, torch.inf
    elif kind == "empty rows":
        product[::3] = -9
        product[4:6] = -9
    elif kind == "none":
        product -= 99
    elif kind == "full":
        product[1] = product[1].abs() + 2
        product[-1] = 9
    elif kind == "bf16":
        product = product.bfloat16()
    elif kind == "view":  # not contiguous, and beginning in the midst of a row
        product = numbers(features + 9, rows + 3).T[3:, 9:]
    elif kind == "ties":
        product, bias = (product * 2).round(), torch.zeros_like(bias)
    return Case(product, bias, bound)


KINDS = ["plain", "sparse", "bound", "empty rows", "none", "full", "bf16", "view", "ties"]


@pytest.mark.parametrize("kind", KINDS)
def test_above_finds_the_same_entries(kind):
    c = case(kind)
    found = gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0)
    same(found, plain.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0))
    same_bits(found, gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0))


@pytest.mark.parametrize(("rows", "features"), [(0, 70), (1, 1), (1, 64), (4, 65), (10, 33)])
def test_shapes_at_the_edge(rows, features):
    c = case("plain", rows, features)
    if rows:
        same(gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0), plain.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0))
        k = min(3, features)
        same(gpu.largest(Product(whole_BF=c.product_BF), c.bias_F, k, 1.0), plain.largest(Product(whole_BF=c.product_BF), c.bias_F, k, 1.0))
        return
    for found in (gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0), gpu.largest(Product(whole_BF=c.product_BF), c.bias_F, 3, 1.0)):
        assert found.start_B.tolist() == [0] and found.start_F.tolist() == [0] * (features + 1)
        assert len(found.feature_n) == len(found.row_n) == len(found.pre_n) == len(found.order_n) == 0
    assert len(gpu.largest_values(Product(whole_BF=c.product_BF), c.bias_F, 5)) == 0


@pytest.mark.parametrize(("rows", "features", "inputs"), [(5, 70, 20), (19, 64, 64), (1, 33, 5)])
def test_encode_above_is_above_of_the_product(rows, features, inputs, monkeypatch):
    monkeypatch.setattr(gpu, "PRODUCT", (16, 32, 16))
    half = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter's dot takes bfloat16 for integers
    x, W_enc = ((numbers(n, inputs, seed=n) * 2).round() for n in (rows, features))  # sums of integers are exact
    bias, bound = (numbers(features, seed=6) * 2).round(), numbers(features, seed=7).abs() * 9
    inputs = (x.to(half), W_enc.to(half), bias, bound)
    found = gpu.encode_above(*inputs, 1.0)
    same(found, plain.above(Product(whole_BF=x @ W_enc.T), bias, bound, 1.0))
    same_bits(found, gpu.encode_above(*inputs, 1.0))
    assert gpu.encode_above(*inputs, 0.0) is None


def test_a_group_of_rows_with_too_many_entries():
    c = case("none", rows=10, features=50)
    c.product_BF[4:8, :5] = 200  # the second group, at the limit
    for kernels in (plain, gpu):
        assert kernels.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 0.1) is not None
    c.product_BF[6, 37] = 200
    for kernels in (plain, gpu):
        assert kernels.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 0.1) is None
    c.product_BF[4:8], c.product_BF[8:, 20:31] = -99, 200  # the last group, of two rows
    for kernels in (plain, gpu):
        assert kernels.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 0.1) is None


def test_more_of_a_row_than_the_share():
    c = case("plain", rows=10, features=50)
    for kernels in (plain, gpu):
        assert kernels.largest(Product(whole_BF=c.product_BF), c.bias_F, 5, 0.1) is not None
        assert kernels.largest(Product(whole_BF=c.product_BF), c.bias_F, 6, 0.1) is None


def test_groups_are_those_of_every_device(monkeypatch):
    monkeypatch.undo()
    assert gpu.GROUP == plain.GROUP == 64 and gpu.capacity is plain.capacity


@pytest.mark.parametrize(("kind", "k"), [*((kind, 5) for kind in KINDS), ("plain", 1), ("plain", 150), ("ties", 40)])
def test_largest_finds_the_same_entries(kind, k):
    c = case(kind)
    found = gpu.largest(Product(whole_BF=c.product_BF), c.bias_F, k, 1.0)
    same(found, plain.largest(Product(whole_BF=c.product_BF), c.bias_F, k, 1.0))
    if kind in ("bf16", "ties"):
        same_bits(found, gpu.largest(Product(whole_BF=c.product_BF), c.bias_F, k, 1.0))


def test_of_equal_values_the_first_features_win():
    product = torch.full((2, 150), 1.0, device=DEVICE)
    product[0, 100] = 2.0  # one above nine of those that are equal
    product[1, :141] = 0.0  # nine above zero, which itself is none
    found = gpu.largest(Product(whole_BF=product), torch.zeros(150, device=DEVICE), 10, 1.0)
    assert found.feature_n.tolist() == [*range(9), 100, *range(141, 150)]
    assert found.start_B.tolist() == [0, 10, 19]


@pytest.mark.parametrize("n", [1, 90, 100_000])
@pytest.mark.parametrize("kind", KINDS)
def test_largest_values_holds_the_n_largest(kind, n):
    c = case(kind)
    found = gpu.largest_values(Product(whole_BF=c.product_BF), c.bias_F, n)
    expected = plain.largest_values(Product(whole_BF=c.product_BF), c.bias_F, n).sort(descending=True).values
    assert torch.equal(found.sort(descending=True).values[: len(expected)], expected)
    positive = plain.largest_values(Product(whole_BF=c.product_BF), c.bias_F, c.product_BF.numel())
    assert len(found) <= len(positive) and bool((found > 0).all())
    assert torch.equal(found, gpu.largest_values(Product(whole_BF=c.product_BF), c.bias_F, n))


def test_largest_values_leaves_most_of_the_others():
    product = numbers(9, 512)
    found = gpu.largest_values(Product(whole_BF=product), torch.zeros(512, device=DEVICE), 70)
    assert 70 <= len(found) < 140


ENDS = {"one": (150,), "three": (13, 100, 150), "first": (1, 150)}


@pytest.mark.parametrize("width", [20, 64])
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("kind", ["sparse", "plain", "empty rows", "none"])
def test_decode(kind, ends, width):
    c = case(kind)
    at = gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0)
    W_dec, target = numbers(150, width, seed=3), numbers(6, width, seed=4)
    inputs = (at, at.pre_n, W_dec, target, ends, 0.37, True)
    found, expected = gpu.decode(*inputs), plain.decode(*inputs)
    assert close(found.squares_BP, expected.squares_BP)
    for name in ("g_PBO", "r_BO", "back"):
        assert close(getattr(found, name), getattr(expected, name)), name
    same_bits(found, gpu.decode(*inputs))
    assert gpu.decode(*inputs[:-1], False).r_BO is None


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_decode_of_rows_wider_than_a_block(ends, monkeypatch):
    monkeypatch.setattr(gpu, "COLUMNS", 16)
    c = case("sparse")
    at = gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0)
    inputs = (at, at.pre_n, numbers(53, 150, seed=3).T, numbers(6, 53, seed=4), ends, 0.37, True)
    found, expected = gpu.decode(*inputs), plain.decode(*inputs)
    assert close(found.squares_BP, expected.squares_BP)
    for name in ("g_PBO", "r_BO", "back"):
        assert close(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("kind", ["sparse", "plain", "full", "none"])
def test_outer(kind, monkeypatch):
    monkeypatch.setattr(gpu, "COLUMNS", 16 * 4)  # two blocks of columns, the second one not full
    monkeypatch.setattr(gpu, "TILE", 16 * 4)  # features with more entries than are taken at a time, and with fewer
    c = case(kind, rows=21, features=30)
    c.product_BF[:, 11] = 99 if kind != "none" else -99  # longer than two chunks
    at = gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0)
    rows, v_n = numbers(21, 20, seed=3), numbers(len(at.row_n), seed=5)
    out, expected, again = (torch.full((30, 20), 7.0, device=DEVICE) for _ in range(3))
    for kernels, into in ((gpu, out), (plain, expected), (gpu, again)):
        kernels.outer(at, v_n, rows, into, 3, 27)
    assert close(out, expected) and torch.equal(out, again)
    assert bool((out[:3] == 7).all()) and bool((out[27:] == 7).all())


def test_outer_into_a_transposed_view():
    c = case("sparse")
    at = gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0)
    v_n, rows, out, expected = at.pre_n, numbers(6, 20), *(torch.empty(20, 150, device=DEVICE) for _ in range(2))
    gpu.outer(at, v_n, rows, out.T, 0, 150)
    plain.outer(at, v_n, rows, expected.T, 0, 150)
    assert close(out, expected)


@pytest.mark.parametrize("kind", ["sparse", "plain", "full", "none"])
def test_sums_by_feature_and_by_row(kind):
    c = case(kind, rows=40, features=20)
    at = gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0)
    v_n = numbers(len(at.row_n), seed=5)
    assert close(at.sum_F(v_n), plain.sum_F(at, v_n)) and close(gpu.sum_B(at, v_n), plain.sum_B(at, v_n))
    assert torch.equal(at.fired_F(v_n), plain.fired_F(at, v_n))
    assert torch.equal(gpu.sum_F(at, v_n), gpu.sum_F(at, v_n))


def follow_adam(start: torch.Tensor, unit: bool, layout: str) -> list[torch.Tensor]:
    """Six steps of Adam, in float64 by torch's own and by the kernel; both parameters, and the moments of each."""
    settings = {"lr": 0.03, "betas": (0.9, 0.99), "eps": 1e-8}
    theirs = start.double().cpu().requires_grad_(True)
    adam = torch.optim.Adam([theirs], **settings)
    arranged = (lambda t: t.T.contiguous().T) if layout == "transposed" else torch.Tensor.contiguous
    ours, m, v = arranged(start.clone()), arranged(torch.zeros_like(start)), arranged(torch.zeros_like(start))
    for step in range(1, 7):
        grad = numbers(*start.shape, seed=step)
        with torch.no_grad():
            theirs.grad = grad.double().cpu()
            if unit:
                theirs.grad -= (theirs.grad * theirs).sum(dim=1, keepdim=True) * theirs
        adam.step()
        if unit:
            theirs.data /= theirs.data.norm(dim=1, keepdim=True)
        gpu.adam(ours, arranged(grad), m, v, step, 0.03, 0.9, 0.99, 1e-8, unit)
    state = adam.state[theirs]
    return [ours, m, v, theirs.detach(), state["exp_avg"], state["exp_avg_sq"]]


@pytest.mark.parametrize("layout", ["rows", "transposed"])
@pytest.mark.parametrize("unit", [False, True])
def test_adam_is_torchs(unit, layout):
    start = numbers(9, 20)
    ours, m, v, theirs, mean, square = follow_adam(start / start.norm(dim=1, keepdim=True), unit, layout)
    for a, b in ((ours, theirs), (m, mean), (v, square)):
        assert torch.allclose(a.double().cpu(), b, rtol=2e-6, atol=2e-7)
    assert torch.equal(ours, follow_adam(start / start.norm(dim=1, keepdim=True), unit, layout)[0])
    if unit:
        assert torch.allclose(ours.norm(dim=1), torch.ones(9, device=DEVICE), atol=1e-6)


def test_adam_of_a_vector():
    ours, _, _, theirs, _, _ = follow_adam(numbers(70), False, "rows")
    assert torch.allclose(ours.double().cpu(), theirs, rtol=2e-6, atol=2e-7)


def test_adam_takes_one_layout_only():
    a, b = torch.zeros(3, 4, device=DEVICE), torch.zeros(4, 3, device=DEVICE).T
    with pytest.raises(AssertionError):
        gpu.adam(a, b, a, a, 1, 0.1, 0.9, 0.99, 1e-8, False)


def test_blocks_of_their_real_size(monkeypatch):
    monkeypatch.undo()
    c = case("bf16", rows=2, features=1500)
    at = gpu.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0)
    same(at, plain.above(Product(whole_BF=c.product_BF), c.bias_F, c.bound_F, 1.0))
    same(gpu.largest(Product(whole_BF=c.product_BF), c.bias_F, 20, 1.0), plain.largest(Product(whole_BF=c.product_BF), c.bias_F, 20, 1.0))
    values = gpu.largest_values(Product(whole_BF=c.product_BF), c.bias_F, 50).sort(descending=True).values[:50]
    assert torch.equal(values, plain.largest_values(Product(whole_BF=c.product_BF), c.bias_F, 50).sort(descending=True).values)
    W_dec, target, rest = numbers(1500, 70, seed=3), numbers(2, 70, seed=4), ((1500,), 0.37, True)
    found = gpu.decode(at, at.pre_n, W_dec, target, *rest)
    expected = plain.decode(at, at.pre_n.double(), W_dec.double(), target.double(), *rest)  # 700 entries in a row
    for name in ("squares_BP", "g_PBO", "r_BO", "back"):
        assert close(getattr(found, name), getattr(expected, name)), name


def test_every_program_compiles_for_a_gpu_that_need_not_be_there(tmp_path):
    script = Path(__file__).parent / "compile_kernels.py"
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    root = str(script.parents[2])
    environment |= {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    written = Path(gpu.programs.__file__).read_text()
    helpers = {"pre_block", "add_rows", "adam_block"}
    assert {name for name, *_ in lines} | helpers == {name for name in vars(gpu.programs) if f"def {name}(" in written}
    assert {spilled for _, _, spilled, _ in lines} <= {"0", "?"}
