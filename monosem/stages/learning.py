"""Set up a pack of runs and train it: the one path that inline execution and Ray's learner actors share."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch

from monosem import __version__
from monosem.config.job import SweepJob
from monosem.config.load import to_plain
from monosem.evals.evaluate import Evaluator
from monosem.host.model import HostModel
from monosem.host.stored import load_host
from monosem.learn.learner import Learner, finite_rows
from monosem.learn.loop import PackLoop
from monosem.learn.mesh import Mesh
from monosem.learn.run import Run
from monosem.sae.init import geometric_median, input_scale
from monosem.stages.spec import RunSpec, SweepSpec, coefficients, shuffle_quality
from monosem.store import layout
from monosem.store.plain import sha256
from monosem.store.store import Store
from monosem.stream.harvest import Harvester, StreamText
from monosem.stream.reader import Rows
from monosem.text.index import Corpus, load
from monosem.text.selection import Selection, Skipped
from monosem.threads import torch_threads
from monosem.track.tracker import NoTracker, open_tracker

OUTSIDE = ("store", "track", "dataset", "features")
"""Sections of the job that no dictionary depends on."""


def load_inputs(spec: SweepSpec, store: Store) -> tuple[HostModel, Corpus]:
    """The sweep's host model and corpus, checked against the digests it was planned with."""
    host = load_host(spec.job.host)
    corpus = load(store, spec.corpus_key)
    if host.digest != spec.host_digest or corpus.digest != spec.corpus_digest:
        raise ValueError("host or corpus differ from those the sweep was planned with")
    return host.model, corpus


def make_harvester(spec: SweepSpec, store: Store) -> Harvester:
    model, corpus = load_inputs(spec, store)
    stream = spec.job.stream
    skipped = frozenset(spec.skip_tokens)
    selection = Selection(corpus.train, stream.rows_per_context, stream.skip_positions, skipped)
    return Harvester(model, StreamText(corpus.train, selection, spec.order), spec.hook_points, stream.threads)


def make_evaluators(spec: SweepSpec, store: Store) -> Callable[[str, str | None], Evaluator]:
    """An evaluator by hook point and target, made when first asked for; the host is loaded once for all."""
    made: dict[tuple[str, str | None], Evaluator] = {}

    def evaluator(hook_point: str, target: str | None) -> Evaluator:
        if not made:
            evaluator.inputs = load_inputs(spec, store)
        if (hook_point, target) not in made:
            model, corpus = evaluator.inputs
            skipped = Skipped(spec.job.stream.skip_positions, frozenset(spec.skip_tokens))
            made[hook_point, target] = Evaluator(model, corpus.heldout, hook_point, spec.job.evaluate, target, skipped)
        return made[hook_point, target]

    return evaluator


def make_loop(
    spec: SweepSpec,
    pack: list[RunSpec],
    store: Store,
    readers: Mapping[str, Rows],
    wandb_dir: str,
    should_stop: Callable[[], bool],
    report: Callable[[PackLoop], None],
    mesh: Mesh | None = None,
) -> PackLoop:
    """A loop over the runs of `pack`, each restored from its last checkpoint or initialised from the stream.

    readers  of each hook point's rows
    mesh     the ranks that train them together; the leading one tells the tracker
    """
    job, mesh = spec.job, mesh or Mesh()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = _lazy_start(job, readers)
    settings = to_plain(job) | {"shuffle": shuffle_quality(spec)}
    runs = []
    for item in pack:
        prefix = layout.run(job.name, item.name)
        learner = Learner(item.sae, job.train, device, slots=job.learner.slots, mesh=mesh)
        run_id = sha256(f"{store.url}/{prefix}".encode())[:16]
        tracker = open_tracker(job.track, run_id, item.name, settings, wandb_dir) if mesh.leads else NoTracker()
        run = Run(item.name, item.reads, learner, store, prefix, lineage(spec, item), tracker)
        if not run.restore():
            learner.scale = start(item.hook_point).scale
            if item.sae.subtract_b_dec or item.target:  # else b_dec is no centre, and starts at zero
                learner.sae.b_dec.copy_(start(item.reads[-1]).median * learner.scale)
        runs.append(run)
    return PackLoop(
        runs, job.train, readers, make_evaluators(spec, store), job.learner.threads, should_stop, report
    )


def lineage(spec: SweepSpec, run: RunSpec) -> dict:
    """Where a dictionary comes from, for monosem.json. Holds no time and no place of computation."""
    job = spec.job
    return {
        "format": 1,
        "sweep": job.name,
        "run": run.name,
        "d_in": run.sae.d_in,
        "d_sae": run.sae.d_sae,
        "expansion_factor": run.expansion_factor,
        "variant": run.sae.variant,
        **coefficients(run.sae),
        "sae": asdict(run.sae),
        "seed": run.sae.seed,
        "host": {
            "model": job.host.model,
            "model_name": job.host.model,
            "hook_name": run.hook_point,
            "alias": spec.aliases[run.hook_point],
            "target": run.target,
            "target_alias": spec.aliases[run.target] if run.target else None,
            "revision": job.host.revision,
            "precision": job.host.precision,
            "digest": spec.host_digest,
        },
        "corpus": {
            "source": job.corpus.source,
            "context_length": job.corpus.context_length,
            "key": spec.corpus_key,
            "digest": spec.corpus_digest,
        },
        "stream": {"first_row": 0, "last_row": spec.rows, "dataset": spec.datasets.get(run.hook_point)},
        "shuffle": shuffle_quality(spec),
        "config": {key: value for key, value in to_plain(job).items() if key not in OUTSIDE},
        "versions": {
            "monosem": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        },
    }


@dataclass(frozen=True)
class Start:
    """What a dictionary's training starts from, of the first rows of its hook point.

    scale   what rows are multiplied by (`train.input_scale`)
    median  their geometric median, [d_in], before scaling
    """

    scale: float
    median: torch.Tensor


def _lazy_start(job: SweepJob, readers: Mapping[str, Rows]) -> Callable[[str], Start]:
    """The start of a hook point's dictionaries, computed when first asked for."""
    found: dict[str, Start] = {}

    def start(hook_point: str) -> Start:
        if hook_point not in found:
            with torch_threads(job.learner.threads):
                rows = finite_rows(readers[hook_point].rows(0, job.train.init_rows).cpu())
                found[hook_point] = Start(input_scale(rows, job.train.input_scale), geometric_median(rows))
        return found[hook_point]

    return start
