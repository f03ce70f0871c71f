"""The feature browser: one static site for all dictionaries of one or several sweeps.

It opens from disk without a server and from any static host, and loads nothing from elsewhere. Pages are empty frames
(page.html.jinja2) that scripts fill; text reaches a page as text nodes only, and the pages' Content-Security-Policy
and Trusted Types forbid every other way. Data lie beside them, see pack.py, writer.py and terms.py.
"""

from collections.abc import Callable
from contextlib import nullcontext
from importlib import resources

import jinja2

from monosem.errors import InputError
from monosem.memory import without_cycle_search
from monosem.report.browser import atlas, kinds
from monosem.report.browser.mapping import Map
from monosem.report.browser.pack import Site
from monosem.report.browser.related import Related, short_names
from monosem.report.browser.rubric import Sample, write_rubric
from monosem.report.browser.sources import Run, Sweep, by_point, open_sweep
from monosem.report.browser.terms import TermIndex, write_terms
from monosem.report.browser.textview import write_texts
from monosem.report.browser.words import Vocabulary, normal
from monosem.report.browser.writer import FEATURES_PER_FILE, ROWS_PER_FILE, RunWriter
from monosem.store.plain import pack_json, unpack_json
from monosem.store.store import Store
from monosem.track.progress import PhaseProgress

PAGES = {
    "index": ("Features", ["search", "start"]),
    "run": ("Index", ["run"]),
    "feature": ("Feature", ["feature"]),
    "texts": ("Texts", ["texts"]),
    "map": ("Map", ["moves", "map"]),
    "rubric": ("Rubric", ["rubric"]),
}
"""Pages, their titles, and the scripts that each has besides SHARED."""

SHARED = ["core", "page", "plot", "examples"]
MARKER = "site.json"
"""Written first: what is below this directory is ours and may be written anew."""

Say = Callable[[str], None]


def write_browser(sources: list[tuple[Store, str, list[str]]], store: Store, prefix: str, say: Say) -> str:
    """Write the site of `sources` (store, sweep, runs or none for all) below `prefix` ("" or "a/b/") of `store`.

    Returns where its start page is. A site that is there already is replaced; anything else there is an InputError.
    """
    sweeps = _open(sources)
    site = Site(store, prefix)
    _clear(site)
    related, index, numbers = Related(), TermIndex(), {}
    for sweep in sweeps:
        own = {s.stored_as: s.name for s in sweeps if s.store.url == sweep.store.url} | {sweep.stored_as: sweep.name}
        _name_features(sweep, related, own)
        numbers |= {run.data_name: len(numbers) + place for place, run in enumerate(sweep.runs)}
    facts = [_write_sweep(site, sweep, related, index, numbers, say) for sweep in sweeps]
    runs = [run.facts for sweep in sweeps for run in sweep.runs]
    found = _found(site, index, runs)
    site.data("site", {"sweeps": facts, "runs": runs, "kinds": kinds.NAMES, "search": found,
                       "rowsPerFile": ROWS_PER_FILE, "featuresPerFile": FEATURES_PER_FILE})  # fmt: skip
    _write_pages(site)
    return f"{store.url}/{prefix}index.html"


def _found(site: Site, index: TermIndex, runs: list[dict]) -> dict:
    """The search's files, and what the start page says of them."""
    shown = [number for number, run in enumerate(runs) if run["kind"] != "neurons"]
    names = {normal(name) for name in kinds.NAMES}
    domains = sorted({d for run in runs for d in run["domains"] if normal(d) not in names})
    return {
        "first": write_terms(site, index),
        "kinds": index.counts(list(kinds.NAMES), shown),
        "domains": index.counts(domains, shown),
    }


