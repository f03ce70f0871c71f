"""What one training step costs on one rank of a learner group: FLOPs, bytes of memory, bytes on the wire.

A group is a mesh of R replicas and S feature shards. Of a batch of B rows in Q slots a replica takes up to ceil(Q/R)
slots, b rows; a shard holds f = ceil(F/S) features. D is d_in, O the width of the output, P_s the parameters of a
shard, n = b L0 / S its active entries.

    FLOPs, dense    10 b D f (O = D): encoder, decoder, the way back and both weight gradients, 2 each. The 2023 paper's
                    autoencoder needs 12; the gradient by x is not formed (`sae/slot.py`)
    FLOPs, sparse   2 b D f for the encoder's product, and 2 n (3 O + D) at the active entries
    memory          28 B per parameter of the optimiser's (Adam reads four numbers and writes three), 4 B per gradient
                    written, 4 B per weight read, 2 written and 2 read if factors are rounded; the product once written
                    and once read; 4 B per number gathered at entries; 12 B per element of dense matrices
    wire, replicas  gradients to their owners, one for each subtree that the slots of a rank make up (T), and parameters
                    back: (T+1) (R-1)/R 4 B P_s out; by all-reduce T is 1
    wire, shards    all-reduce of the reconstruction: 2 (S-1)/S 4 B b O

A variant that needs a batch-wide statistic makes the encoder's product twice if that is too large to keep between;
gated decodes twice, and with `gate_decoder: shared` has two gradients of the decoder. AuxK and resampling are not
counted: both depend on what dies.
"""

import math
from dataclasses import dataclass

from monosem.config.job import TOP_K, LearnerConfig
from monosem.sae.config import SaeConfig
from monosem.sae.gradients import keeps_products
from monosem.sae.model import FEATURE_AXIS
from monosem.sae.tree import left_of, nodes, share

FLOAT = 4
BATCH_WIDE = ("batch_topk", "matryoshka")


@dataclass(frozen=True)
class GroupShape:
    """R replicas by S feature shards, a batch in Q slots; exchange as in `learner.exchange`."""

    replicas: int = 1
    shards: int = 1
    slots: int = 1
    exchange: str = "tree"

    @classmethod
    def of(cls, learner: LearnerConfig) -> "GroupShape":
        """`replicas: 0` counts as one, the least, until a cluster has been looked at (`stages.spec.settled`)."""
        return cls(max(1, learner.replicas), learner.feature_shards, learner.slots, learner.exchange)

    @property
    def ranks(self) -> int:
        return self.replicas * self.shards

    @property
    def slots_of_rank(self) -> int:
        """Of the replica that has most."""
        return -(-self.slots // self.replicas)

    @property
    def subtrees(self) -> list[int]:
        """Of each replica: how many sums it has for others. With all-reduce it adds its own first."""
        if self.exchange == "ring":
            return [1] * self.replicas
        slots, R = self.slots, self.replicas
        return [len(nodes(slots, *share(slots, R, r))) for r in range(R)]

    def owned(self, parameters: int) -> int:
        """Of so many parameters of a rank, those whose moments it keeps: with all-reduce every replica keeps all."""
        return parameters if self.exchange == "ring" else -(-parameters // self.replicas)

    def rows(self, batch_size: int) -> int:
        """Rows of that replica."""
        return batch_size // self.slots * self.slots_of_rank

    def features(self, d_sae: int) -> int:
        """Of the shard that has most."""
        return -(-d_sae // self.shards)

    def parameters(self, sae: SaeConfig) -> int:
        """Parameters of a rank: its slice of what belongs to features, all of the rest."""
        total = 0
        for name, shape in sae.shapes.items():
            sizes = list(shape)
            if name in FEATURE_AXIS:
                sizes[FEATURE_AXIS[name]] = self.features(sae.d_sae)
            total += math.prod(sizes)
        return total


@dataclass(frozen=True)
class StepCost:
    """Counts of one step on one rank; numbers, not bytes, where nothing else is said.

    rows         b
    gathered     numbers read or added at active entries, n (3 O + D)
    product      FLOPs of the encoder's product
    dense        FLOPs of all products of a dense step, the encoder's too
    elements     of matrices [b, f] that a dense step passes over
    parameters   P_s
    owned        parameters whose moments are here, P_s / R; by all-reduce P_s
    """

    way: str
    rows: int
    gathered: float
    product: int
    dense: int
    elements: int
    parameters: int
    owned: int

    @property
    def flops(self) -> float:
        return self.dense if self.way == "dense" else self.product + 2 * self.gathered

    def bytes(self, precision: str) -> float:
        """Bytes of memory that are read or written."""
        weights = FLOAT + (4 if precision == "bf16" else 0)
        moved = 28 * self.owned + (FLOAT + weights) * self.parameters
        if self.way == "dense":
            return moved + 3 * FLOAT * self.elements
        factor = 2 if precision == "bf16" else FLOAT
        return moved + 2 * factor * self.elements + FLOAT * self.gathered

    def count(self, unit: str) -> float:
        return 1.0 if unit == "one" else getattr(self, unit)


def is_sparse(sae: SaeConfig, l0: float, share: float) -> bool:
    """Whether a settled step works on entries alone (`train.sparse_share`)."""
    active = sae.k if sae.variant in TOP_K else l0
    return share > 0 and active <= share * sae.d_sae


def active_of(sae: SaeConfig, l0: float) -> float:
    """Active features per row: k where the variant has one, else what is assumed; never more than there are."""
    return min(sae.k if sae.variant in TOP_K else l0, sae.d_sae)


def step_cost(sae: SaeConfig, batch_size: int, mesh: GroupShape, l0: float, share: float) -> StepCost:
    """One settled step of one rank."""
    b, f, D, O = mesh.rows(batch_size), mesh.features(sae.d_sae), sae.d_in, sae.width_out  # noqa: E741
    encodes = 2 if sae.variant in BATCH_WIDE and not keeps_products(batch_size, f, mesh.slots) else 1
    decodes = 2 if sae.variant == "gated" else 1
    trains = 2 if sae.variant == "gated" and sae.gate_decoder == "shared" else 1
    product = 2 * b * D * f * encodes
    skip = 4 * b * D * O if sae.skip else 0
    P = mesh.parameters(sae)
    dense = product + 2 * b * f * (O * (2 * decodes + trains) + D) + skip
    n = b * active_of(sae, l0) / mesh.shards
    sparse = is_sparse(sae, l0, share)
    return StepCost(
        way="sparse" if sparse else "dense",
        rows=b,
        gathered=n * (O * (2 * decodes + trains) + D) if sparse else 0.0,
        product=product + (skip if sparse else 0),
        dense=0 if sparse else dense,
        elements=b * f,
        parameters=P,
        owned=mesh.owned(P),
    )


@dataclass(frozen=True)
class Wire:
    """Bytes that a rank sends per step: to the other replicas of its shard, and to the other shards of its replica."""

    replicas: float
    shards: float


def wire_bytes(sae: SaeConfig, batch_size: int, mesh: GroupShape) -> Wire:
    R, S = mesh.replicas, mesh.shards
    return Wire(
        replicas=(max(mesh.subtrees) + 1) * (R - 1) / R * FLOAT * mesh.parameters(sae),
        shards=2 * (S - 1) / S * FLOAT * mesh.rows(batch_size) * sae.width_out * len(sae.ends),
    )


def gradients_alive(n: int) -> int:
    """Gradients that `sae.tree.tree_sum` holds at most while it adds those of n slots."""
    if n == 1:
        return 1
    half = left_of(n)
    return max(gradients_alive(half), 1 + gradients_alive(n - half), 3)
