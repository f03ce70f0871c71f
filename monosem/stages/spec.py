"""What a sweep consists of: its runs, how they are packed, and what names the whole.

Everything here is a pure function of the job; a `SweepSpec` is what an executor and its processes get.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product

from monosem.config.job import TOP_K, LearnerConfig, SweepJob
from monosem.config.load import to_plain
from monosem.errors import InputError
from monosem.learn.mesh import Seat
from monosem.plan.placement import places_for_ranks, replicas_for
from monosem.rows.order import StreamOrder
from monosem.rows.quality import measure_quality
from monosem.sae.config import SaeConfig
from monosem.store.store import check_path

FREE = {
    "recipe": None,
    "store": None,
    "track": None,
    "dataset": None,
    "features": None,
    "stream": ("workers", "shards", "from", "tee", "ahead_rows", "detach_after_s"),
    "host": ("model", "revision", "outline"),
    "corpus": ("source", "revision", "split"),
    "train": ("checkpoint_every",),
    "learner": ("pack_parameters", "replicas", "feature_shards"),
}
"""Fields that may change when a sweep is run again: results do not depend on them, or only through a digest that stands
in their place (of the host, of the corpus). Two are between: `feature_shards` changes the last bits, and monosem.json
names all that a run had; `replicas` is fixed where the exchange is all-reduce (`identity`)."""


@dataclass(frozen=True)
class RunSpec:
    """One dictionary to be trained. `target`: the hook point that a transcoder reconstructs; None: its own."""

    name: str
    expansion_factor: int
    hook_point: str
    sae: SaeConfig
    target: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The hook points whose rows it trains on."""
        return (self.hook_point,) if self.target is None else (self.hook_point, self.target)


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep: the job, and what its host and corpus turned out to be.

    widths       of a row, by canonical hook point; the target of transcoders is the last one
    aliases      TransformerLens' name of each hook point
    skip_tokens  token ids whose positions are left out
    datasets     digests of the datasets read in place of the host, by hook point; empty if they hold the
                 very rows that the host would give
    unknown_rows hook points whose dataset does not say what its rows are of
    """

    job: SweepJob
    order: StreamOrder
    runs: tuple[RunSpec, ...]
    widths: dict[str, int]
    aliases: dict[str, str]
    skip_tokens: tuple[int, ...]
    host_digest: str
    corpus_key: str
    corpus_digest: str
    documents_passed_over: int = 0
    contexts_passed_over: int = 0
    datasets: dict[str, str] = field(default_factory=dict)
    unknown_rows: tuple[str, ...] = ()

    @property
    def hook_points(self) -> tuple[str, ...]:
        return tuple(self.widths)

    @property
    def rows(self) -> int:
        """Rows that the runs see, from the first of the stream on."""
        return self.job.train.steps * self.job.train.batch_size

    @property
    def last_row(self) -> int:
        """Where the rows end that anything in the sweep reads."""
        return max(self.rows, self.job.train.init_rows)


AXES = {
    "l1_coefficient": ("l1", lambda v, sparsity: v in ("relu", "gated") or (v == "jumprelu" and sparsity == "tanh")),
    "l0_coefficient": ("l0", lambda v, sparsity: v == "jumprelu" and sparsity == "step"),
    "k": ("k", lambda v, sparsity: v in TOP_K),
}
"""Axes that only some variants have: their short name, and whether a variant has it."""


def expand_runs(job: SweepJob, widths: dict[str, int], target: str | None = None) -> tuple[RunSpec, ...]:
    """The grid of the job's axes, largest factor last. Names tell what differs: 8x, or 8x-l1_0.004-seed_1.

    widths  of a row, by hook point
    target  the hook point that transcoders reconstruct

    A variant is repeated only along the axes that it has. InputError for values that no dictionary can have, and
    for names that the store refuses or that two runs would share.
    """
    d_out = None if target is None else widths[target]
    points = [name for name in widths if name != target]
    sae = job.sae
    for name, (_, has) in AXES.items():
        if len(getattr(sae, name)) > 1 and not any(has(v, sae.sparsity) for v in sae.variant):
            raise InputError(f"sae.{name}={getattr(sae, name)}: variant {', '.join(sae.variant)} has no {name}")
    runs = []
    for hook_point, factor, variant in product(points, sae.expansion_factor, sae.variant):
        axes = {n: getattr(sae, n)[: None if has(variant, sae.sparsity) else 1] for n, (_, has) in AXES.items()}
        for *values, seed in product(*axes.values(), sae.seed):
            name = f"{slug(hook_point)}-" if len(points) > 1 else ""
            name += f"{factor}x"
            name += f"-{variant}" if len(sae.variant) > 1 else ""
            chosen = dict(zip(axes, values, strict=True))
            name += "".join(f"-{AXES[n][0]}_{short_name(v)}" for n, v in chosen.items() if len(axes[n]) > 1)
            name += f"-seed_{seed}" if len(sae.seed) > 1 else ""
            chosen |= {"variant": variant, "seed": seed, "transcoder": target is not None, "d_out": d_out}
            config = _sae_config(job, widths[hook_point], factor, **chosen)
            runs.append(RunSpec(name, factor, hook_point, config, target))
    _check_names([run.name for run in runs])
    return tuple(runs)


def check_one_process(c: LearnerConfig) -> None:
    """InputError for what one process cannot do; tree replicas it can be, their bits do not depend on their number."""
    for name, n in (("feature_shards", c.feature_shards), ("replicas", c.replicas if c.exchange == "ring" else 1)):
        if n > 1:
            raise InputError(f"learner.{name}={n}: --inline is one process; leave --inline out, or set it to 1")


def short_name(value: float) -> str:
    """A number as part of a run's name: six digits where they are the number, else all of it: 0.004, 1000000."""
    short = f"{value:g}"
    if float(short) == value and "+" not in short:
        return short
    return repr(value).removesuffix(".0").replace("+", "")


