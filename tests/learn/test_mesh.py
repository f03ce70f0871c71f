"""Ranks that train one dictionary together: the same bits on any number of replicas, the same curve in any parts."""

import numpy as np
import pytest
import torch

from monosem.config.job import TrainConfig
from monosem.learn.adam import Adam, hold_by_feature
from monosem.learn.learner import Learner
from monosem.learn.mesh import Mesh
from monosem.learn.shares import assembled
from monosem.sae.config import SaeConfig
from monosem.store.tensors import tensors_digest
from tests.learn.ranks import together

D, F, SLOTS, BATCH = 16, 128, 12, 12 * 24
VARIANTS = {
    "relu": ({"l1_coefficient": 0.01}, {"resample_steps": [60, 120], "resample_window": 30}),
    "relu-april": (
        {"l1_weight": "decoder_norm", "l1_coefficient": 0.3, "decoder": "free", "error": "sum",
         "subtract_b_dec": False, "init": "transposed", "init_norm": 0.3},
        {"clip_norm": 1.0},
    ),
    "topk-auxk": ({"variant": "topk", "k": 4, "aux_k": 8}, {"dead_rows": 20 * BATCH}),
    "batch_topk": ({"variant": "batch_topk", "k": 4}, {"dead_rows": 20 * BATCH}),
    "jumprelu": ({"variant": "jumprelu", "bandwidth": 0.2, "l0_coefficient": 0.01, "threshold_init": 0.1}, {}),
    "jumprelu-tanh": (
        {"variant": "jumprelu", "sparsity": "tanh", "bandwidth": 0.4, "l1_coefficient": 0.05, "decoder": "free",
         "pre_act_coefficient": 0.01, "init": "transposed", "init_norm": 0.3, "error": "sum", "subtract_b_dec": False},
        {"clip_norm": 1.0},
    ),
    "matryoshka": ({"variant": "matryoshka", "k": 4, "prefixes": (0.1, 0.4, 1.0)}, {}),
    "gated": ({"variant": "gated", "l1_coefficient": 0.01}, {"clip_norm": 0.5}),
    "p-annealed": ({"l1_coefficient": 0.01, "l1_power": 0.5}, {"power_from": 0.2}),
    "transcoder": ({"transcoder": True, "skip": True, "d_out": 9, "variant": "topk", "k": 4}, {}),
}  # fmt: skip
JUDGED = ("relu", "topk-auxk", "batch_topk", "jumprelu")


def rows(step: int, batch: int = BATCH) -> torch.Tensor:
    """Sparse sums of directions, a constant; some rows masked. float32 [batch, D]."""
    directions = np.random.default_rng(0).standard_normal((40, D)) / 2
    rng = np.random.default_rng(1000 + step)
    strengths = rng.exponential(size=(batch, 40)) * (rng.random((batch, 40)) < 0.1)
    x = torch.from_numpy((strengths @ directions + 0.3).astype(np.float32))
    if step % 7 == 3:
        x[5::31] = torch.nan
    return x


def learner_of(mesh: Mesh, variant: str, steps: int, slots: int, share: float) -> Learner:
    sae, train = VARIANTS[variant]
    config = SaeConfig(d_in=D, d_sae=F, seed=3, **sae)
    train = {"steps": steps, "batch_size": BATCH, "lr": 1e-3, "sparse_share": share, "resample_rows": 4 * BATCH} | train
    return Learner(config, TrainConfig(**train), slots=slots, mesh=mesh)


def trained(
    mesh: Mesh, variant: str, steps: int, slots: int = SLOTS, share: float = 0.25, start: list | None = None,
    double: bool = False, until: int | None = None,
) -> tuple[str, list[float], list]:  # fmt: skip
    """The digest of the dictionary, the losses, and the checkpoint of every rank. double: in float64;
    until: so many steps of them."""
    learner, losses = learner_of(mesh, variant, steps, slots, share), []
    if double:
        learner.sae = hold_by_feature(learner.sae.to(dtype=torch.float64), learner.sae.part)
        learner.adam = Adam(learner.sae, learner.train, learner.own)
    if start:
        at, shares = start
        learner.load_state(assembled(shares, learner.first, learner.end), at)
    for step in range(learner.steps_done, until or steps):
        x = rows(step)
        y = [torch.tanh(x[:, :9].flip(1))] if learner.config.transcoder else []
        if step in learner.train.resample_steps:
            before = torch.cat([rows(n) for n in range(step - 4, step)])
            learner.resample(before)
        losses.append(float(learner.step(x, *y)["loss"]))
    learner.check_finite()
    state = {name: t.clone() for name, t in learner.state().items()}
    return tensors_digest(learner.dictionary().tensors()), losses, (*learner.held(), state)


