"""What a site is made of: sweeps of stores, their runs, and the feature tables that there are."""

import difflib
import json
from dataclasses import dataclass, field

from monosem.errors import InputError
from monosem.evals.laws import pareto_front
from monosem.features import schema
from monosem.report.browser.tables import FeatureTables, read_table
from monosem.report.summary import ASKED
from monosem.store import layout
from monosem.store.plain import unpack_json
from monosem.store.store import Store

COLOURS = 8
"""Colours of the style sheet, c0 to c7."""

CURVE_POINTS = 300


@dataclass
class Run:
    """A dictionary, or a host's neurons. `record`: its monosem.json, None for neurons."""

    sweep: str
    name: str
    prefix: str
    tables: FeatureTables | None
    record: dict | None
    curve: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    """What the pages learn of it."""

    @property
    def data_name(self) -> str:
        return f"{self.sweep}/{self.name}"

    @property
    def point(self) -> str:
        """Where its decoder writes: the hook point that it reads, or a transcoder's target."""
        if self.record is None:
            return self.tables.manifest["hook_point"]
        return self.record["host"].get("target") or self.record["host"]["hook_name"]


@dataclass
class Sweep:
    store: Store
    name: str
    """On the pages: the sweep's own name, with a number if another one has it too."""
    stored_as: str
    runs: list[Run]
    vocabulary: list[str]

    @property
    def related(self) -> str:
        return f"{layout.sweep(self.stored_as)}/{schema.DIRECTORY}/{schema.RELATED_FILE}"

    @property
    def dictionaries(self) -> list[Run]:
        return [run for run in self.runs if run.record is not None]


def open_sweep(store: Store, stored_as: str, name: str, only: list[str]) -> Sweep:
    """The finished runs of a sweep, or those of them named in `only`; InputError if there are none."""
    path = layout.manifest(stored_as)
    try:
        manifest = unpack_json(store.get(path), path)
    except FileNotFoundError:
        raise InputError(f"{store.url}: no sweep {stored_as!r} there") from None
    _check_names(only, manifest["runs"], f"{store.url}/{layout.sweep(stored_as)}")
    names = [run for run in manifest["runs"] if not only or run in only]
    runs = [run for run in (_run(store, stored_as, name, run) for run in names) if run is not None]
    if not runs:
        raise InputError(f"{store.url}/{layout.sweep(stored_as)}: no finished run there to report on")
    home = f"{layout.sweep(stored_as)}/{schema.DIRECTORY}"
    for found in store.list(home):
        if found.split("-")[0] == "neurons" and (tables := FeatureTables.open(store, f"{home}/{found}")):
            runs.append(Run(name, found, f"{home}/{found}", tables, None))
    host = next(run.record["host"]["model"] for run in runs if run.record is not None)
    _number(runs, host)
    return Sweep(store, name, stored_as, runs, _vocabulary(store, f"{home}/{schema.VOCAB_FILE}", runs))


def _check_names(asked: list[str], known: list[str], where: str) -> None:
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
            raise InputError(f"{where}: no run {name!r} there{hint}")


def _run(store: Store, stored_as: str, sweep: str, run: str) -> Run | None:
    prefix = layout.run(stored_as, run)
    try:
        record = unpack_json(store.get(f"{prefix}/{layout.FINISHED}"), prefix)
    except FileNotFoundError:
        return None
    lines = store.get(f"{prefix}/{layout.METRICS}").decode().splitlines()
    points = [p for p in map(json.loads, lines) if p.get("fvu") is not None]
    step = max(1, -(-len(points) // CURVE_POINTS))
    curve = [[p["rows"] / 1e6, p["fvu"]] for p in points[::step]]
    return Run(sweep, run, prefix, FeatureTables.open(store, f"{prefix}/{schema.DIRECTORY}"), record, curve)


def _vocabulary(store: Store, path: str, runs: list[Run]) -> list[str]:
    """Text by token id; empty if the feature pass has not been there."""
    if not any(run.tables for run in runs):
        return []
    table = read_table(store, path, schema.VOCAB)
    tokens = table["token"].tolist()
    texts = [f"token {i}" for i in range(max(tokens, default=-1) + 1)]
    for token, text in zip(tokens, table["text"], strict=True):
        texts[token] = text
    return texts


def _number(runs: list[Run], host: str) -> None:
    """Fill in what the start page says of each run, all of one host. Fronts are over runs that do the same work."""
    fronts: dict[str, set[str]] = {"recovered": set(), "fvu": set()}
    for kin in by_point([run for run in runs if run.record is not None]).values():
        fronts["recovered"] |= _front(kin, "loss_recovered", -1)
        fronts["fvu"] |= _front(kin, "fvu", 1)
    for place, run in enumerate(runs):
        front = [key for key, found in fronts.items() if run.name in found]
        run.facts = _facts(run) | {"host": host, "colour": place % COLOURS, "front": front}


def by_point(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs of one sweep by where their decoders write, in order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.point, []).append(run)
    return found


def _front(runs: list[Run], key: str, sign: int) -> set[str]:
    """Names of the runs that no other betters in both L0 and `key`."""
    measured = [run for run in runs if run.record["metrics"][key] is not None]
    points = [(run.record["metrics"]["l0"], sign * run.record["metrics"][key]) for run in measured]
    return {measured[i].name for i in pareto_front(points)}


def _facts(run: Run) -> dict:
    manifest = run.tables.manifest if run.tables else {}
    counts = manifest.get("counts", {})
    record = run.record or {}
    metrics = record.get("metrics", {})
    histogram = metrics.get("density_histogram")
    asked = [f"{label} {record[key]:g}" for key, label in ASKED.items() if record.get(key) is not None]
    return {
        "sweep": run.sweep,
        "name": run.name,
        "kind": "dictionary" if run.record else "neurons",
        "open": run.tables is not None,
        "features": record.get("d_sae", manifest.get("d_sae")),
        "variant": record.get("variant", "neurons"),
        "asked": ", ".join(asked),
        "hook": record["host"]["hook_name"] if record else manifest.get("hook_point"),
        "point": run.point,
        "l0": metrics.get("l0"),
        "fvu": metrics.get("fvu"),
        "recovered": metrics.get("loss_recovered"),
        "histogram": histogram and {"edges": histogram["edges"], "counts": histogram["counts"]},
        "curve": run.curve,
        "tokens": manifest.get("tokens"),
        "dead": counts.get("dead"),
        "ultralow": counts.get("ultralow"),
        "domains": manifest.get("domains", []),
        "texts": 0,
    }
