"""From a job file to a checked sweep: everything that can be wrong is found here, before anything starts."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from monosem.config.job import SweepJob, TruthJob
from monosem.config.load import to_plain
from monosem.errors import InputError, MonosemError
from monosem.host.stored import Host, load_host, resolve_hook_points
from monosem.rows.order import StreamOrder, plan_order
from monosem.stages.budget import Shapes, host_bytes, widest_layer
from monosem.stages.replay import check_datasets
from monosem.stages.spec import RunSpec, SweepSpec, expand_runs, first_difference, identity, shuffle_quality
from monosem.store import layout
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store
from monosem.text.index import Corpus, Report, prepare
from monosem.text.selection import Selection
from monosem.text.sources import open_source

CheckMemory = Callable[[Shapes, tuple[RunSpec, ...]], None]


def prepare_sweep(
    job: SweepJob, store: Store, report: Report = lambda n: None, check_memory: CheckMemory = lambda s, runs: None
) -> SweepSpec:
    """Check the job against host, corpus, machine and store; build the token index if it is not there.

    `check_memory` is called with the shapes of the job before anything is built; it raises if they do not fit.
    """
    spec = check_datasets(prepare_stream(job, store, report, check_memory))
    _claim_name(store, spec)
    return spec


def prepare_stream(
    job: SweepJob, store: Store, report: Report = lambda n: None, check_memory: CheckMemory = lambda s, runs: None
) -> SweepSpec:
    """What the stream is made of: host, corpus and order, checked. Nothing is claimed in the store."""
    host = load_host(job.host, weights=False)
    hook_points = resolve_hook_points(host.model, job.host.hook_point)
    target = _target(job, host, hook_points)
    job = _pinned(job, host)
    check_shapes(job, host.model.context_length)
    widths = {name: host.model.width(name) for name in (*hook_points, *([target] if target else []))}
    _check_outline(job, host, widths)
    runs = expand_runs(job, widths, target)
    check_group(job, runs)
    of_host = host_bytes(host.model), host.model.vocab_size, widest_layer(host.model)
    check_memory(Shapes(job, order_of(job), widths, *of_host), runs)
    open_source(job.corpus)  # a source that cannot be read is found before anything is written
    _check_writable(store)
    corpus = prepare(store, job.corpus, host.tokenizer, report, host.end_token, host.begin_token)
    _check_vocabulary(job, host, corpus)
    skipped = special_tokens(job.stream.skip_special, host)
    selection = Selection(corpus.train, job.stream.rows_per_context, job.stream.skip_positions, frozenset(skipped))
    return SweepSpec(
        job=job,
        order=order_of(job, len(selection.contexts)),
        runs=runs,
        widths=widths,
        aliases={name: host.model.alias(name) for name in widths},
        skip_tokens=skipped,
        host_digest=host.digest,
        corpus_key=corpus.key,
        corpus_digest=corpus.digest,
        documents_passed_over=sum(corpus.quarantined.values()),
        contexts_passed_over=selection.dropped,
    )


def _target(job: SweepJob, host: Host, hook_points: Sequence[str]) -> str | None:
    """The canonical name of `sae.target`; None if the dictionaries are autoencoders."""
    if job.sae.target is None:
        return None
    [target] = resolve_hook_points(host.model, [job.sae.target], "sae.target")
    check_target(job, host.model.place(target), [host.model.place(name) for name in hook_points])
    return target


def check_target(job: SweepJob, place: object, read: Sequence[object]) -> None:
    """InputError if the hook point to reconstruct is one that is read: by their places in the host."""
    if place in read:
        raise InputError(f"sae.target={job.sae.target}: is also in host.hook_point; leave it out for autoencoders")


def _check_vocabulary(job: SweepJob, host: Host, corpus: Corpus) -> None:
    """InputError if the text has tokens that the host has no embedding for: on a GPU they end the whole process."""
    names = (host.end_token, host.begin_token) if job.corpus.bos else (host.end_token,)
    ids = [host.tokenizer.token_to_id(name) for name in names]
    highest = max(*ids, *(int(side.tokens_NT.max()) for side in (corpus.train, corpus.heldout)))
    known = host.model.vocab_size
    if highest >= known:
        raise InputError(
            f"host.model={job.host.model!r}: its tokenizer makes token {highest} of this text "
            f"({host.tokenizer.id_to_token(highest)!r}), the model knows 0 to {known - 1}; they do not belong together"
        )


def special_tokens(skip_special: bool, host: Host) -> tuple[int, ...]:
    """Token ids whose positions are left out of the stream."""
    if not skip_special:
        return ()
    names = {host.end_token, host.begin_token} - {None}
    return tuple(sorted(host.tokenizer.token_to_id(name) for name in names))


def _pinned(job: SweepJob, host: Host) -> SweepJob:
    """The job with the commit that a branch or tag of the hub meant when it was looked up."""
    commit = host.card.get("revision")
    return replace(job, host=replace(job.host, revision=commit)) if commit else job


def check_shapes(job: SweepJob, longest: int) -> None:
    """InputError if the job's sizes do not go together. `longest`: most tokens that the host reads."""
    c, s = job.corpus, job.stream
    if c.context_length > longest:
        raise InputError(f"corpus.context_length={c.context_length}: host {job.host.model} takes at most {longest}")
    left = c.context_length - s.skip_positions
    if s.rows_per_context > left:
        skipped = f" - stream.skip_positions={s.skip_positions}" if s.skip_positions else ""
        raise InputError(
            f"stream.rows_per_context={s.rows_per_context}: at most corpus.context_length={c.context_length}{skipped}"
        )
    check_training(job)
    if job.learner.replicas > job.learner.slots:
        raise InputError(
            f"learner.replicas={job.learner.replicas}: at most learner.slots={job.learner.slots}, "
            "the parts of a batch that replicas share out among themselves"
        )
    if job.learner.exchange == "ring" and not job.learner.replicas:
        raise InputError("learner.replicas=0: with learner.exchange=ring results depend on their number; say it")


