"""On rows whose features are known, a dictionary that holds them: every number is right by construction.

The host reads a row of the truth for each token id, and its logits are a linear map of the row, so that what a feature
does to them is known in closed form.
"""

import numpy as np
import pytest
import torch

from monosem.features.ablate import ByContext, Host
from monosem.features.entries import cross_products
from monosem.features.examples import Choice
from monosem.features.merge import Correlated, Rows, pearson, pick, sum_entries
from monosem.features.relate import related, stats_of
from monosem.features.tiles import active_entries
from monosem.sae.config import SaeConfig
from monosem.sae.model import Sae
from monosem.truth.generator import Truth, TruthConfig

T, CONTEXTS, V = 32, 64, 50
N = T * CONTEXTS


class TruthHost:
    """A host model whose hook point `rows` holds the truth's row number <token id>; logits [.., V] are rows @ U."""

    context_length, vocab_size = T, N

    def __init__(self, rows: torch.Tensor):
        self.rows = rows
        self.U = torch.randn(rows.shape[1], N, generator=torch.Generator().manual_seed(1)) * 0.3

    def capture(self, tokens, hook_points):
        return dict.fromkeys(hook_points, self.rows[tokens])

    def __call__(self, tokens, edits):
        x = self.rows[tokens]
        return (edits["rows"](x) if "rows" in edits else x) @ self.U


@pytest.fixture(scope="module")
def known():
    """(strengths [N, F], dictionary, entries, picked examples, host)."""
    truth = Truth(TruthConfig(features=24, d_in=64, active=3.0, bias=0.5, seed=4))
    rows, strengths = truth.draw(0, N)
    strengths[:, 20] = 0  # one that never comes
    rows = strengths @ truth.directions + truth.bias
    D = torch.from_numpy(truth.directions)
    sae = Sae(
        SaeConfig(d_in=64, d_sae=24, variant="jumprelu"),
        torch.linalg.pinv(D.double()).float(), torch.zeros(24), D, torch.from_numpy(truth.bias),
        {"threshold": torch.full((24,), 0.25)},
    )  # fmt: skip
    entries = active_entries(sae, torch.from_numpy(rows))
    picked = pick(entries, 0, Choice(top=10, interval=3, bottom=5, sample=N), T)
    return strengths, sae, entries, picked, TruthHost(torch.from_numpy(rows))


def test_densities_and_sums_are_exact(known):
    strengths, _, entries, _, _ = known
    assert np.array_equal(np.diff(entries.start), (strengths > 0).sum(axis=0))
    domain = (np.arange(N) // 500).astype(np.int16)
    sums = sum_entries(entries, domain, 5)
    np.testing.assert_allclose(sums.total, strengths.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(sums.square, np.square(strengths).sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(sums.most, strengths.max(axis=0), rtol=1e-5)
    assert np.array_equal(sums.domains, [[(strengths[domain == k, f] > 0).sum() for k in range(5)] for f in range(24)])


def test_examples_are_the_true_maxima(known):
    strengths, _, _, picked, _ = known
    e = picked.examples
    for f in range(24):
        top = e.place[(e.feature == f) & (e.group == 0)]
        order = np.argsort(-strengths[:, f], kind="stable")[: min(10, (strengths[:, f] > 0).sum())]
        assert top.tolist() == order.tolist()
        bottom = e.place[(e.feature == f) & (e.group == 12)]
        weakest = np.sort(strengths[:, f][strengths[:, f] > 0])[:5]
        np.testing.assert_allclose(np.sort(strengths[bottom, f]), weakest if len(bottom) else [], rtol=1e-5)
    assert not (e.feature == 20).any()


def test_ablation_effects_are_those_of_the_formula(known):
    strengths, sae, entries, picked, host = known
    tokens = torch.arange(N).view(CONTEXTS, T)
    way = ByContext(Host(host, "rows", lambda ids: tokens[torch.from_numpy(ids)], T))
    e = picked.examples
    found = way.effects(e, entries, sae.W_dec)
    logits = (host.rows @ host.U).double().numpy()
    write = (sae.W_dec @ host.U).double().numpy()

    def log_p(row, token):
        return row[token] - np.log(np.exp(row - row.max()).sum()) - row.max()

    for i in range(0, len(e.place), 7):
        f = int(e.feature[i])
        for c in range(e.width[i]):
            p = e.first[i] + c  # the token it is measured on; what is ablated is the token before
            before = strengths[p - 1, f] if p % T else 0
            change = 0.0 if not p % T else log_p(logits[p - 1], p) - log_p(logits[p - 1] - before * write[f], p)
            assert found.loss[i, c] == pytest.approx(change, abs=2e-5)
        effect = -strengths[e.place[i], f] * write[f]
        np.testing.assert_allclose(found.up_values[i], np.sort(effect)[::-1][:5], atol=1e-4)
        np.testing.assert_allclose(found.down_values[i], np.sort(effect)[:5], atol=1e-4)


def test_correlations_are_those_of_the_strengths(known):
    strengths, sae, entries, _, host = known
    x = host.rows.numpy().astype(np.float64)
    rows = Rows(N, x.sum(axis=0), np.square(x).sum(axis=0))
    r = pearson(Correlated(cross_products(entries, host.rows.numpy()), stats_of(entries), rows))
    with np.errstate(invalid="ignore"):
        want = np.corrcoef(strengths.T, x.T)[:24, 24:]
    np.testing.assert_allclose(r[:20], want[:20], atol=1e-5)
    found = related(entries, entries, N, N, sae.W_dec, sae.W_dec)
    first = found.rank == 0
    assert np.array_equal(found.other[first & (found.feature != 20)], found.feature[first & (found.feature != 20)])
    np.testing.assert_allclose(found.r[first & (found.feature != 20)], 1, atol=1e-9)
    np.testing.assert_allclose(found.cosine[first], 1, atol=1e-5)
