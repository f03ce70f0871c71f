"""Entries found tile by tile are those of the whole product: many tiles, ties over their edges, rows with too few."""

import numpy as np
import pytest
import torch

from monosem.features import tiles
from monosem.features.tiles import active_entries
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae


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
    monkeypatch.setattr(tiles, "ROWS", 7)
    monkeypatch.setattr(tiles, "COLUMNS", 64)
    monkeypatch.setattr(tiles, "CLASSES", classes)
    sae = exact_sae(d_sae, variant="topk", k=k)
    x = torch.randint(-2, 3, (40, 8)).float()
    x[3] = 0
    found = active_entries(sae, x)
    pre = (x @ sae.W_enc + sae.b_enc).numpy()
    order = np.argsort(-pre, axis=1, kind="stable")[:, :k]
    wanted = np.zeros_like(pre)
    np.put_along_axis(wanted, order, np.take_along_axis(pre, order, axis=1), axis=1)
    got = np.zeros_like(pre)
    got[found.place, np.repeat(np.arange(d_sae), np.diff(found.start))] = found.value
    assert np.array_equal(got, np.maximum(wanted, 0)) and (found.value > 0).all()


@pytest.mark.parametrize("variant", ["relu", "jumprelu", "gated"])
def test_features_of_later_tiles_have_their_own_bounds(monkeypatch, variant):
    monkeypatch.setattr(tiles, "ROWS", 7)
    monkeypatch.setattr(tiles, "COLUMNS", 64)
    sae = exact_sae(150, variant=variant)
    for name, t in sae.extra.items():
        sae.extra[name] = torch.rand_like(t) + 0.25  # never next to a whole number's half
    x = torch.randint(-2, 3, (40, 8)).float()
    found, f = active_entries(sae, x), sae.encode(x).numpy()
    got = np.zeros_like(f)
    got[found.place, np.repeat(np.arange(150), np.diff(found.start))] = found.value
    assert np.array_equal(got > 0, f > 0)
    np.testing.assert_allclose(got, f, rtol=1e-6)
    assert all((np.diff(found.place[a:b]) > 0).all() for a, b in zip(found.start[:-1], found.start[1:], strict=True))
