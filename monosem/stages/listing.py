"""What is in a store: the rows of `monosem runs`."""

from monosem.errors import InputError, IntegrityError
from monosem.store import layout
from monosem.store.checkpoints import CheckpointLog
from monosem.store.plain import unpack_json
from monosem.store.store import Store, open_store

COLUMNS = [
    "sweep",
    "run",
    "state",
    "uri",
    "d_in",
    "d_sae",
    "expansion_factor",
    "variant",
    "l1_coefficient",
    "l0_coefficient",
    "k",
    "seed",
    "step",
    "rows",
    "l0",
    "fvu",
    "loss_recovered",
    "dead_fraction",
    "digest",
]
"""Keys of a row of `runs --json`; a field that was not measured is None."""


def finished_manifest(uri: str, called: str = "") -> bytes:
    """The manifest of the finished run at `uri`. InputError, by the name `called`, that says which runs there are."""
    uri = uri.rstrip("/")
    try:
        return open_store(uri).get(layout.FINISHED)
    except FileNotFoundError:
        head, _, last = uri.rpartition("/")
        known = [n for n in open_store(head).list("") if n != last] if head.endswith("/runs") else []
        there = f"; runs of this sweep: {', '.join(known)}" if known else ""
        raise InputError(
            f"{called or uri}: no finished dictionary there ({layout.FINISHED} is missing){there}"
        ) from None


def all_rows(store: Store, damage: list[str] | None = None) -> list[dict]:
    """One row per run of every sweep in the store. A store without sweeps is an InputError.

    damage   takes what is wrong with runs whose files are damaged, and these are rows too, "damaged"; without it the
             first of them is an IntegrityError
    """
    names = [name for name in store.list("sweeps") if store.exists(layout.manifest(name))]
    if not names:
        raise InputError(f"{store.url}: no sweeps there")
    return [row for name in names for row in run_rows(store, name, damage)]


def run_rows(store: Store, sweep: str, damage: list[str] | None = None) -> list[dict]:
    """One row per run of a sweep, in the sweep's order."""
    path = layout.manifest(sweep)
    try:
        manifest = unpack_json(store.get(path), path)
    except FileNotFoundError:
        raise InputError(f"{store.url}: no sweep {sweep!r} there") from None
    return [_row(store, sweep, name, manifest, damage) for name in manifest["runs"]]


def _row(store: Store, sweep: str, run: str, manifest: dict, damage: list[str] | None) -> dict:
    prefix = layout.run(sweep, run)
    row = dict.fromkeys(COLUMNS) | {"sweep": sweep, "run": run, "uri": f"{store.url}/{prefix}"}
    try:
        record = unpack_json(store.get(f"{prefix}/{layout.FINISHED}"), f"{prefix}/{layout.FINISHED}")
    except FileNotFoundError:
        return row | _unfinished(store, prefix, manifest)
    except IntegrityError as error:
        if damage is None:
            raise
        damage.append(f"{store.url}: {error}")
        return row | {"state": "damaged"}
    known = {key: record[key] for key in COLUMNS if key in record}
    measured = {key: record["metrics"].get(key) for key in ("l0", "fvu", "loss_recovered", "dead_fraction")}
    timing = {"rows_per_s": record.get("timing", {}).get("rows_per_s")}
    return row | known | measured | timing | {"state": "finished"}


def _unfinished(store: Store, prefix: str, manifest: dict) -> dict:
    steps = CheckpointLog(store, f"{prefix}/checkpoints").steps()
    step = steps[-1] if steps else 0
    batch = manifest["identity"]["train"]["batch_size"]
    if store.exists(f"{prefix}/{layout.FAILED}"):
        state = "failed"
    else:
        state = "unfinished" if steps else "pending"
    return {"state": state, "step": step, "rows": step * batch}


def shuffle_line(store: Store, sweep: str) -> str:
    """How well the sweep's rows were mixed, for people; empty if a dataset had an order of its own."""
    path = layout.manifest(sweep)
    q = unpack_json(store.get(path), path).get("shuffle")
    if not q:
        return ""
    return (
        f"shuffle: {q['companions']:.2f} rows of the same context per row and batch (closed form "
        f"{q['expected']:.2f}),\n  entropy {q['entropy']:.3f}, {q['rows_at_hand']:,} rows at hand, "
        f"{q['lags']['16']:.0%} of contexts again 16 batches later"
    )
