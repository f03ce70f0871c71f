"""Each of the six steps of the paper's resampling, so that leaving one out fails a test."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from monosem.config.job import TrainConfig
from monosem.learn.learner import Learner
from monosem.sae.config import SaeConfig
from monosem.sae.gradients import row_losses
from monosem.sae.heads import Now
from monosem.sae.model import Sae
from monosem.sae.resample import FEATURE_AXIS, draw_rows

D, F = 8, 32


def trained(dead=(3, 17, 30)) -> tuple[Learner, torch.Tensor]:
    """A learner after 12 steps in which the features `dead` never fired."""
    torch.manual_seed(0)
    learner = Learner(SaeConfig(d_in=D, d_sae=F, l1_coefficient=0.01), TrainConfig(batch_size=64, resample_window=10))
    x = torch.randn(400, D)
    learner.sae.b_enc[:] = 1.0
    learner.sae.b_enc[list(dead)] = -1e3
    for i in range(12):
        learner.step(x[i * 16 : i * 16 + 64])
    return learner, x


def test_step_1_only_features_silent_for_the_window_change():
    learner, x = trained()
    learner.last_fired_F[5] = 3  # fired 9 steps ago: within the window
    before = {name: t.clone() for name, t in learner.sae.tensors().items()}
    assert learner.dead(10).nonzero().flatten().tolist() == [3, 17, 30]
    assert learner.resample(x) == 3
    alive = [i for i in range(F) if i not in (3, 17, 30)]
    assert torch.equal(learner.sae.W_enc[:, alive], before["W_enc"][:, alive])
    assert torch.equal(learner.sae.W_dec[alive], before["W_dec"][alive])
    assert torch.equal(learner.sae.b_enc[alive], before["b_enc"][alive])
    assert torch.equal(learner.sae.b_dec, before["b_dec"])


def test_steps_2_and_3_rows_are_drawn_by_squared_loss():
    losses = torch.tensor([0.0, 1.0, 2.0, 3.0])
    counts = np.bincount([int(draw_rows(losses, 1, 0, step)[0]) for step in range(7000)], minlength=4)
    assert counts[0] == 0
    assert np.abs(counts[1:] / 7000 - np.array([1, 4, 9]) / 14).max() < 0.02


def test_rows_are_drawn_without_replacement_and_from_the_present_losses():
    learner, x = trained()
    x[100] *= 1e3  # by far the largest loss
    losses = row_losses(learner.sae, x)
    rows = draw_rows(losses, 300, 0, 12)
    assert len(set(rows.tolist())) == 300
    learner.resample(x)
    expected = (x[100] - learner.sae.b_dec) / (x[100] - learner.sae.b_dec).norm()
    assert torch.allclose(learner.sae.W_dec[3], expected, atol=1e-6)


def test_the_present_loss_has_the_present_coefficients():
    """At the beginning of a warm-up there is next to no sparsity penalty."""
    learner, x = trained()
    learner.config = replace(learner.config, l1_coefficient=100.0)
    learner.sae = Sae.of(learner.config, learner.sae.tensors())
    learner.train = replace(learner.train, sparsity_warmup=1.0)
    now = Now(sparsity=13 / learner.train.steps)
    drawn, at_the_end = (draw_rows(row_losses(learner.sae, x, now=n), 3, 0, 12) for n in (now, None))
    assert drawn.tolist() != at_the_end.tolist()
    assert learner.resample(x) == 3
    expected = x[drawn] - learner.sae.b_dec
    assert torch.allclose(learner.sae.W_dec[[3, 17, 30]], torch.nn.functional.normalize(expected, dim=1), atol=1e-6)


def test_step_4_decoder_rows_are_unit_inputs():
    learner, x = trained()
    learner.resample(x)
    centred = x - learner.sae.b_dec
    centred = centred / centred.norm(dim=1, keepdim=True)
    for feature in (3, 17, 30):
        row = learner.sae.W_dec[feature]
        assert abs(float(row.norm()) - 1) < 1e-6
        assert float((centred @ row).max()) > 1 - 1e-5


def test_step_5_encoder_has_a_fifth_of_the_alive_norm_and_no_bias():
    learner, x = trained()
    alive = [i for i in range(F) if i not in (3, 17, 30)]
    expected = 0.2 * float(learner.sae.W_enc[:, alive].norm(dim=0).mean())
    learner.resample(x)
    for feature in (3, 17, 30):
        column = learner.sae.W_enc[:, feature]
        assert abs(float(column.norm()) - expected) < 1e-6
        assert torch.allclose(column / column.norm(), learner.sae.W_dec[feature], atol=1e-6)
        assert float(learner.sae.b_enc[feature]) == 0.0


def test_step_6_moments_of_exactly_these_features_are_reset():
    learner, x = trained()
    for name, t in learner.state().items():
        if name.startswith("adam."):
            t.fill_(1.0)
    learner.resample(x)
    state = learner.state()
    for key in ("exp_avg", "exp_avg_sq"):
        for name, per_feature in (
            ("W_dec", state[f"adam.W_dec.{key}"][:, 0]),
            ("W_enc", state[f"adam.W_enc.{key}"][0]),
            ("b_enc", state[f"adam.b_enc.{key}"]),
        ):
            assert (per_feature == 0).nonzero().flatten().tolist() == [3, 17, 30], name
        assert (state[f"adam.b_dec.{key}"] == 1).all()


def test_reborn_features_are_not_dead_again_at_once():
    learner, x = trained()
    learner.resample(x)
    assert not learner.dead(10).any() and learner.resample(x) == 0


def test_more_dead_features_than_rows():
    learner, x = trained()
    assert learner.resample(x[:2]) == 2
    assert learner.dead(10).sum() == 1


@pytest.mark.parametrize(
    "more",
    [{"variant": "jumprelu", "threshold_init": 0.01, "bandwidth": 0.5}, {"variant": "gated"}, {"transcoder": True, "d_out": 5}],
)
def test_other_variants_start_anew_in_all_that_a_feature_has(more):
    """Parameters and moments of reborn features alone; a transcoder's decoder rows come from the target."""
    torch.manual_seed(0)
    learner = Learner(SaeConfig(d_in=D, d_sae=F, **more), TrainConfig(batch_size=64, resample_window=10))
    sae, dead = learner.sae, [3, 17, 30]
    sae.b_enc[:] = 1.0
    sae.b_enc[dead] = -1e3
    for name in sae.extra:
        sae.extra[name] += 0.02
    x, y = torch.randn(400, D), torch.randn(400, 5) if sae.config.transcoder else None
    for i in range(12):
        learner.step(x[i * 16 : i * 16 + 64], None if y is None else y[i * 16 : i * 16 + 64])
    before = {name: t.clone() for name, t in learner.state().items()}
    for name in sae.tensors():
        learner.adam.moments[name]["exp_avg_sq"] += 1.0
    assert learner.resample(x, y) == 3
    alive = [i for i in range(F) if i not in dead]
    for name, t in sae.tensors().items():
        if name not in FEATURE_AXIS:
            assert torch.equal(t, before[name])
            continue
        axis, moment = FEATURE_AXIS[name], learner.adam.moments[name]["exp_avg_sq"]
        pick = torch.tensor(alive)
        assert torch.equal(t.index_select(axis, pick), before[name].index_select(axis, pick)), name
        assert not moment.index_select(axis, torch.tensor(dead)).any(), name
        assert (moment.index_select(axis, pick) >= 1.0).all(), name
    starts = {"b_enc": 0.0, "threshold": sae.config.threshold_init, "r_mag": 0.0, "b_mag": 0.0}
    for name in starts.keys() & sae.tensors().keys():
        assert torch.equal(sae.tensors()[name][dead], torch.full((3,), starts[name])), name
    source = x - sae.b_dec if y is None else y - sae.b_dec
    unit = source / source.norm(dim=1, keepdim=True)
    assert all(float((unit @ sae.W_dec[i]).max()) > 1 - 1e-6 for i in dead)
