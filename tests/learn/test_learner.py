"""The learner against a plain reading of the recipe, and its state against resumption."""

import numpy as np
import pytest
import torch

from monosem.config.job import TrainConfig
from monosem.errors import Diverged, InputError
from monosem.learn.learner import Learner
from monosem.sae.config import SaeConfig
from monosem.store.tensors import tensors_digest

D, F, B = 12, 48, 64
TRAIN = TrainConfig(batch_size=B, lr=1e-2, resample_window=5)


def batches(n: int) -> list[torch.Tensor]:
    torch.manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(30, D), dim=1)
    return [(torch.rand(B, 30) * (torch.rand(B, 30) < 0.1)) @ directions + 0.2 for _ in range(n)]


def learner(**changes) -> Learner:
    return Learner(SaeConfig(d_in=D, d_sae=F, l1_coefficient=0.003), TRAIN, **changes)


def test_thirty_steps_equal_a_plain_reference():
    """Autograd, torch's own Adam, project the gradient, renormalise: written here step by step in float64."""
    ours = learner(b_dec=torch.full((D,), 0.2))
    p = {name: t.double().clone().requires_grad_(True) for name, t in ours.sae.tensors().items()}
    adam = torch.optim.Adam(p.values(), lr=TRAIN.lr)
    for x in batches(30):
        metrics = ours.step(x)
        xd = x.double()
        f = torch.relu((xd - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
        loss = ((f @ p["W_dec"] + p["b_dec"] - xd) ** 2).mean() + 0.003 * f.sum(dim=1).mean()
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            g, w = p["W_dec"].grad, p["W_dec"]
            g -= (g * w).sum(dim=1, keepdim=True) * w
        adam.step()
        with torch.no_grad():
            p["W_dec"] /= p["W_dec"].norm(dim=1, keepdim=True)
        assert abs(float(metrics["loss"]) - float(loss)) < 1e-5 * float(loss)
    for name, t in ours.sae.tensors().items():
        assert torch.allclose(t.double(), p[name], atol=2e-4), name


def test_decoder_rows_keep_unit_norm():
    one = learner()
    for x in batches(20):
        one.step(x)
    assert torch.allclose(one.sae.W_dec.norm(dim=1), torch.ones(F), atol=1e-6)


def test_it_learns():
    one = learner()
    curve = [float(one.step(x)["fvu"]) for x in batches(400)]
    assert curve[-1] < 0.15 < 0.5 < curve[0]


@pytest.mark.parametrize("stop", range(0, 12, 2))
def test_resuming_at_any_step_changes_no_bit(stop):
    """State out and in at `stop`, before and after a resampling, equals going straight on."""
    xs = batches(12)
    rows = torch.cat(xs[:4])

    def advance(one: Learner, first: int, last: int) -> None:
        for n in range(first, last):
            if n == 7:
                one.resample(rows)
            one.step(xs[n])

    straight = learner()
    advance(straight, 0, 12)
    first = learner()
    advance(first, 0, stop)
    saved = {name: t.clone() for name, t in first.state().items()}
    second = learner()
    second.load_state(saved, stop)
    advance(second, stop, 12)
    assert tensors_digest(second.state()) == tensors_digest(straight.state())


def test_same_seed_same_bits_and_slots_agree():
    a, b, c = learner(), learner(), learner(slots=4)
    for x in batches(10):
        a.step(x), b.step(x), c.step(x)
    assert tensors_digest(a.state()) == tensors_digest(b.state())
    assert torch.allclose(a.sae.W_enc, c.sae.W_enc, atol=1e-4)


def test_metrics_are_what_they_say():
    one = learner()
    x = batches(1)[0]
    before = one.sae.to()
    f = before.encode(x)
    error = (before.decode(f) - x).square()
    metrics = {k: float(v) for k, v in one.step(x).items()}
    assert metrics["mse"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert metrics["l0"] == pytest.approx(float((f > 0).sum() / B), rel=1e-6)
    assert metrics["l1"] == pytest.approx(float(f.sum() / B), rel=1e-5)
    assert metrics["fvu"] == pytest.approx(float(error.sum() / (x - x.mean(0)).square().sum()), rel=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["mse"] + 0.003 * metrics["l1"], rel=1e-5)


def test_a_batch_of_the_wrong_width_and_parameters_that_are_not_finite():
    one = learner()
    with pytest.raises(ValueError, match=r"\[rows, 12\], got \(4, 5\)"):
        one.step(torch.zeros(4, 5))
    one.sae.b_enc[0] = float("nan")
    with pytest.raises(Diverged, match="b_enc"):
        one.check_finite()


def test_nothing_is_written_to_a_batch():
    """Runs of a pack share it, and it may be a view of the stream's own memory."""
    learner = Learner(SaeConfig(d_in=6, d_sae=24, l1_coefficient=0.01), TrainConfig(batch_size=16), slots=2)
    x = torch.rand(16, 6)
    x[3] = torch.nan
    before = x.clone()
    learner.step(x)
    learner.resample(x)
    assert torch.equal(x.nan_to_num(7), before.nan_to_num(7))


def test_masked_rows_count_for_nothing():
    """The gradients are those of the other rows, divided by the whole batch."""
    from monosem.sae.gradients import batch_gradients
    from monosem.sae.init import init_sae

    sae = init_sae(SaeConfig(d_in=6, d_sae=24, l1_coefficient=0.01), torch.rand(6))
    for name, t in sae.tensors().items():
        setattr(sae, name, t.double())
    x = torch.rand(16, 6, dtype=torch.float64)
    bad = torch.zeros(16, dtype=torch.bool)
    bad[[3, 4, 11]] = True
    masked = batch_gradients(sae, x.masked_fill(bad[:, None], 0.0), 4, masked_B=bad)
    rest = batch_gradients(sae, x[~bad], 1)
    for name, g in masked.gradients.items():
        assert torch.allclose(g, rest.gradients[name] * 13 / 16, atol=1e-12), name
    assert torch.equal(masked.fired_F, rest.fired_F) and masked.active == rest.active
    assert masked.squared_error == pytest.approx(float(rest.squared_error))


def test_the_threshold_for_use_is_the_mean_of_the_least_activations(monkeypatch):
    least, follow = [], Learner._follow_threshold
    monkeypatch.setattr(Learner, "_follow_threshold", lambda self, x: (least.append(float(x)), follow(self, x))[1])
    one = Learner(SaeConfig(d_in=D, d_sae=F, variant="batch_topk", k=4), TRAIN)
    for x in batches(7):
        one.step(x)
        assert one.threshold == pytest.approx(sum(least) / len(least), rel=1e-12)


def test_the_threshold_for_use_forgets_what_another_k_wanted():
    """Of a dictionary whose k fell from 32 to 4, and of one whose features grew until the rate was zero."""
    rng = np.random.default_rng(0)
    strengths = rng.exponential(size=(4096, 24)) * (rng.random((4096, 24)) < 0.15)
    x = torch.from_numpy(strengths @ rng.standard_normal((24, D))).float()
    for more in ({"k_start": 24, "k_anneal": 0.5}, {"lr_decay": 0.2}):
        train = TrainConfig(steps=300, batch_size=B, lr=1e-2, **more)
        one = Learner(SaeConfig(d_in=D, d_sae=F, variant="batch_topk", k=4), train)
        for step in range(300):
            at = step * B % (4096 - B)
            one.step(x[at : at + B])
        l0 = float((one.dictionary().encode(x) > 0).sum() / len(x))
        assert l0 == pytest.approx(4, rel=0.1), more


def test_a_mistake_in_the_settings_is_found_in_python_too():
    for wrong in ({"precision": "float32"}, {"lr": 0.0}, {"steps": 0}):
        with pytest.raises(InputError, match=f"TrainConfig: {next(iter(wrong))}="):
            Learner(SaeConfig(d_in=D, d_sae=F), TrainConfig(**wrong))
