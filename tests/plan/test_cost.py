"""Counts of a step against real tensors, torch's own count of FLOPs, and brute force over meshes."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from monosem.config.job import VARIANTS, TrainConfig
from monosem.learn.adam import MOMENTS
from monosem.learn.learner import Learner
from monosem.plan.cost import GroupShape, gradients_alive, is_sparse, step_cost, wire_bytes
from monosem.plan.memory import rank_memory
from monosem.sae.config import SaeConfig
from monosem.sae.model import FEATURE_AXIS
from monosem.sae.tree import tree_sum

B = 64


def config(variant: str = "relu", **more) -> SaeConfig:
    return SaeConfig(**({"d_in": 24, "d_sae": 96, "variant": variant, "k": 4} | more))


def learner(sae: SaeConfig, slots: int = 1, share: float = 0.0) -> Learner:
    return Learner(sae, TrainConfig(batch_size=B, sparse_share=share, lr=1e-6), slots=slots)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_parameters_of_ranks_are_those_of_the_dictionary(variant, shards):
    """Slices of every tensor along its features, one by one, as the ranks hold them."""
    sae, mesh = config(variant), GroupShape(shards=shards)
    tensors = learner(sae).sae.tensors()
    held = []
    for s in range(shards):
        lo, hi = s * sae.d_sae // shards, (s + 1) * sae.d_sae // shards
        held.append(
            sum(
                t.narrow(FEATURE_AXIS[name], lo, hi - lo).numel() if name in FEATURE_AXIS else t.numel()
                for name, t in tensors.items()
            )
        )
    assert max(held) == mesh.parameters(sae)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_rank_holds_what_a_learner_holds(variant):
    sae = config(variant)
    made, memory = learner(sae), rank_memory(sae, B, GroupShape(), "fp32", 0.0, True, 32)
    assert memory.parameters == sum(t.numel() * t.element_size() for t in made.sae.tensors().values())
    moments = [made.adam.moments[name][key] for name in made.sae.tensors() for key in MOMENTS]
    assert memory.moments == sum(t.numel() * t.element_size() for t in moments)
    assert memory.clock == made.last_fired_F.numel() * made.last_fired_F.element_size()


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(
    "sae",
    [
        *(config(v, aux_coefficient=0.0) for v in VARIANTS),
        config("gated", gate_decoder="shared"),
        config("relu", d_sae=24),
        config("relu", transcoder=True, d_out=40),
        config("relu", transcoder=True, skip=True, d_out=40),
    ],
    ids=lambda sae: f"{sae.variant}-{sae.d_sae}-{sae.width_out}-{sae.gate_decoder}-{sae.skip}",
)
def test_flops_of_a_dense_step_are_those_that_torch_counts(sae, slots):
    made, x = learner(sae, slots), torch.randn(B, sae.d_in)
    y = torch.randn(B, sae.width_out) if sae.transcoder else None
    with FlopCounterMode(display=False) as counter:
        made.step(x, y)
    cost = step_cost(sae, B, GroupShape(slots=slots), 32, 0.0)
    assert cost.way == "dense"
    # What is left out is a vector times the encoder (b_dec's gradient) in each slot.
    assert counter.get_total_flops() == pytest.approx(cost.flops, rel=0.02)


def test_a_sparse_step_makes_one_product_and_that_is_counted():
    sae = config("topk", d_sae=24 * 64, aux_coefficient=0.0)
    made, x = learner(sae, share=1 / 16), torch.randn(B, sae.d_in)
    with FlopCounterMode(display=False) as counter:
        made.step(x)
    cost = step_cost(sae, B, GroupShape(), 32, 1 / 16)
    assert cost.way == "sparse"
    assert counter.get_total_flops() == pytest.approx(cost.product, rel=0.05)
    assert cost.gathered == B * sae.k * (3 * sae.width_out + sae.d_in)


@given(replicas=st.integers(1, 9), shards=st.integers(1, 9), extra=st.integers(0, 7))
def test_ranks_together_do_the_work_of_one(replicas, shards, extra):
    """Rows and features of all ranks, dealt out as the groups deal them, cover the step; the plan's is the largest."""
    slots = replicas + extra
    mesh, sae, batch = GroupShape(replicas, shards, slots), config(), slots * 4
    rows = [((r + 1) * slots // replicas - r * slots // replicas) * 4 for r in range(replicas)]
    features = [(s + 1) * sae.d_sae // shards - s * sae.d_sae // shards for s in range(shards)]
    assert sum(rows) == batch and sum(features) == sae.d_sae
    cost = step_cost(sae, batch, mesh, 4, 0.0)
    assert (cost.rows, mesh.features(sae.d_sae)) == (max(rows), max(features))
    assert cost.dense == 10 * max(rows) * max(features) * sae.d_in


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 8, 12, 16])
def test_gradients_alive_by_counting_them(slots):
    alive, most = weakref.WeakSet(), 0

    class Result:
        def __init__(self):
            nonlocal most
            alive.add(self)
            most = max(most, len(alive))

        def __add__(self, other):
            return Result()

    gc.disable()
    tree_sum([Result for _ in range(slots)])
    gc.enable()
    assert gradients_alive(slots) == most


def test_wire():
    sae = config()
    assert wire_bytes(sae, B, GroupShape()).replicas == wire_bytes(sae, B, GroupShape()).shards == 0
    two = wire_bytes(sae, B, GroupShape(2, 1, 2))
    assert two.replicas == 4 * sae.n_parameters  # half of the gradients out, half of the parameters out
    uneven = wire_bytes(sae, B, GroupShape(4, 1, 12))  # three slots are two subtrees
    assert uneven.replicas == 3 * 3 / 4 * 4 * sae.n_parameters
    assert wire_bytes(sae, B, GroupShape(4, 1, 12, "ring")).replicas == 2 * 3 / 4 * 4 * sae.n_parameters
    four = wire_bytes(sae, B, GroupShape(1, 4))
    assert four.shards == 1.5 * B * sae.d_in * 4


def test_which_way_is_the_learners_own():
    for k, sparse in ((6, True), (7, False)):
        sae = config("topk", k=k, d_sae=96)
        made = learner(sae, share=1 / 16)
        with FlopCounterMode(display=False) as counter:
            made.step(torch.randn(B, sae.d_in))
        assert is_sparse(sae, 32, 1 / 16) is sparse
        assert (counter.get_total_flops() < 4 * B * sae.d_in * sae.d_sae) is sparse
