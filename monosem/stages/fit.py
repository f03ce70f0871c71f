"""`monosem fit STORE/SWEEP`: laws and fronts over the finished runs of a sweep, and which run to add next."""

from monosem.errors import InputError
from monosem.evals.laws import PowerLaw, compute_of, fit_power_law, next_run
from monosem.report.fit import write_fit
from monosem.stages.listing import run_rows
from monosem.store import layout
from monosem.store.plain import unpack_json
from monosem.store.store import Store, open_store

ASKED = ("l1_coefficient", "l0_coefficient", "k")
FITTED = ("fvu", "loss_gap", "l0", "alive")
"""What is fitted against compute: FVU, 1 - loss recovered, L0, and features that are alive."""


def fit_sweep(uri: str) -> dict:
    """{"uri", "groups": [{hook_point, variant, runs, laws, next, why}]}; the page goes into the store."""
    root, _, name = uri.rstrip("/").rpartition("/")
    if not root or not name:
        raise InputError(f"{uri!r}: write STORE/SWEEP, for example ./monosem-store/quickstart")
    store = open_store(root.removesuffix("/sweeps"))
    finished = [row for row in run_rows(store, name) if row["state"] == "finished"]
    rows = [_row(store, row) for row in finished if None not in (row["fvu"], row["loss_recovered"])]
    if len(rows) < 2:
        without = f", {len(finished) - len(rows)} more without FVU or loss recovered" * (len(finished) > len(rows))
        raise InputError(f"{uri}: {len(rows)} finished runs{without}; a fit needs at least 2")
    groups = []
    for key in dict.fromkeys((row["hook_point"], row["variant"]) for row in rows):
        groups.append(_group(*key, [row for row in rows if (row["hook_point"], row["variant"]) == key]))
    return {"uri": write_fit(store, name, groups), "groups": groups}


def _row(store: Store, row: dict) -> dict:
    record = unpack_json(store.get(f"{layout.run(row['sweep'], row['run'])}/{layout.FINISHED}"), row["run"])
    return row | {
        "hook_point": record["host"]["hook_name"],
        "asked": next((name, row[name]) for name in ASKED if row[name] is not None),
        "compute": compute_of(row),
        "loss_gap": 1 - row["loss_recovered"],
        "alive": round(row["d_sae"] * (1 - row["dead_fraction"])),
    }


def _group(hook_point: str, variant: str, rows: list[dict]) -> dict:
    """Laws are of runs that asked for the same sparsity: those of the value that most runs have."""
    values = [row["asked"] for row in rows]
    usual = max(dict.fromkeys(values), key=values.count)
    same = [row for row in rows if row["asked"] == usual]
    laws = {name: fit_power_law([r["compute"] for r in same], [r[name] for r in same]) for name in FITTED}
    overrides, why = next_run(rows, laws["fvu"], usual)
    return {
        "hook_point": hook_point,
        "variant": variant,
        "asked": dict([usual]),
        "runs": sorted(rows, key=lambda row: row["compute"]),
        "laws": {name: _plain(law) for name, law in laws.items()},
        "next": {f"sae.{name}": value for name, value in overrides.items()},
        "why": why,
    }


def _plain(law: PowerLaw | None) -> dict | None:
    return None if law is None else vars(law)
