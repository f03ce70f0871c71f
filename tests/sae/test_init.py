import torch

from monosem.sae.config import SaeConfig
from monosem.sae.init import geometric_median, init_sae


def test_weights_are_kaiming_uniform_with_unit_decoder_rows():
    sae = init_sae(SaeConfig(d_in=64, d_sae=4096))
    bound = 64**-0.5
    assert sae.W_enc.abs().max() <= bound and abs(float(sae.W_enc.std()) - bound / 3**0.5) < 1e-3
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(4096), atol=1e-6)
    assert not sae.b_enc.any()
    untied = torch.corrcoef(torch.stack([sae.W_enc.flatten(), sae.W_dec.T.flatten()]))[0, 1]
    assert abs(float(untied)) < 0.01


def test_weights_follow_the_seed():
    a, b, c = (init_sae(SaeConfig(d_in=8, d_sae=16, seed=s)) for s in (1, 1, 2))
    assert torch.equal(a.W_enc, b.W_enc) and torch.equal(a.W_dec, b.W_dec)
    assert not torch.equal(a.W_enc, c.W_enc)


def test_geometric_median_has_zero_gradient():
    """At the median the unit vectors to all points sum to zero; and it beats the mean."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(500, 6), 50 + torch.randn(40, 6)])
    m = geometric_median(x).double()
    pull = x.double() - m
    assert float((pull / pull.norm(dim=1, keepdim=True)).sum(dim=0).norm()) < 1e-2
    assert float(pull.norm(dim=1).sum()) < float((x.double() - x.double().mean(dim=0)).norm(dim=1).sum())


def test_geometric_median_of_few_points():
    assert torch.allclose(geometric_median(torch.ones(3, 4)), torch.ones(4))
    line = torch.tensor([[0.0], [1.0], [10.0]])
    assert abs(float(geometric_median(line)) - 1.0) < 1e-3