def check_training(job: SweepJob | TruthJob) -> None:
    """InputError if the steps of training do not go together, with or without a host."""
    t = job.train
    if t.batch_size % job.learner.slots:
        raise InputError(f"learner.slots={job.learner.slots}: must divide train.batch_size={t.batch_size}")
    late = [n for n in t.resample_steps if n >= t.steps]
    if late:
        raise InputError(f"train.resample_steps={t.resample_steps}: {late[0]} is not before train.steps={t.steps}")
    early = [n for n in t.resample_steps if n < t.resample_window]
    if early:
        raise InputError(
            f"train.resample_steps={t.resample_steps}: at step {early[0]} no feature can have been silent for "
            f"train.resample_window={t.resample_window} steps; lower that"
        )


def check_group(job: SweepJob, runs: Sequence[RunSpec]) -> None:
    """InputError if a rank of a learner group would have no features."""
    c, smallest = job.learner, min(run.sae.d_sae for run in runs)
    if c.feature_shards * max(1, c.replicas) > smallest:
        raise InputError(
            f"learner.replicas={c.replicas}, learner.feature_shards={c.feature_shards}: "
            f"the smallest dictionary has only {smallest:,} features"
        )


def _check_outline(job: SweepJob, host: Host, widths: dict[str, int]) -> None:
    """InputError if the host is not the one that `host.outline` describes."""
    outline = job.host.outline
    for name, width in widths.items():
        if outline.width not in (0, width):
            raise InputError(f"host.outline.width={outline.width}: the host's {name} is {width} wide")
    module = getattr(host.model, "model", host.model)
    found = {
        "parameters": sum(p.numel() for p in module.parameters()),
        "vocab_size": host.model.vocab_size,
        "context_length": host.model.context_length,
    }
    for name, have in found.items():
        said = getattr(outline, name)
        if said and abs(said - have) > 0.02 * have:  # what is published is rounded
            raise InputError(f"host.outline.{name}={said:,}: the host has {have:,}")


def _check_writable(store: Store) -> None:
    probe = f"probes/{uuid.uuid4().hex}"
    try:
        store.put(probe, b"monosem")
        store.delete(probe)
    except MonosemError as error:
        raise InputError(f"store={store.url!r}: not writable: {error}") from error


MANY = 2**40
"""Contexts, where their number is not known yet."""


def order_of(job: SweepJob, n: int = MANY) -> StreamOrder:
    """The order of a stream over `n` usable contexts."""
    s = job.stream
    try:
        order = plan_order(
            job.seed, n, job.corpus.context_length, s.rows_per_context, s.contexts_per_item, s.shuffle_rows
        )
    except ValueError as error:
        few = f" with {n} usable training contexts", "; lower stream.shuffle_rows or give more text"
        given, hint = few if n < MANY else ("", "")
        raise InputError(f"stream.shuffle_rows={s.shuffle_rows}{given}: {error}{hint}") from error
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
        "shuffle": shuffle_quality(spec),
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


def unfinished(store: Store, sweep: str, runs: Sequence[RunSpec]) -> list[RunSpec]:
    """Those of some runs that have still to be trained or evaluated."""
    return [run for run in runs if not store.exists(f"{layout.run(sweep, run.name)}/{layout.FINISHED}")]
