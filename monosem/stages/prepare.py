"""From a job file to a checked sweep: everything that can be wrong is found here, before anything starts."""

import os
import uuid

from monosem.config.job import SweepJob
from monosem.config.load import to_plain
from monosem.errors import InputError, MonosemError
from monosem.host.stored import Host, check_hook_point, load_host
from monosem.rows.order import StreamOrder, plan_order
from monosem.stages.spec import (
    SweepSpec,
    expand_runs,
    first_difference,
    identity,
    training_bytes,
)
from monosem.store import layout
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store
from monosem.text.files import find_files
from monosem.text.index import Corpus, Report, prepare


def prepare_sweep(job: SweepJob, store: Store, report: Report = lambda n: None, local: bool = True) -> SweepSpec:
    """Check the job against host, corpus, machine and store; build the token index if it is not there.

    `local`: the learners run on this machine, so its memory is the limit.
    """
    host = load_host(job.host.model)
    check_hook_point(job.host.hook_point)
    _check_shapes(job, host)
    d_in = host.model.width(job.host.hook_point)
    runs = expand_runs(job, d_in)
    if local:
        _check_memory(job, runs)
    if job.corpus.source != "builtin":
        find_files(job.corpus.source)
    _check_writable(store)
    corpus = prepare(store, job.corpus, host.tokenizer, report)
    order = _order(job, corpus)
    spec = SweepSpec(job, order, runs, d_in, host.digest, corpus.key, corpus.digest, sum(corpus.quarantined.values()))
    _claim_name(store, spec)
    return spec


def _check_shapes(job: SweepJob, host: Host) -> None:
    c, s, t = job.corpus, job.stream, job.train
    longest = host.model.config.context_length
    if c.context_length > longest:
        raise InputError(f"corpus.context_length={c.context_length}: host {job.host.model} takes at most {longest}")
    if s.rows_per_context > c.context_length:
        raise InputError(
            f"stream.rows_per_context={s.rows_per_context}: at most corpus.context_length={c.context_length}"
        )
    if t.batch_size % job.learner.slots:
        raise InputError(f"learner.slots={job.learner.slots}: must divide train.batch_size={t.batch_size}")
    late = [n for n in t.resample_steps if n >= t.steps]
    if late:
        raise InputError(f"train.resample_steps={t.resample_steps}: {late[0]} is not before train.steps={t.steps}")


def _check_memory(job: SweepJob, runs: tuple) -> None:
    rows = job.train.batch_size // job.learner.slots
    need = {run.name: training_bytes(run, rows) for run in runs}
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = max(need, key=need.__getitem__)
    if sum(need.values()) > have:
        raise InputError(
            f"sae.expansion_factor: training needs {sum(need.values()) / 2**30:,.1f} GiB ({name} alone "
            f"{need[name] / 2**30:,.1f}), this machine has {have / 2**30:,.1f}; use smaller factors, a smaller "
            "train.batch_size or more learner.slots"
        )


def _check_writable(store: Store) -> None:
    probe = f"probes/{uuid.uuid4().hex}"
    try:
        store.put(probe, b"monosem")
        store.delete(probe)
    except MonosemError as error:
        raise InputError(f"store={store.url!r}: not writable: {error}") from error


def _order(job: SweepJob, corpus: Corpus) -> StreamOrder:
    s, n = job.stream, len(corpus.train.tokens_NT)
    try:
        order = plan_order(
            job.seed, n, job.corpus.context_length, s.rows_per_context, s.contexts_per_item, s.shuffle_rows
        )
    except ValueError as error:
        raise InputError(
            f"stream.shuffle_rows={s.shuffle_rows} with {n} training contexts: {error}; "
            "lower stream.shuffle_rows or give more text"
        ) from error
    rows = order.contexts_per_epoch * order.rows_per_context
    if job.train.batch_size > rows:
        raise InputError(f"train.batch_size={job.train.batch_size:,}: the whole stream has {rows:,} rows")
    return order


def _claim_name(store: Store, spec: SweepSpec) -> None:
    """Write sweep.json, or find that the store holds another sweep of this name."""
    path = layout.manifest(spec.job.name)
    mine = identity(spec)
    record = {
        "format": 1,
        "name": spec.job.name,
        "identity": mine,
        "fingerprint": sha256(pack_json(mine)),
        "job": {key: value for key, value in to_plain(spec.job).items() if key != "store"},
        "corpus_key": spec.corpus_key,
        "runs": [run.name for run in spec.runs],
    }
    if store.create(path, pack_json(record)):
        return
    there = unpack_json(store.get(path), path)
    found = first_difference(there.get("identity"), mine)
    if found:
        field, old, new = found
        raise InputError(
            f"name={spec.job.name!r}: {store.url} already holds a sweep of this name with {field}={old} "
            f"(this job: {new}); choose another name, or the same config to resume it"
        )


def run_states(store: Store, spec: SweepSpec) -> dict[str, str]:
    """finished or open, by run name."""
    done = {}
    for run in spec.runs:
        path = f"{layout.run(spec.job.name, run.name)}/{layout.FINISHED}"
        done[run.name] = "finished" if store.exists(path) else "open"
    return done