def _check_names(names: Sequence[str]) -> None:
    """InputError if the store would refuse a run's name, or two runs have the same."""
    for n, name in enumerate(names):
        check_path(name)
        if name in names[:n]:
            raise InputError(f"two runs of this sweep would be called {name!r}; give their values apart")


def _sae_config(job: SweepJob, d_in: int, factor: int, **chosen: object) -> SaeConfig:
    same = {f.name: getattr(job.sae, f.name) for f in fields(SaeConfig) if hasattr(job.sae, f.name)}
    same["prefixes"] = tuple(job.sae.prefixes)
    try:
        config = SaeConfig(**(same | chosen), d_in=d_in, d_sae=factor * d_in)
    except ValueError as error:
        raise InputError(f"sae.{error}") from None
    if config.variant in TOP_K and config.k > config.d_sae:
        raise InputError(f"sae.k={config.k}: expansion factor {factor} has only {config.d_sae:,} features")
    return config


def coefficients(config: SaeConfig) -> dict[str, float | None]:
    """The values of `AXES` that a dictionary's variant has; None for the others."""
    return {n: getattr(config, n) if has(config.variant, config.sparsity) else None for n, (_, has) in AXES.items()}


def seats(job: SweepJob, replicas: int) -> list[Seat]:
    """The seats of a run's learner group, if it has so many replicas for now."""
    c = job.learner
    return [Seat(n, replicas, c.feature_shards, c.exchange) for n in range(replicas * c.feature_shards)]


def slug(hook_point: str) -> str:
    """A hook point as a name in the store."""
    return hook_point.replace(":", "=").replace("/", "=")


def pack_runs(runs: tuple[RunSpec, ...], max_parameters: int) -> list[list[RunSpec]]:
    """Runs of one hook point into packs, a process each: small ones together up to `max_parameters`."""
    packs: list[list[RunSpec]] = []
    for run in sorted(runs, key=lambda r: (r.hook_point, r.sae.n_parameters)):
        last = packs[-1] if packs else []
        size = sum(r.sae.n_parameters for r in last) + run.sae.n_parameters
        if last and last[0].reads == run.reads and size <= max_parameters:
            last.append(run)
        else:
            packs.append([run])
    return packs


def settled(job: SweepJob, runs: Sequence[RunSpec], gpus: int, cores: int) -> SweepJob:
    """The job with `learner.replicas: 0` made a number, by what there is for ranks."""
    c = job.learner
    if c.replicas or not runs:
        return job
    places = places_for_ranks(gpus, cores, job.stream.workers if job.stream.from_ is None else 0, c.threads)
    groups, smallest = len(pack_runs(tuple(runs), c.pack_parameters)), min(run.sae.d_sae for run in runs)
    replicas = replicas_for(c.slots, c.feature_shards, groups, places, smallest)
    return replace(job, learner=replace(c, replicas=replicas))


def identity(spec: SweepSpec) -> dict:
    """Everything the results depend on, as plain values: two sweeps with equal identity end with equal bits."""
    job = to_plain(spec.job)
    for section, names in FREE.items():
        if names is None:
            del job[section]
        else:
            for name in names:
                del job[section][name]
    if spec.job.learner.exchange == "ring":
        job["learner"]["replicas"] = spec.job.learner.replicas
    job["host"] |= {"digest": spec.host_digest, "hook_point": list(spec.hook_points)}
    job["sae"]["target"] = spec.runs[0].target
    job["corpus"]["digest"] = spec.corpus_digest
    if spec.datasets:
        job["stream"] = {"datasets": spec.datasets}
    return job


def stream_identity(spec: SweepSpec, hook_point: str) -> dict:
    """Everything that the rows of one hook point's stream depend on: what a dataset of them is compared by."""
    whole = identity(spec)
    host = {key: value for key, value in whole["host"].items() if key != "hook_point"}
    kept = {key: whole[key] for key in ("seed", "stream")}
    return kept | {"host": host | {"hook_point": hook_point}, "corpus": {"digest": spec.corpus_digest}}


def shuffle_quality(spec: SweepSpec) -> dict | None:
    """How well the order mixes contexts, from arithmetic; None where a dataset has an order of its own."""
    if spec.datasets:
        return None
    return measure_quality(spec.order, spec.job.train.batch_size).as_dict()


def first_difference(a: object, b: object, path: str = "") -> tuple[str, object, object] | None:
    """The first field in which two identities differ: (path, value in a, value in b)."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            found = first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if a == b else (path, a, b)
