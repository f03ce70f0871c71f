"""What replicas send each other through sockets: only rows in which something is, with the same bits as all of them."""

import pytest
import torch

from monosem.config.job import TrainConfig
from monosem.learn import swap
from monosem.learn.learner import Learner
from monosem.learn.mesh import Mesh
from monosem.sae.config import SaeConfig
from tests.learn.ranks import together

D, F, BATCH, SLOTS, STEPS = 8, 600, 24, 6, 12


def trained(mesh: Mesh, share: float, least: float) -> tuple[list[torch.Tensor], int]:
    """A dictionary trained through sockets, and how many numbers this rank sent of its sums."""
    sent, post, board = [0], swap.post, mesh.board

    def counted(operations, what, t, peer, group):
        sent[0] += t.numel() if what is torch.distributed.isend else 0
        post(operations, what, t, peer, group)

    mesh.board, swap.post, swap.WORTH_LEAVING = None, counted, least
    try:
        sae = SaeConfig(d_in=D, d_sae=F, variant="topk", k=2, aux_k=8)
        train = TrainConfig(batch_size=BATCH, lr=1e-2, sparse_share=share, steps=STEPS, dead_rows=3 * BATCH)
        learner = Learner(sae, train, slots=SLOTS, mesh=mesh)
        for n in range(STEPS):
            learner.step(torch.randn(BATCH, D, generator=torch.Generator().manual_seed(n)))
        return list(learner.whole().tensors().values()), sent[0]
    finally:
        mesh.board, swap.post, swap.WORTH_LEAVING = board, post, 0.5


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("replicas", [2, 3])
def test_rows_of_zeros_stay_at_home_and_no_bit_changes(replicas, share):
    [(alone, _)] = together(trained, 1, 1, share, 0.5)
    few, all_rows = (together(trained, replicas, 1, share, least) for least in (0.5, 2.0))
    for tensors, _ in [*few, *all_rows]:
        assert all(torch.equal(a, b) for a, b in zip(alone, tensors, strict=True))
    assert sum(n for _, n in few) < 0.5 * sum(n for _, n in all_rows)


def test_a_row_is_touched_by_anything_in_it():
    from monosem.sae.sums import Sums

    nothing = torch.zeros(5)
    W_dec, W_enc = torch.zeros(4, 3), torch.zeros(4, 2)
    W_dec[1, 2], W_enc[2, 0], W_enc[3, 1] = 1e-42, float("nan"), -0.0
    sums = Sums({"W_dec": W_dec, "W_enc": W_enc}, {}, nothing, nothing, nothing, nothing, nothing, nothing)
    assert swap.touched_rows(sums).tolist() == [False, True, True, True]
