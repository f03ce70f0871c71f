"""`monosem features`, and the end of every sweep: what features of finished dictionaries mean, as tables in the store.

What can do tasks is handed in, so that this file knows no Ray: `TaskRunner`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from monosem.config.job import FeaturesConfig, HostConfig, SweepJob
from monosem.config.load import to_plain
from monosem.errors import InputError
from monosem.features import schema
from monosem.features.plan import DICTIONARY, NEURONS, OTHER, Plan, Subject, is_neurons
from monosem.features.plan import tasks as tasks_of
from monosem.features.publish import fingerprint, is_published, is_sweep_published, publish, sweep_depends
from monosem.features.state import State
from monosem.features.tasks import run_task
from monosem.host.stored import Host, load_host
from monosem.memory import keep_freed_memory
from monosem.stages.budget import BASE, Need, check_memory, host_bytes
from monosem.stages.evaluate import host_config, skipped_of
from monosem.stages.listing import finished_manifest
from monosem.stages.resume import stored_job
from monosem.stages.signals import stop_on_signal
from monosem.store import layout
from monosem.store.plain import unpack_json
from monosem.store.store import Store, open_store
from monosem.track.progress import PhaseProgress

Say = Callable[[str], None]
TaskRunner = Callable[[State, list[tuple[str, int]], Callable[[int], None]], None]
"""Do tasks of one phase, and tell how many are done."""


def run_inline(state: State, phase: list[tuple[str, int]], done: Callable[[int], None]) -> None:
    """In this process, one after another. InputError if this machine has not the memory for it."""
    from monosem.errors import Interrupted

    check_memory([features_need(state)], os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    keep_freed_memory()
    with stop_on_signal() as should_stop:
        for n, (name, number) in enumerate(phase):
            run_task(state, name, number)
            done(n + 1)
            if should_stop():
                raise Interrupted("stopped; the same command goes on with the next task")


@contextmanager
def inline_tasks(job: SweepJob) -> Iterator[TaskRunner]:
    """The tasks of a job in this process."""
    yield run_inline


Tasks = Callable[[SweepJob], AbstractContextManager[TaskRunner]]
"""Who does the tasks of a job, from its first to its last."""
CHANGEABLE = ("features.", "learner.threads=", "stream.workers=")


def features_of(uri: str, overrides: list[str], say: Say, tasks: Tasks = inline_tasks) -> None:
    """The feature pass of a sweep or of one run, by the features section it was made with and `overrides` of that."""
    outside = [o for o in overrides if not o.startswith(CHANGEABLE)]
    if outside:
        allowed = "features.*, learner.threads and stream.workers"
        raise InputError(f"override {outside[0]!r}: only {allowed} can be changed here")
    root, sweep, name = sweep_and_run(uri)
    job = stored_job(f"{root}/{sweep}", overrides)
    store, site = open_store(root), layout.browser(sweep)
    with tasks(job) as run:
        changed = run_features(store, sweep, job.features, job.learner.threads, say, run, name)
    if changed and store.exists(f"{site}/index.html"):
        say(f"note: {root}/{site} shows the tables from before; write it anew:")
        say(f"  monosem report {root}/{sweep} --out {root}/{site}")


def sweep_and_run(uri: str) -> tuple[str, str, str | None]:
    """(store, sweep, run or None) of STORE/SWEEP, STORE/sweeps/SWEEP or STORE/sweeps/SWEEP/runs/RUN."""
    parts = uri.rstrip("/").split("/")
    if len(parts) > 4 and parts[-2] == "runs" and parts[-4] == "sweeps":
        return "/".join(parts[:-4]), parts[-3], parts[-1]
    root = "/".join(parts[:-1]).removesuffix("/sweeps")
    if not root or not parts[-1]:
        raise InputError(f"{uri!r}: write STORE/SWEEP, for example ./monosem-store/quickstart, or a run's directory")
    return root, parts[-1], None


def run_features(
    store: Store, sweep: str, config: FeaturesConfig, threads: int, say: Say, run: TaskRunner = run_inline,
    only: str | None = None,
) -> bool:  # fmt: skip
    """The feature pass of a sweep's finished runs, or of `only` one. Returns whether there was anything to do."""
    plan = plan_pass(store, sweep, config, threads, only)
    todo = tuple(i for i, s in enumerate(plan.subjects) if s.kind != OTHER and not is_published(store, plan, i))
    if not todo and (only or is_sweep_published(store, plan)):
        say(f"features of {only or sweep}: finished, in {store.url}/{plan.directory(0) if only else directory(sweep)}")
        return False
    plan = replace(plan, todo=todo)
    state = State(plan, store)
    _announce(state, say)
    by_phase: dict[str, list[tuple[str, int]]] = {}
    for task in tasks_of(plan):
        by_phase.setdefault(task[0], []).append(task)
    for name, phase in by_phase.items():
        with PhaseProgress(name, len(phase), "tasks") as progress:
            run(state, phase, progress.update)
    publish(state, say, only is None)
    say(f"features: {store.url}/{plan.directory(0) if only else directory(sweep)}")
    return True


def directory(sweep: str) -> str:
    return f"{layout.sweep(sweep)}/{schema.DIRECTORY}"


def features_need(state: State) -> Need:
    """The memory of an inline pass: its largest task beside the libraries and the hosts."""
    weights = sum(host_bytes(state.host(i).model) for i in range(len(state.plan.hosts)))
    most = max(state.plan.memory(weights).values())
    return Need("feature pass", 1, BASE["inline"] + most, "features.slice_tokens, features.slice_features")