def _open(sources: list[tuple[Store, str, list[str]]]) -> list[Sweep]:
    """The sweeps, each under a name of its own."""
    sweeps: list[Sweep] = []
    for store, stored_as, only in sources:
        taken = {sweep.name for sweep in sweeps}
        name = next(n for n in (stored_as, *(f"{stored_as}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)
        sweeps.append(open_sweep(store, stored_as, name, only))
    return sweeps


def _clear(site: Site) -> None:
    try:
        unpack_json(site.store.get(f"{site.prefix}{MARKER}"), MARKER)
    except FileNotFoundError:
        there = site.store.list(site.prefix.rstrip("/"))
        if there:
            raise InputError(
                f"{site.store.url}/{site.prefix}: holds {there[0]!r} and is no report; name a new or empty directory"
            ) from None
    site.put(MARKER, pack_json({"format": 1, "what": "a feature browser written by monosem report"}))
    site.store.delete_tree(f"{site.prefix}data")


def _name_features(sweep: Sweep, related: Related, called: dict[str, str]) -> None:
    vocabulary = Vocabulary(sweep.vocabulary)
    related.names |= {run.data_name: short_names(run.tables, vocabulary) for run in sweep.runs if run.tables}
    related.read(sweep.store, sweep.related, sweep.name, called)


def _write_sweep(site: Site, sweep: Sweep, related: Related, index: TermIndex, numbers: dict, say: Say) -> dict:
    """All files of the runs of a sweep. Returns what the start page says of it."""
    groups, places, maps, writers = _map_groups(sweep, say), {}, [], {}
    for number, runs in enumerate(groups or [[]]):
        with Map(sweep, runs, f"map-{number}" if number else "map") if runs else nullcontext() as work:
            if not number:  # beside the first map; others only then, one at a time, for what they take of memory
                writers = _write_runs(site, sweep, related, index, numbers)
            found = work.write(site, related, numbers) if work else {}
        places |= found
        maps += [work.facts()] if found else []
    for name, writer in writers.items():
        writer.write_index(places.get(name))
    first = sweep.dictionaries[0].record
    rows = {run.record["rows"] for run in sweep.dictionaries}
    return {
        "name": sweep.name,
        "host": first["host"]["model"],
        "hook": ", ".join(dict.fromkeys(run.facts["hook"] for run in sweep.dictionaries)),
        "rows": rows.pop() if len(rows) == 1 else None,
        "maps": maps,
    }


def _write_runs(site: Site, sweep: Sweep, related: Related, index: TermIndex, numbers: dict) -> dict[str, RunWriter]:
    """Everything of the runs but their indexes; by name, who writes those."""
    opened = [run for run in sweep.runs if run.tables]
    vocabulary, writers, samples = Vocabulary(sweep.vocabulary), {}, {}
    total = sum(run.tables.size for run in opened)
    with PhaseProgress("browser", total, "features") as progress, without_cycle_search():
        for run in sorted(opened, key=lambda run: run.record is not None):  # neurons first: exercises need them
            writer = RunWriter(site, run.data_name, numbers[run.data_name], vocabulary, related, index)
            writer.sample = samples[run.name] = Sample(run.data_name, run.tables)
            writer.write(run.tables, lambda n: progress.update(progress.done + n))
            writers[run.name] = writer
            names = related.names[run.data_name]
            run.facts["texts"] = write_texts(site, run.data_name, run.tables, vocabulary, names)
            run.facts["neurons"] = _neurons(sweep, run)
            if run.record is not None:
                write_rubric(site, samples[run.name], samples.get(run.facts["neurons"]))
    return writers


def _neurons(sweep: Sweep, run: Run) -> str | None:
    """Name of the neurons at the hook point that a run reads."""
    hook = run.tables.manifest["hook_point"]
    return next((r.name for r in sweep.runs if r.record is None and r.tables.manifest["hook_point"] == hook), None)


def _map_groups(sweep: Sweep, say: Say) -> list[list[Run]]:
    """The runs of each map that is to be made: one for each hook point that decoders write to."""
    runs = [run for run in sweep.dictionaries if run.tables]
    if runs and not atlas.is_available():
        say("note: no map of features: umap-learn and scikit-learn are not installed (pip install 'monosem[map]')")
        return []
    return list(by_point(runs).values())


def _write_pages(site: Site) -> None:
    """Frames and assets; the start page last."""
    folder = resources.files("monosem.report.browser") / "static"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        site.put(f"assets/{file.name}", file.read_bytes())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("monosem.report.browser"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("page.html.jinja2")
    for page, (title, scripts) in sorted(PAGES.items(), key=lambda item: item[0] == "index"):
        site.put(f"{page}.html", template.render(title=title, scripts=[*SHARED, *scripts]).encode())
