"""The tasks of a feature pass: each reads what earlier phases left, and leaves files of its own. See `plan`."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from monosem.features.ablate import ByContext, ByToken, Effects
from monosem.features.entries import Entries, cross_products
from monosem.features.examples import Examples
from monosem.features.logits import logit_effects
from monosem.features.merge import (
    Correlated,
    Picked,
    Rows,
    Surroundings,
    example_columns,
    feature_columns,
    pick,
    sum_entries,
    window_tokens,
)
from monosem.features.plan import OTHER, Unit, is_neurons
from monosem.features.relate import related, stats_of
from monosem.features.state import State
from monosem.features.tables import make_table, to_parquet
from monosem.features.tiles import active_entries
from monosem.store.tensors import pack_tensors, unpack_tensors
from monosem.threads import torch_threads

FORWARD_CONTEXTS = 16
"""Contexts of one forward pass."""


def run_task(state: State, phase: str, number: int) -> None:
    """Do a task, unless it is done already."""
    with torch_threads(state.plan.threads), torch.no_grad():
        {"collect": collect, "merge": merge, "relate": relate}[phase](state, number)


# -- collect -------------------------------------------------------------------------------------


def collect(state: State, s: int) -> None:
    """Entries of every subject over slice s of the tokens, a file per unit; sums of the rows, last."""
    plan, store = state.plan, state.store
    if store.exists(plan.rows_file(s)):
        return
    sums = {}
    for number in range(len(plan.hosts)):
        for point, x in _rows(state, number, s).items():
            kept = finite_rows(x)
            if plan.skipped:
                kept = kept[torch.from_numpy(state.kept(np.array(plan.contexts_of(s)))).flatten()[kept]]
            rows = x if len(kept) == len(x) else x[kept]
            sums |= _sums_of_rows(f"{number}.{point}", rows)
            for i, subject in enumerate(plan.subjects):
                if (subject.host, subject.hook_point) == (number, point):
                    _collect_subject(state, s, i, rows, None if rows is x else kept)
    store.put(plan.rows_file(s), pack_tensors(sums))


def _rows(state: State, host: int, s: int) -> dict[str, torch.Tensor]:
    """Rows of a slice at the hook points of a host, float32 [n, D]."""
    plan, model = state.plan, state.host(host).model
    numbers, T = plan.contexts_of(s), plan.context_length
    points = plan.points(host)
    out = {p: torch.empty(len(numbers) * T, model.width(p)) for p in points}
    for lo in range(0, len(numbers), FORWARD_CONTEXTS):
        ids = np.arange(numbers.start + lo, min(numbers.stop, numbers.start + lo + FORWARD_CONTEXTS))
        for point, x in model.capture(state.tokens(ids), points).items():
            out[point][lo * T : (lo + len(ids)) * T] = x.flatten(0, 1)
    return out


def finite_rows(x: torch.Tensor) -> torch.Tensor:
    """Numbers of the rows without NaN and infinity: the others count as not read. int64."""
    if bool(torch.isfinite(x.sum())):
        return torch.arange(len(x))
    return torch.isfinite(x).all(dim=1).nonzero().flatten()


def _sums_of_rows(name: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.double()
    return {f"{name}.n": torch.tensor(len(x)), f"{name}.total": x.sum(dim=0), f"{name}.square": x.square().sum(dim=0)}


def _collect_subject(state: State, s: int, number: int, rows: torch.Tensor, kept: torch.Tensor | None) -> None:
    """kept: which rows of the slice these are; None: all."""
    plan, subject = state.plan, state.plan.subjects[number]
    found = active_entries(state.sae(number), rows)
    correlated = subject.has_neurons and subject.kind != OTHER and s < plan.related_slices
    cross = cross_products(found, rows.numpy()) if correlated else None
    if kept is not None:
        found = Entries(found.start, kept.numpy().astype(np.int32)[found.place], found.value)
    for unit in plan.units(number):
        part = found.slice(unit.lo, unit.hi)
        arrays = {"start": part.start, "place": part.place, "value": part.value}
        if cross is not None:
            arrays["cross"] = cross[unit.lo : unit.hi]
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        state.store.put(plan.entries_file(s, unit), pack_tensors(tensors))


# -- merge ---------------------------------------------------------------------------------------


def merge(state: State, g: int) -> None:
    """The tables of a group of units. Of entries only a unit's are held at a time."""
    plan, store = state.plan, state.store
    units = plan.groups()[g]
    if all(store.exists(plan.table_file(table, unit)) for unit in units for table in ("features", "examples")):
        return
    ablate, examples, effects = Ablate(state, units), [], []
    for unit in units:
        found = pick(state.entries(unit, plan.slices), unit.lo, plan.choice, plan.context_length)
        tokens = window_tokens(found.examples, state.index.tokens_NT, state.contexts)
        features = _features_table(state, unit, found, tokens)
        store.put(plan.table_file("features", unit), to_parquet("features", features))
        examples.append(found.examples)
        effects.append(ablate.one(unit, found))
    for unit, chosen, effect in zip(units, examples, ablate.together(examples) or effects, strict=True):
        tokens = window_tokens(chosen, state.index.tokens_NT, state.contexts)
        columns = example_columns(
            chosen, unit.lo, tokens, state.contexts, plan.context_length, state.domains[1], effect, ablate.only_top
        )
        rows = make_table("examples", columns, len(tokens))
        store.put(plan.table_file("examples", unit), to_parquet("examples", rows))


