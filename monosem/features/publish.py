"""From finished work to the places where readers look: tables first, each directory's manifest last."""

from collections.abc import Callable

import numpy as np

from monosem.features import schema
from monosem.features.plan import DICTIONARY, NEURONS, Plan
from monosem.features.state import State
from monosem.features.tables import from_parquet, joined_tables, make_table, to_parquet
from monosem.features.texts import texts_table
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store


def depends(plan: Plan, subject: int) -> dict:
    """Everything that a subject's tables depend on, as plain values."""
    s, c = plan.subjects[subject], vars(plan.config)
    outside = ("enabled", "compare", "neurons")
    moved = {} if s.hook_point == s.write_point else {"importance": "where it writes"}  # earlier passes: where it reads
    skipped = {"skip_positions": plan.skipped.positions, "skip_tokens": sorted(plan.skipped.tokens)}
    return moved | (skipped if plan.skipped else {}) | {
        "contexts": "at random",  # earlier passes: ascending, so that the first slices were the corpus's first part
        "format": schema.FORMAT,
        "dictionary": s.digest,
        "hook_point": s.hook_point,
        "write_point": s.write_point,
        "host": plan.host_digests[s.host],
        "corpus": plan.corpus_key,
        "config": {name: value for name, value in c.items() if name not in outside},
    }


def fingerprint(value: object) -> str:
    return sha256(pack_json({"of": value}))


def is_published(store: Store, plan: Plan, subject: int) -> bool:
    """Whether a subject's tables are there, of this plan."""
    return _fingerprint_there(store, plan.directory(subject)) == fingerprint(depends(plan, subject))


def sweep_depends(plan: Plan) -> dict:
    """Everything that RELATED and VOCAB depend on."""
    return {
        "subjects": [depends(plan, i) | {"name": s.name} for i, s in enumerate(plan.subjects)],
        "related_tokens": plan.config.related_tokens,
    }


def sweep_directory(plan: Plan) -> str:
    return f"sweeps/{plan.sweep}/{schema.DIRECTORY}"


def is_sweep_published(store: Store, plan: Plan) -> bool:
    return _fingerprint_there(store, sweep_directory(plan)) == fingerprint(sweep_depends(plan))


def publish(state: State, say: Callable[[str], None], whole: bool) -> None:
    """All that the plan has to do, after its tasks are done; then the work is deleted.

    whole   the sweep's own tables too; else only VOCAB, if it is not there yet
    """
    plan, store = state.plan, state.store
    for i in plan.todo:
        _publish_subject(state, i, say)
    if whole:
        _publish_sweep(state)
    elif not store.exists(f"{sweep_directory(plan)}/{schema.VOCAB_FILE}"):
        store.put(f"{sweep_directory(plan)}/{schema.VOCAB_FILE}", _vocab(state))
    store.delete_tree(plan.work)


def _publish_subject(state: State, i: int, say: Callable[[str], None]) -> None:
    plan, store, s = state.plan, state.store, state.plan.subjects[i]
    directory, units = plan.directory(i), plan.units(i)
    if store.exists(f"{directory}/{schema.MANIFEST}"):
        say(f"features of {s.name}: made anew, for the ones there are of another dictionary or config")
        store.delete_tree(directory)
    files = {}
    for table in ("features", "examples"):
        for unit in units:
            data = store.get(plan.table_file(table, unit))
            name = schema.slice_file(table, unit.number)
            store.put(f"{directory}/{name}", data)
            files[name] = sha256(data)
    counts = _counts([from_parquet(store.get(plan.table_file("features", unit))) for unit in units])
    data = texts_table(state, i)
    store.put(f"{directory}/{schema.TEXTS_FILE}", data)
    files[schema.TEXTS_FILE] = sha256(data)
    mine = depends(plan, i)
    manifest = {
        "format": schema.FORMAT,
        "sweep": plan.sweep,
        "run": s.name,
        "kind": s.kind,
        "hook_point": s.hook_point,
        "write_point": s.write_point,
        "d_in": s.d_in,
        "d_sae": s.d_sae,
        "fingerprint": fingerprint(mine),
        "depends": mine,
        "tokens": plan.tokens,
        "related_tokens": plan.related_tokens,
        "contexts": plan.n_contexts,
        "context_length": plan.context_length,
        "side": plan.config.side,
        "domains": state.domains[0],
        "files": files,
        "counts": counts,
        "logits": state.direct(units[0]) is not None,
        "ablations": "none" if state.ablation(units[0]) is None else "exact",
    }
    store.put(f"{directory}/{schema.MANIFEST}", pack_json(manifest))


def _counts(tables: list) -> dict[str, int | None]:
    """Figures of a subject over its tables FEATURES."""

    def total(name: str) -> int | None:
        if any(t[name].null_count for t in tables):
            return None
        return int(sum(t[name].to_numpy().sum() for t in tables))

    names = {"dead": "dead", "ultralow": "ultralow", "examples": "n_examples", "entries": "n_active"}
    return {"features": sum(len(t) for t in tables)} | {key: total(name) for key, name in names.items()}


def _publish_sweep(state: State) -> None:
    plan, store, directory = state.plan, state.store, sweep_directory(state.plan)
    related = [from_parquet(store.get(plan.related_file(unit))) for unit in plan.related_units()]
    tables = {
        schema.VOCAB_FILE: _vocab(state),
        schema.RELATED_FILE: to_parquet("related", joined_tables(related)),
    }
    store.delete(f"{directory}/{schema.MANIFEST}")
    for name, data in tables.items():
        store.put(f"{directory}/{name}", data)
    mine = sweep_depends(plan)
    manifest = {
        "format": schema.FORMAT,
        "sweep": plan.sweep,
        "fingerprint": fingerprint(mine),
        "depends": mine,
        "tokens": plan.tokens,
        "related_tokens": plan.related_tokens,
        "runs": [s.name for s in plan.subjects if s.kind == DICTIONARY],
        "neurons": [s.name for s in plan.subjects if s.kind == NEURONS],
        "files": {name: sha256(data) for name, data in tables.items()},
    }
    store.put(f"{directory}/{schema.MANIFEST}", pack_json(manifest))


def _vocab(state: State) -> bytes:
    counts = np.zeros(len(state.vocab), np.int64)
    for lo in range(0, state.plan.n_contexts, 4096):
        ids = state.index.tokens_NT[state.contexts[lo : lo + 4096]].reshape(-1)
        counts += np.bincount(ids, minlength=len(counts))[: len(counts)]
    columns = {"token": np.arange(len(counts), dtype=np.int32), "text": state.vocab, "count": counts}
    return to_parquet("vocab", make_table("vocab", columns, len(counts)))


def _fingerprint_there(store: Store, directory: str) -> str | None:
    path = f"{directory}/{schema.MANIFEST}"
    try:
        return unpack_json(store.get(path), path).get("fingerprint")
    except FileNotFoundError:
        return None