def _announce(state: State, say: Say) -> None:
    plan = state.plan
    n = sum(plan.subjects[i].d_sae for i in plan.todo)
    say(f"features of {plan.sweep}: {n:,} features over {plan.tokens:,} tokens ({plan.config.side})")
    if plan.tokens < plan.config.tokens - plan.context_length:
        say(f"note: features.tokens={plan.config.tokens:,}: the corpus has {plan.tokens:,} on that side")
    if plan.config.ablations == "auto" and plan.todo and state.ablation(plan.units(plan.todo[0])[0]) is None:
        say("note: no ablation effects, attention follows the hook point; features.ablations=top computes some")


def plan_pass(store: Store, sweep: str, config: FeaturesConfig, threads: int, only: str | None = None) -> Plan:
    """The plan over all finished runs of a sweep, or `only` one of them and nothing to relate it to.

    InputError if there is none, or if one of `features.compare` cannot be compared with.
    """
    records = _finished(store, sweep, only)
    if only:
        config = replace(config, neurons=False, compare=[])
    first = records[0]
    host = load_host(host_config(first), weights=False)
    if host.digest != first["host"]["digest"]:
        raise InputError(f"{sweep}: host {first['host']['model']} is not the one it was trained on")
    corpus = unpack_json(store.get(f"corpora/{first['corpus']['key']}/index.json"), "index.json")
    subjects = [_subject(store.url, record, DICTIONARY, 0) for record in records]
    if config.neurons:
        subjects += _neurons(subjects, host, records)
    hosts, digests = [host_config(first)], [host.digest]
    for uri in config.compare:
        subjects.append(_other(uri, host, hosts, digests, corpus["context_length"]))
    T = corpus["context_length"]
    plan = Plan(
        store=store.url,
        sweep=sweep,
        hosts=tuple(hosts),
        host_digests=tuple(digests),
        corpus_key=first["corpus"]["key"],
        config=config,
        subjects=tuple(subjects),
        n_contexts=min(corpus["contexts"][config.side], max(1, config.tokens // T)),
        context_length=T,
        vocab_size=host.model.vocab_size,
        fingerprint="",
        todo=(),
        threads=threads,
        skipped=skipped_of(first, host),
    )
    return replace(plan, fingerprint=fingerprint([sweep_depends(plan), to_plain(config)]))


def _finished(store: Store, sweep: str, only: str | None) -> list[dict]:
    path = layout.manifest(sweep)
    try:
        names = unpack_json(store.get(path), path)["runs"]
    except FileNotFoundError:
        raise InputError(f"{store.url}: no sweep {sweep!r} there") from None
    found = []
    if only and only not in names:
        raise InputError(f"{store.url}: sweep {sweep!r} has no run {only!r}; it has {', '.join(names)}")
    for name in [only] if only else names:
        where = f"{layout.run(sweep, name)}/{layout.FINISHED}"
        if store.exists(where):
            found.append(unpack_json(store.get(where), where))
    if not found:
        raise InputError(f"{store.url}: sweep {sweep!r}: {only or 'no run'} {'is not' if only else 'is'} finished")
    return found


def _subject(root: str, record: dict, kind: str, host: int) -> Subject:
    return Subject(
        name=record["run"],
        sweep=record["sweep"],
        kind=kind,
        uri=f"{root}/{layout.run(record['sweep'], record['run'])}",
        digest=record["digest"],
        host=host,
        hook_point=record["host"]["hook_name"],
        write_point=record["host"].get("target") or record["host"]["hook_name"],
        d_in=record["d_in"],
        d_sae=record["d_sae"],
        l0=record["metrics"]["l0"],
    )


def _neurons(subjects: Iterable[Subject], host: Host, records: Iterable[dict]) -> list[Subject]:
    """The neurons of each hook point that has some."""
    l0 = {record["host"]["hook_name"]: record["metrics"]["neurons_l0"] for record in records}
    points = dict.fromkeys(s.hook_point for s in subjects if is_neurons(s.hook_point))
    several = len(points) > 1
    return [
        Subject(
            name=f"neurons-{point}" if several else "neurons",
            sweep=next(iter(subjects)).sweep,
            kind=NEURONS,
            uri="",
            digest="identity",
            host=0,
            hook_point=point,
            write_point=point,
            d_in=host.model.width(point),
            d_sae=host.model.width(point),
            l0=l0[point],
        )
        for point in points
    ]


def check_compare(job: SweepJob) -> None:
    """InputError if one of `features.compare` cannot be compared with: found before the training, not after it."""
    if job.features.enabled and job.features.compare:
        host = load_host(job.host, weights=False)
        for uri in job.features.compare:
            _other(uri, host, [], [], job.corpus.context_length)


def _other(uri: str, host: Host, hosts: list[HostConfig], digests: list[str], context_length: int) -> Subject:
    """A run of another sweep to compare with; its host joins `hosts` if it is another one."""
    field = f"features.compare={uri!r}"
    record = unpack_json(finished_manifest(uri, field), uri)
    config = host_config(record)
    theirs = load_host(config, weights=False)
    if theirs.tokenizer.to_str() != host.tokenizer.to_str():
        raise InputError(f"{field}: its host {config.model} has another tokenizer, so the tokens are not the same")
    if theirs.model.context_length < context_length:
        raise InputError(f"{field}: its host takes at most {theirs.model.context_length} tokens, not {context_length}")
    if theirs.digest not in digests:
        hosts.append(config)
        digests.append(theirs.digest)
    root = uri.rstrip("/").removesuffix("/" + layout.run(record["sweep"], record["run"]))
    return _subject(root, record, OTHER, digests.index(theirs.digest))
