"""Set up a pack of runs and train it: the one path that inline execution and Ray's learner actors share."""

import platform
from collections.abc import Callable

import torch

from monosem import __version__
from monosem.config.load import to_plain
from monosem.evals.evaluate import Evaluator
from monosem.host.stored import load_host
from monosem.host.transformer import OneLayerTransformer
from monosem.learn.learner import Learner
from monosem.learn.loop import PackLoop
from monosem.learn.run import Run
from monosem.sae.init import geometric_median
from monosem.stages.spec import RunSpec, SweepSpec
from monosem.store import layout
from monosem.store.plain import sha256
from monosem.store.store import Store
from monosem.stream.harvest import Harvester
from monosem.stream.reader import RowReader
from monosem.text.index import Corpus, load
from monosem.threads import torch_threads
from monosem.track.tracker import open_tracker


def load_inputs(spec: SweepSpec, store: Store) -> tuple[OneLayerTransformer, Corpus]:
    """The sweep's host model and corpus, checked against the digests it was planned with."""
    host = load_host(spec.job.host.model)
    corpus = load(store, spec.corpus_key)
    if host.digest != spec.host_digest or corpus.digest != spec.corpus_digest:
        raise ValueError("host or corpus differ from those the sweep was planned with")
    return host.model, corpus


def make_harvester(spec: SweepSpec, store: Store) -> Harvester:
    model, corpus = load_inputs(spec, store)
    return Harvester(model, corpus.train, spec.order, spec.job.host.hook_point, spec.job.stream.threads)


def make_evaluator(spec: SweepSpec, store: Store) -> Evaluator:
    model, corpus = load_inputs(spec, store)
    return Evaluator(model, corpus.heldout, spec.job.host.hook_point, spec.job.evaluate)


def make_loop(
    spec: SweepSpec,
    pack: list[RunSpec],
    store: Store,
    reader: RowReader,
    wandb_dir: str,
    should_stop: Callable[[], bool],
    report: Callable[[PackLoop], None],
) -> PackLoop:
    """A loop over the runs of `pack`, each restored from its last checkpoint or initialised from the stream."""
    job = spec.job
    device = "cuda" if torch.cuda.is_available() else "cpu"
    median = _lazy_median(job.train.init_rows, job.learner.threads, reader)
    runs = []
    for item in pack:
        prefix = layout.run(job.name, item.name)
        learner = Learner(item.sae, job.train, device, slots=job.learner.slots)
        tracker = open_tracker(
            job.track, sha256(f"{store.url}/{prefix}".encode())[:16], item.name, to_plain(job), wandb_dir
        )
        run = Run(item.name, learner, store, prefix, lineage(spec, item), tracker)
        if not run.restore():
            learner.sae.b_dec.copy_(median())
        runs.append(run)
    return PackLoop(
        runs, job.train, reader, lambda: make_evaluator(spec, store), job.learner.threads, should_stop, report
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
        "l1_coefficient": run.sae.l1_coefficient,
        "seed": run.sae.seed,
        "host": {
            "model": job.host.model,
            "model_name": job.host.model,
            "hook_name": job.host.hook_point,
            "digest": spec.host_digest,
        },
        "corpus": {
            "source": job.corpus.source,
            "context_length": job.corpus.context_length,
            "key": spec.corpus_key,
            "digest": spec.corpus_digest,
        },
        "stream": {"first_row": 0, "last_row": job.train.steps * job.train.batch_size},
        "config": {key: value for key, value in to_plain(job).items() if key not in ("store", "track")},
        "versions": {
            "monosem": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        },
    }


def _lazy_median(init_rows: int, threads: int, reader: RowReader) -> Callable[[], torch.Tensor]:
    """The geometric median of the stream's first rows, computed when first asked for."""
    found: list[torch.Tensor] = []

    def median() -> torch.Tensor:
        if not found:
            with torch_threads(threads):
                found.append(geometric_median(reader.rows(0, init_rows)))
        return found[0]

    return median