def _features_table(state: State, unit: Unit, found, tokens: np.ndarray):
    plan, sae = state.plan, state.sae(unit.subject)
    subject = plan.subjects[unit.subject]
    names, domain_N = state.domains
    sums = sum_entries(found.entries, domain_N, len(names))
    correlated = None
    if subject.has_neurons:
        first = total_rows(state, subject.host, subject.hook_point, plan.related_slices)
        correlated = Correlated(state.cross(unit), stats_of(found.entries.before(plan.related_tokens)), first)
    direct = state.direct(unit)
    effects = None if direct is None else logit_effects(direct[0], sae.W_dec[unit.lo : unit.hi], direct[1])
    rows = total_rows(state, subject.host, subject.hook_point, plan.slices)
    there = subject.write_point
    written = rows if there == subject.hook_point else total_rows(state, subject.host, there, plan.slices)
    around = Surroundings(rows, written, correlated, effects, is_neurons(there))
    columns = feature_columns(sae, unit.lo, found, sums, around, tokens, plan.config.top, state.vocab)
    return make_table("features", columns, unit.hi - unit.lo)


def total_rows(state: State, host: int, point: str, slices: int) -> Rows:
    """Sums over the rows of the first slices at a hook point."""
    n, total, square, name = 0, 0.0, 0.0, f"{host}.{point}"
    for s in range(slices):
        path = state.plan.rows_file(s)
        t = unpack_tensors(state.store.get(path), path)
        n += int(t[f"{name}.n"])
        total, square = total + t[f"{name}.total"].numpy(), square + t[f"{name}.square"].numpy()
    return Rows(n, total, square)


class Ablate:
    """Ablation effects of the examples of some units: unit by unit where that takes their entries, else together, so
    that each context is run once for all."""

    def __init__(self, state: State, units: list[Unit]):
        self.way, self.only_top = state.ablation(units[0]), state.plan.config.ablations == "top"
        self.state, self.units = state, units

    def one(self, unit: Unit, found: Picked) -> Effects | None:
        if not isinstance(self.way, ByContext):
            return None
        part, kept = _asked(found.examples, self.only_top)
        (d,) = _decoders(self.state, [unit])
        return _spread(self.way.effects(part, found.entries, d), kept, len(found.examples.group))

    def together(self, examples: list[Examples]) -> list[Effects] | None:
        if not isinstance(self.way, ByToken):
            return None
        parts = [_asked(e, self.only_top) for e in examples]
        offsets = np.cumsum([0] + [unit.hi - unit.lo for unit in self.units])
        moved = [replace(e, feature=e.feature + np.int32(o)) for (e, _), o in zip(parts, offsets, strict=False)]
        joined = Examples(*(np.concatenate([getattr(e, name) for e in moved]) for name in Examples.__annotations__))
        found = self.way.effects(joined, None, torch.cat(_decoders(self.state, self.units)))
        ends = np.cumsum([0] + [len(e.group) for e in moved])
        each = [Effects(*(getattr(found, name)[a:b] for name in Effects.__annotations__)) for a, b in pairwise(ends)]
        return [_spread(e, kept, len(whole.group)) for e, (_, kept), whole in zip(each, parts, examples, strict=True)]


def _decoders(state: State, units: list[Unit]) -> list[torch.Tensor]:
    return [state.sae(unit.subject).W_dec[unit.lo : unit.hi] for unit in units]


def _asked(e: Examples, only_top: bool) -> tuple[Examples, np.ndarray | None]:
    """The examples to ablate, and which of all they are; None: all."""
    if not only_top:
        return e, None
    kept = np.flatnonzero(e.group == 0)
    return Examples(*(getattr(e, name)[kept] for name in Examples.__annotations__)), kept


def _spread(found: Effects, kept: np.ndarray | None, m: int) -> Effects:
    """Effects of the kept examples in arrays for all m."""
    if kept is None:
        return found
    out = Effects.empty(m, found.loss.shape[1])
    for name in Effects.__annotations__:
        getattr(out, name)[kept] = getattr(found, name)
    return out


# -- relate --------------------------------------------------------------------------------------


def relate(state: State, u: int) -> None:
    """Features of a unit and those of every other dictionary that do the same."""
    plan, store = state.plan, state.store
    unit = plan.related_units()[u]
    if store.exists(plan.related_file(unit)):
        return
    subject, slices = plan.subjects[unit.subject], plan.related_slices
    n = total_rows(state, subject.host, subject.hook_point, slices).n
    entries = state.entries(unit, slices)
    d = state.sae(unit.subject).W_dec[unit.lo : unit.hi]
    tables = []
    for i in plan.others(unit.subject):
        other = plan.subjects[i]
        same = (subject.host, subject.write_point) == (other.host, other.write_point)
        there = state.all_entries(i, slices)
        decoders = (d, state.sae(i).W_dec) if same else (None, None)
        found = related(entries, there, plan.related_tokens, n, *decoders)
        m = len(found.feature)
        columns = {
            "run": [subject.name] * m,
            "feature": found.feature + np.int32(unit.lo),
            "other_sweep": [other.sweep] * m,
            "other_run": [other.name] * m,
            "other_feature": found.other,
            "rank": found.rank,
            "cosine": _or_null(found.cosine),
            "r": _or_null(found.r),
        }
        tables.append(make_table("related", columns, m))
    store.put(plan.related_file(unit), to_parquet("related", _by_feature(tables)))


def _or_null(values: np.ndarray):
    import pyarrow as pa

    return pa.array(values.astype(np.float32), mask=np.isnan(values))


def _by_feature(tables: list):
    import pyarrow as pa

    if not tables:
        return make_table("related", {name: [] for name in ("run", "feature", "other_sweep", "other_run",
                                                            "other_feature", "rank", "cosine", "r")}, 0)  # fmt: skip
    whole = pa.concat_tables(tables)
    keys = ("feature", "other_sweep", "other_run", "rank")
    return whole.sort_by([(key, "ascending") for key in keys])
