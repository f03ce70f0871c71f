"""What a sweep consists of: its runs, how they are packed, and what names the whole.

Everything here is a pure function of the job; a `SweepSpec` is what an executor and its processes get.
"""

from dataclasses import dataclass
from itertools import product

from monosem.config.job import SweepJob
from monosem.config.load import to_plain
from monosem.rows.order import StreamOrder
from monosem.sae.config import SaeConfig

FREE = {
    "store": None,
    "track": None,
    "stream": ("workers", "shards"),
    "train": ("checkpoint_every",),
    "learner": ("pack_parameters",),
}
"""Fields that may change when a sweep is run again: results do not depend on them."""


@dataclass(frozen=True)
class RunSpec:
    """One dictionary to be trained."""

    name: str
    expansion_factor: int
    sae: SaeConfig


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep: the job, and what its host and corpus turned out to be."""

    job: SweepJob
    order: StreamOrder
    runs: tuple[RunSpec, ...]
    d_in: int
    host_digest: str
    corpus_key: str
    corpus_digest: str
    documents_passed_over: int = 0


def expand_runs(job: SweepJob, d_in: int) -> tuple[RunSpec, ...]:
    """The grid of the job's axes, largest factor last. Names tell what differs: 8x, or 8x-l1_0.004-seed_1."""
    sae = job.sae
    runs = []
    for factor, variant, l1, seed in product(sae.expansion_factor, sae.variant, sae.l1_coefficient, sae.seed):
        name = f"{factor}x"
        name += f"-{variant}" if len(sae.variant) > 1 else ""
        name += f"-l1_{l1:g}" if len(sae.l1_coefficient) > 1 else ""
        name += f"-seed_{seed}" if len(sae.seed) > 1 else ""
        config = SaeConfig(d_in=d_in, d_sae=factor * d_in, l1_coefficient=l1, variant=variant, seed=seed)
        runs.append(RunSpec(name, factor, config))
    return tuple(runs)


def pack_runs(runs: tuple[RunSpec, ...], max_parameters: int) -> list[list[RunSpec]]:
    """Runs into packs, one process each: small ones together up to `max_parameters`, large ones alone."""
    packs: list[list[RunSpec]] = []
    for run in sorted(runs, key=lambda r: r.sae.n_parameters):
        size = sum(r.sae.n_parameters for r in packs[-1]) if packs else 0
        if packs and size + run.sae.n_parameters <= max_parameters:
            packs[-1].append(run)
        else:
            packs.append([run])
    return packs


def training_bytes(run: RunSpec, rows_per_slot: int) -> int:
    """Memory of one run in training: parameters, gradients and two moments, and two slots of activations."""
    return 4 * (4 * run.sae.n_parameters + 2 * rows_per_slot * run.sae.d_sae)


def identity(spec: SweepSpec) -> dict:
    """Everything the results depend on, as plain values: two sweeps with equal identity end with equal bits."""
    job = to_plain(spec.job)
    for section, names in FREE.items():
        if names is None:
            del job[section]
        else:
            for name in names:
                del job[section][name]
    job["host"]["digest"] = spec.host_digest
    job["corpus"]["digest"] = spec.corpus_digest
    del job["host"]["model"], job["corpus"]["source"]  # where they were read from does not matter
    return job


def first_difference(a: object, b: object, path: str = "") -> tuple[str, object, object] | None:
    """The first field in which two identities differ: (path, value in a, value in b)."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            found = first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if a == b else (path, a, b)
