"""Entries found tile by tile are those of the whole product: many tiles, ties over their edges, rows with too few, and
rough products that are far off."""

import numpy as np
import pytest
import torch

from monosem.features import tiles
from monosem.features.rough import RoughProduct, factor, slack
from monosem.features.seek import keys_of
from monosem.features.tiles import active_entries
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae

KINDS = (torch.float32, torch.bfloat16)


@pytest.fixture(params=KINDS, ids=str, autouse=True)
def kind(request, monkeypatch):
    """Rough products of either kind, whatever this machine is made for."""
    monkeypatch.setattr(tiles, "rough_kind", lambda: request.param)
    return request.param


def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 7 * 64 * 4)
    monkeypatch.setattr(tiles, "COLUMNS", 64)


def as_array(found, rows: int) -> np.ndarray:
    got = np.zeros((rows, found.features), np.float32)
    got[found.place, np.repeat(np.arange(found.features), np.diff(found.start))] = found.value
    return got


def exact_sae(d_sae: int, **more):
    """Of small whole numbers, so that products are exact and values often equal."""
    torch.manual_seed(d_sae)
    sae = init_sae(SaeConfig(d_in=8, d_sae=d_sae, **more), torch.zeros(8))
    sae.W_enc = torch.randint(-2, 3, (8, d_sae)).float()
    sae.b_enc = torch.randint(-3, 2, (d_sae,)).float()
    return sae


@pytest.mark.parametrize("d_sae", [5, 63, 64, 65, 300])
@pytest.mark.parametrize("k", [1, 5, 64, 200])
@pytest.mark.parametrize("classes", [16, 256])
def test_the_k_largest_of_equal_values_the_first(monkeypatch, d_sae, k, classes):
    small_tiles(monkeypatch)
    monkeypatch.setattr(tiles, "CLASSES", classes)
    sae = exact_sae(d_sae, variant="topk", k=k)
    x = torch.randint(-2, 3, (40, 8)).float()
    x[3] = 0
    found = active_entries(sae, x)
    assert np.array_equal(as_array(found, 40), k_largest(sae, x, k)) and (found.value > 0).all()


def k_largest(sae, x, k: int) -> np.ndarray:
    """By sorting, of exact products; of equal ones the first."""
    pre = (x @ sae.W_enc + sae.b_enc).numpy()
    order = np.argsort(-pre, axis=1, kind="stable")[:, :k]
    wanted = np.zeros_like(pre)
    np.put_along_axis(wanted, order, np.take_along_axis(pre, order, axis=1), axis=1)
    return np.maximum(wanted, 0)


def sought(monkeypatch) -> list[int]:
    """How many rows are sought, each time."""
    rows, real = [], tiles._candidates
    monkeypatch.setattr(tiles, "_candidates", lambda c, x, k, margin: (rows.append(len(x)), real(c, x, k, margin))[1])
    return rows