@pytest.mark.parametrize("replicas", [2, 3, 4])
@pytest.mark.parametrize("variant", JUDGED)
def test_any_number_of_replicas_ends_with_the_same_bits(variant, replicas):
    [(digest, losses, _)] = together(trained, 1, 1, variant, 200)
    for other, theirs, _ in together(trained, replicas, 1, variant, 200):
        assert other == digest and theirs == losses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_on_three_replicas_either_way(variant, share):
    [(digest, losses, _)] = together(trained, 1, 1, variant, 40, SLOTS, share)
    found = together(trained, 3, 1, variant, 40, SLOTS, share)
    assert [other for other, _, _ in found] == [digest] * 3
    assert [theirs for _, theirs, _ in found] == [losses] * 3


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_are_the_same_function_as_the_whole(variant, share, parts):
    """In float64, where rounding does not grow to anything in 100 steps."""
    [(_, losses, _)] = together(trained, 1, 1, variant, 100, 2, share, None, True)
    found = together(trained, 1, parts, variant, 100, 2, share, None, True)
    for digest, theirs, _ in found:
        assert digest == found[0][0] and theirs == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("variant", ["relu", "topk-auxk", "batch_topk"])
def test_parts_follow_the_curve_of_the_whole_in_float32(variant, parts):
    """Not of variants whose features jump at a learnt threshold: there a rounding can switch one on, and has."""
    [(_, losses, _)] = together(trained, 1, 1, variant, 100, 2)
    for _, theirs, _ in together(trained, 1, parts, variant, 100, 2):
        assert theirs == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("variant", ["relu", "topk-auxk"])
def test_a_mesh_of_replicas_and_parts(variant):
    """Two replicas in two parts are, bit for bit, one replica in two parts."""
    one = together(trained, 1, 2, variant, 100)
    four = together(trained, 2, 2, variant, 100)
    assert {digest for digest, _, _ in one + four} == {one[0][0]}


@pytest.mark.parametrize("variant", ["relu", "batch_topk", "transcoder"])
@pytest.mark.parametrize("later", [(2, 1), (1, 2), (1, 1)])
def test_saved_by_many_it_goes_on_with_others(variant, later):
    """Saved on a mesh of 4 after 50 steps and loaded on one of 2 or 1: the curve goes on."""
    replicas, parts = (4, 1) if later == (2, 1) else (1, 4)
    shares = [share for _, _, share in together(trained, replicas, parts, variant, 100, SLOTS, 0.25, None, False, 50)]
    assert sum(hi - lo for lo, hi, _ in shares) == F
    [(digest, losses, _)] = together(trained, 1, 1, variant, 100)
    for other, theirs, _ in together(trained, *later, variant, 100, SLOTS, 0.25, (50, shares)):
        assert theirs == pytest.approx(losses[50:], rel=1e-5)
        if parts == 1:
            assert other == digest


def test_all_reduce_follows_the_curve_too():
    """exchange "ring" gives up the same bits, not the result."""
    [(digest, losses, _)] = together(trained, 1, 1, "relu", 50)
    found = together(trained, 3, 1, "relu", 50, exchange="ring")
    assert len({other for other, _, _ in found}) == 1
    for _, theirs, _ in found:
        assert theirs == pytest.approx(losses, rel=1e-4)


def with_a_masked_slot(mesh: Mesh, variant: str) -> list[float]:
    config = SaeConfig(d_in=D, d_sae=64, variant=variant, k=4)
    learner = Learner(config, TrainConfig(steps=10, batch_size=16, dead_rows=32), slots=4, mesh=mesh)
    x = torch.randn(16, D, generator=torch.Generator().manual_seed(0))
    x[:4] = torch.nan
    return [float(learner.step(x)["loss"]) for _ in range(4)]


@pytest.mark.parametrize("variant", ["relu", "topk", "batch_topk"])
def test_a_slot_without_rows_is_no_trouble_for_parts(variant):
    [losses] = together(with_a_masked_slot, 1, 1, variant)
    for theirs in together(with_a_masked_slot, 1, 2, variant):
        assert theirs == pytest.approx(losses, rel=1e-5)
