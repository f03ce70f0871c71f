"""What memory a rank of a learner group holds: an estimate, part by part. The bound is `stages/budget.py`'s.

Of one dictionary on one rank, P_s parameters (`cost.GroupShape.parameters`), fp32 but for the factors of products:

    parameters     4 B P_s
    moments        8 B P_s / R: a rank keeps those of the parameters that it owns (with all-reduce all, 8 B P_s)
    gradients      4 B P_s, times what the fixed tree holds at a time (1 with a slot per rank), and room for the
                   other replicas' sums of what it owns
    factors        2 B per weight that is rounded for a product: the encoder's, and with entries the decoder's
    work           of a dense step some matrices [rows of a slot, f]; of a sparse one a tile of the encoder's product,
                   on a GPU all of it
    clock          8 B per feature: when it last fired

A checkpoint is made in memory before it is written: 12 B of what a rank owns packed, twice for a moment (safetensors
copies its result), and the encoder and its moments once more in the order of the file. Step and checkpoint do not
happen at once, so the larger of them counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from monosem.plan.cost import FLOAT, GroupShape, gradients_alive, is_sparse
from monosem.sae.config import SaeConfig
from monosem.sae.products import TILE_BYTES, TILE_ROWS
from monosem.store.checkpoints import KEEP

CHECKPOINT = 3 * FLOAT
"""Bytes per parameter of a checkpoint: the parameter and its two moments."""
DENSE_WORK = {"relu": 5, "topk": 6, "batch_topk": 7, "matryoshka": 8, "jumprelu": 12, "gated": 12}
"""fp32 matrices [rows of a slot, f] that a dense step of each variant holds at a time. Of relu, topk, jumprelu
and gated by processes' peaks (tests/bench/RESULTS.md)."""
DENSE_MORE = {"l1_power": 4, "tanh": 3}
"""And with a power of the L1 penalty, and with jumprelu's tanh."""
DENSE_AT_FIRST = ("relu", "jumprelu", "gated")
"""Variants whose untrained dictionaries are active in more features than a sparse step takes."""


@dataclass(frozen=True)
class RankMemory:
    """Bytes by part, of one dictionary on one rank. `packed`: its part of a checkpoint; `checkpoint`: what making that
    adds, in place of a step."""

    parameters: int
    moments: int
    gradients: int
    factors: int
    work: int
    clock: int
    packed: int
    checkpoint: int

    @property
    def held(self) -> int:
        """Held from the first step to the last."""
        return self.parameters + self.moments + self.clock

    @property
    def step(self) -> int:
        """What a step adds."""
        return self.gradients + self.factors + self.work

    @property
    def on_device(self) -> int:
        """All of it at its peak where checkpoints are packed elsewhere: on a GPU."""
        return self.held + self.step


def rank_memory(
    sae: SaeConfig, batch_size: int, mesh: GroupShape, precision: str, share: float, starts_dense: bool, l0: float,
    gpu: bool = False,
) -> RankMemory:  # fmt: skip
    """starts_dense: before a dictionary is sparse its steps are dense, and so is their memory."""
    P, f = mesh.parameters(sae), mesh.features(sae.d_sae)
    slot = batch_size // mesh.slots
    owned = mesh.owned(P)
    rounded = 2 if precision == "bf16" else 0
    sparse = is_sparse(sae, l0, share)
    weights = (sae.d_in + sae.width_out) * f
    return RankMemory(
        parameters=FLOAT * P,
        moments=2 * FLOAT * owned,
        gradients=FLOAT * (P * gradients_alive(mesh.slots_of_rank) + rooms(mesh, owned)),
        factors=rounded * weights,
        work=max(
            dense_work(sae, slot, f) if starts_dense or not sparse else 0,
            sparse_work(sae, slot, slot * mesh.slots_of_rank, f, precision, gpu) if sparse else 0,
        ),
        clock=8 * f,
        packed=CHECKPOINT * owned + 8 * f,
        checkpoint=2 * (CHECKPOINT * owned + 8 * f) + CHECKPOINT * sae.d_in * f * owned // P,
    )


def rooms(mesh: GroupShape, owned: int) -> int:
    """Numbers that come from the other replicas at a time: their sums of what this rank owns, and the rows they moved.

    On one machine each writes as many, in memory that all share, as it would get through sockets.
    """
    if mesh.exchange != "tree" or mesh.replicas == 1:
        return 0
    return (sum(mesh.subtrees) - min(mesh.subtrees) + 1) * owned


def dense_work(sae: SaeConfig, slot: int, f: int) -> int:
    matrices = DENSE_WORK[sae.variant]
    matrices += DENSE_MORE["l1_power"] * (sae.variant == "relu" and sae.l1_power != 1.0)
    matrices += DENSE_MORE["tanh"] * (sae.variant == "jumprelu" and sae.sparsity == "tanh")
    return matrices * FLOAT * slot * f


def sparse_work(sae: SaeConfig, slot: int, seen: int, f: int, precision: str, gpu: bool = False) -> int:
    """A tile of a slot's product (the whole of it on a GPU, and where a batch-wide statistic looks at it first), and
    the rows and targets of all slots that the rank sees, which are worked on together."""
    size = 2 if precision == "bf16" else FLOAT
    whole = gpu or sae.variant in ("batch_topk", "matryoshka")
    rows = slot if whole else min(slot, max(TILE_ROWS, TILE_BYTES // (f * size)))
    return rows * f * size + 4 * FLOAT * seen * (sae.d_in + sae.width_out * len(sae.ends))


def storage_bytes(runs: Sequence[SaeConfig]) -> dict[str, int]:
    """Of all dictionaries: one checkpoint, the most that is kept while training, the finished dictionaries."""
    P = sum(run.n_parameters for run in runs)
    F = sum(run.d_sae for run in runs)
    one = CHECKPOINT * P + 8 * F
    return {"checkpoint": one, "kept": (KEEP + 1) * one, "finished": FLOAT * (P + F)}