@pytest.mark.parametrize("rise", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("k", [1, 3, 16, 40])
def test_a_wrong_guess_costs_time_and_nothing_else(monkeypatch, k, rise):
    """Where features grow with their number, or shrink, a tile's share of the k largest is not what it is guessed."""
    small_tiles(monkeypatch)
    rows, sae = sought(monkeypatch), exact_sae(700, variant="topk", k=k)
    sae.b_enc = sae.b_enc + (rise * torch.arange(700) / 16).round()
    x = torch.randint(-2, 3, (300, 8), generator=torch.Generator().manual_seed(k)).float()
    assert np.array_equal(as_array(active_entries(sae, x), 300), k_largest(sae, x, k))
    assert rows[0] == 300 and (rise >= 0 or k < 16 or sum(rows[1:]) > 100)


@torch.no_grad()
def test_few_guesses_are_wrong_where_features_are_in_no_order(monkeypatch):
    small_tiles(monkeypatch)
    rows, sae = sought(monkeypatch), real_sae("topk", d_sae=640, k=30)
    active_entries(sae, torch.randn(2000, 24, generator=torch.Generator().manual_seed(0)))
    assert rows[0] == 2000 and sum(rows[1:]) < 60


@pytest.mark.parametrize("variant", ["relu", "jumprelu", "gated"])
def test_features_of_later_tiles_have_their_own_bounds(monkeypatch, variant):
    small_tiles(monkeypatch)
    sae = exact_sae(150, variant=variant)
    for name, t in sae.extra.items():
        sae.extra[name] = torch.rand_like(t) + 0.25  # never next to a whole number's half
    x = torch.randint(-2, 3, (40, 8)).float()
    found, f = active_entries(sae, x), sae.encode(x).numpy()
    got = as_array(found, 40)
    assert np.array_equal(got > 0, f > 0)
    np.testing.assert_allclose(got, f, rtol=1e-6)
    assert all((np.diff(found.place[a:b]) > 0).all() for a, b in zip(found.start[:-1], found.start[1:], strict=True))


def real_sae(variant: str, d_sae: int = 200, d_in: int = 24, **more):
    """Whose features are seldom active, with biases of all sizes."""
    g = torch.Generator().manual_seed(d_sae)
    sae = init_sae(SaeConfig(d_in=d_in, d_sae=d_sae, variant=variant, **more), torch.zeros(d_in))
    sae.W_enc = torch.randn(d_in, d_sae, generator=g)
    sae.b_enc = torch.randn(d_sae, generator=g) - 2 * d_in**0.5
    for name, t in sae.extra.items():
        sae.extra[name] = torch.rand(t.shape, generator=g)
    return sae


def rows_of(which: str, d_in: int = 24) -> torch.Tensor:
    x = torch.randn(60, d_in, generator=torch.Generator().manual_seed(3))
    if which == "one huge row":
        x[7] *= 1e4
    elif which == "far from zero":  # a bfloat16 has lost what tells these rows apart
        x = x / 16 + 40
    elif which == "tiny":
        x *= 1e-20
    elif which == "beyond bfloat16":
        x[5] *= 1e37
    return x


ROWS = ("plain", "one huge row", "far from zero", "tiny", "beyond bfloat16")


@pytest.mark.parametrize("which", ROWS)
@pytest.mark.parametrize("variant", ["relu", "jumprelu", "gated", "topk"])
@torch.no_grad()
def test_numbers_are_those_of_encode_however_far_off_a_rough_product_is(monkeypatch, variant, which):
    small_tiles(monkeypatch)
    sae, x = real_sae(variant, **({"k": 9} if variant == "topk" else {})), rows_of(which)
    if which == "far from zero":
        sae.b_enc = sae.b_enc - sae.W_enc.sum(dim=0) * 40
    got, f = as_array(active_entries(sae, x), len(x)), sae.encode(x).numpy()
    scale = np.abs(x.double().numpy()).sum(axis=1)[:, None] * 5 + np.abs(sae.b_enc.numpy()).max()
    assert ((got > 0) == (f > 0)).mean() > 0.999 and (np.abs(got - f) <= 1e-6 * scale).all()
    assert ((got[5] > 0) == (f[5] > 0)).all() and ((f[5] > 0).any() or which != "beyond bfloat16")


@torch.no_grad()
def test_no_bit_depends_on_the_kind_of_product(monkeypatch):
    small_tiles(monkeypatch)
    x, found = rows_of("plain"), {}
    for kind in KINDS:
        monkeypatch.setattr(tiles, "rough_kind", lambda kind=kind: kind)
        e = active_entries(real_sae("topk", k=9), x)
        found[kind] = e.place.tobytes(), e.value.tobytes()
    assert len(set(found.values())) == 1


@torch.no_grad()
def test_where_much_is_active_products_are_made_wholly(monkeypatch, kind):
    small_tiles(monkeypatch)
    found = []
    whole = tiles._AboveWholly.find
    monkeypatch.setattr(tiles._AboveWholly, "find", lambda self, lo: (found.append(lo), whole(self, lo))[1])
    sae, x = real_sae("relu"), rows_of("plain")
    active_entries(sae, x)
    seldom = len(found)
    sae.b_enc = sae.b_enc + 2 * 24**0.5
    assert ((as_array(active_entries(sae, x), len(x)) > 0) == (sae.encode(x).numpy() > 0)).mean() > 0.999
    assert len(found) > seldom and (seldom == 0) == (kind == torch.bfloat16)


@pytest.mark.parametrize("which", ROWS[:-1])
@pytest.mark.parametrize("d_in", [1, 24, 700])
def test_a_rough_product_is_off_by_less_than_it_says(kind, which, d_in):
    g = torch.Generator().manual_seed(1)
    W, bias = torch.randn(90, d_in, generator=g), 3 * torch.randn(90, generator=g)
    W[0] = 1 + 2**-9 * 0.999  # which is rounded as far as can be, everywhere the same way
    x = rows_of(which, d_in)
    x[0] = 1 + 2**-9 * 0.999
    product = RoughProduct(x, kind, len(x) * 90)
    product.turn_to(factor(W, bias, kind))
    keys = product.tile(0, len(x))
    rough = torch.from_numpy(keys).view(kind).double()
    assert np.array_equal(keys_of(rough.to(kind)), keys)
    apart = (x.double() @ W.double().T + bias.double() - rough).abs()
    # A value before rounding is within half of itself; taken from what came out of it, a little more.
    allowed = torch.from_numpy(product.off_n).double()[:, None] + rough.abs() * float(product.half)
    assert (apart <= allowed).all()
    if kind == torch.bfloat16 and which == "plain" and d_in == 700:
        assert apart[0, 0] > 0.2 * allowed[0, 0]  # and not by far less


@torch.no_grad()
def test_off_is_in_proportion(kind):
    """To what rounding took off; nothing where nothing was lost but in sums."""
    x, W = torch.ones(3, 8), torch.ones(5, 8)
    none = slack(factor(x, None, kind), factor(W, torch.zeros(5), kind))
    assert (none < 1e-4).all()
    some = slack(factor(x + 2**-9 * 0.999, None, kind), factor(W, torch.zeros(5), kind))
    assert (some > 100 * none).all() == (kind == torch.bfloat16)


def test_tiny_vectors_lose_as_large_a_share():
    """In float32 the squares of what rounding took off would be zero, and so would be the bound."""
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    ones, tiny = (factor(scale * x, torch.zeros(4), torch.bfloat16) for scale in (1.0, 2.0**-80))
    np.testing.assert_allclose(tiny.lost * 2.0**80, ones.lost, rtol=1e-5)
    np.testing.assert_allclose(tiny.length * 2.0**80, ones.length, rtol=1e-5)
