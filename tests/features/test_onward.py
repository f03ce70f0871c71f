"""From ablated rows to losses: the loop against float64, and both ways against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from monosem.features import loops, onward, softmax
from monosem.features.ablate import ByToken, Host
from monosem.features.examples import Choice
from monosem.features.merge import pick
from monosem.features.tiles import active_entries
from monosem.host.direct import continuation
from monosem.host.transformer import OneLayerTransformer, TransformerConfig
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae

CONTEXTS, T, VOCABULARY = 8, 32, 301


def test_the_exponential():
    x = -np.abs(np.random.default_rng(0).normal(size=4000)).astype(np.float32) * 30
    x[:3] = 0, -87, -1000
    found = np.array([softmax.exp(v) for v in x])
    np.testing.assert_allclose(found, np.exp(np.maximum(x.astype(np.float64), -87)), rtol=3e-7)


@pytest.mark.parametrize("width", [1, 5, 128, 300, 4096, 50257])
@pytest.mark.parametrize("spread", [0.0, 3.0, 100.0])
def test_the_logarithm_of_a_sum_of_exponentials(width, spread):
    x = (np.random.default_rng(width).normal(size=width) * spread - 40).astype(np.float32)
    wanted = np.logaddexp.reduce(x.astype(np.float64))
    assert abs(softmax.log_sum_exp(x, np.empty(loops.CLASSES, np.float32)) - wanted) < 2e-6


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = OneLayerTransformer(TransformerConfig(vocab_size=VOCABULARY, d_model=16, d_mlp=48, n_heads=2, context_length=T))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # gains and biases that are neither one nor zero
    return made


@pytest.mark.parametrize("point", ["mlp.post", "mlp.out", "resid_post"])
def test_both_ways_agree_however_few_features_at_a_time(model, point, monkeypatch):
    tokens = torch.randint(0, VOCABULARY, (CONTEXTS, T))
    rows = model.capture(tokens, [point])[point].flatten(0, 1)
    sae = init_sae(SaeConfig(d_in=rows.shape[1], d_sae=40, variant="topk", k=6), rows.mean(dim=0))
    found = pick(active_entries(sae, rows.detach()), 0, Choice(), T)
    host = Host(model, point, lambda ids: tokens[torch.from_numpy(ids)], T)
    way = continuation(model, point)
    assert way.last is not None

    def effects(way):
        return ByToken(host, way).effects(found.examples, found.entries, sae.W_dec)

    linear, through = effects(way), effects(replace(way, last=None))
    assert len(found.examples.group) > 500 and np.abs(through.loss).max() > 0.1
    np.testing.assert_allclose(linear.loss, through.loss, atol=1e-5)
    np.testing.assert_allclose(linear.up_values, through.up_values, atol=1e-5)
    np.testing.assert_allclose(linear.down_values, through.down_values, atol=1e-5)
    monkeypatch.setattr(onward, "MOVES_AT_ONCE", 7 * VOCABULARY)
    for name, whole in vars(effects(way)).items():
        np.testing.assert_allclose(whole, getattr(linear, name), atol=1e-5, err_msg=name)


def test_where_more_follows_than_a_norm_there_is_one_way(model):
    assert continuation(model, "mlp.pre").last is None and continuation(model, "resid_mid").last is None
