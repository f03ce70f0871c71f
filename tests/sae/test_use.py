"""What a dictionary is for use: the function it was in training, on rows as they come."""

import pytest
import torch

from monosem.config.job import TrainConfig
from monosem.learn.learner import Learner
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae
from monosem.sae.use import for_use

FREE = {"decoder": "free", "init_norm": 0.3, "error": "sum"}
CASES = {
    "relu": {},
    "april": FREE | {"l1_weight": "decoder_norm", "subtract_b_dec": False},
    "topk": {"variant": "topk", "k": 4},
    "topk, free": FREE | {"variant": "topk", "k": 4},
    "jumprelu": {"variant": "jumprelu", "threshold_init": 0.2},
    "jumprelu, free": FREE | {"variant": "jumprelu", "threshold_init": 0.2},
    "gated": {"variant": "gated"},
    "skip transcoder": {"transcoder": True, "skip": True},
}


def random_sae(case: str) -> tuple:
    torch.manual_seed(1)
    sae = init_sae(SaeConfig(d_in=12, d_sae=30, **CASES[case])).to(dtype=torch.float64)
    for name, t in sae.tensors().items():
        if name != "W_enc":
            t += 0.2 * torch.rand(t.shape, dtype=t.dtype)
    return sae, torch.randn(50, 12, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 0.05, 7.0])
@pytest.mark.parametrize("case", CASES)
def test_the_same_function_on_rows_as_they_come(case, scale):
    sae, x = random_sae(case)
    used = for_use(sae, scale)
    assert torch.allclose(used(x), sae(x * scale) / scale, rtol=1e-12, atol=1e-12)
    f, trained = used.encode(x), sae.encode(x * scale) / scale
    if sae.config.decoder == "free" and sae.config.variant != "topk":
        trained = trained * sae.W_dec.norm(dim=1)
        assert torch.allclose(used.W_dec.norm(dim=1), torch.ones(30, dtype=x.dtype))
    assert torch.allclose(f, trained, rtol=1e-12, atol=1e-12)
    assert 0 < int((f > 0).sum()) < f.numel()


@pytest.mark.parametrize("variant", ["batch_topk", "matryoshka"])
def test_batch_wide_variants_are_used_with_the_threshold_they_had(variant):
    torch.manual_seed(0)
    basis = torch.randn(60, 16)
    config = SaeConfig(d_in=16, d_sae=64, variant=variant, k=4)
    learner = Learner(config, TrainConfig(steps=300, batch_size=128, lr=3e-3), scale=0.5)

    def rows(n):
        return (torch.rand(n, 60) * (torch.rand(n, 60) < 0.06)) @ basis

    for _ in range(300):
        metrics = learner.step(rows(128))
    used, x = learner.dictionary(), rows(4000)
    assert used.config.variant == "jumprelu" and len(set(used.threshold.tolist())) == 1
    f = used.encode(x)
    assert abs(float((f > 0).sum(dim=1).float().mean()) - 4) < 0.8
    fvu = float((used(x) - x).square().sum() / (x - x.mean(dim=0)).square().sum())
    assert fvu < 1.3 * float(metrics["fvu"])


def test_rows_of_another_width_are_refused_in_words():
    sae = random_sae("relu")[0]
    with pytest.raises(ValueError, match="rows of width 13: this dictionary reads rows of width 12"):
        sae.encode(torch.zeros(5, 13, dtype=torch.float64))


@pytest.mark.parametrize("variant", ["relu", "topk", "gated", "jumprelu", "batch_topk", "matryoshka"])
def test_a_dictionary_can_be_differentiated(variant):
    """Attribution and steering want the gradient of what it makes; in training form too. A batch may be empty."""
    sae = init_sae(SaeConfig(d_in=12, d_sae=24, variant=variant, k=3), torch.zeros(12))
    x = torch.randn(5, 12, requires_grad=True)
    f = sae.encode(x)
    sae.decode(f, x).square().sum().backward()
    assert x.grad.abs().sum() > 0 and (f > 0).any()
    assert sae.encode(torch.empty(0, 12)).shape == (0, 24)
