"""summary.html: the result of a sweep on one self-contained page."""

import json

import jinja2
from markupsafe import Markup

from monosem.report import plots
from monosem.store import layout
from monosem.store.plain import unpack_json
from monosem.store.store import Store

DENSE_FROM, RARE_TO = -2.0, -4.0
"""log10 densities: of a feature too common to mean one thing, and of one too rare to tell on this much text."""

ASKED = {"l1_coefficient": "L1", "l0_coefficient": "L0", "k": "k"}
"""What a job asks for to make a dictionary sparse; each variant has one of them."""


def write_summary(store: Store, sweep: str) -> str:
    """Render the page of the finished runs of `sweep` into the store. Returns where it is."""
    manifest = unpack_json(store.get(layout.manifest(sweep)), layout.manifest(sweep))
    runs = [run for name in manifest["runs"] if (run := _finished(store, sweep, name))]
    curves = {run["run"]: _curve(store, sweep, run["run"]) for run in runs}
    first = runs[0]
    neurons = {
        run["host"]["hook_name"]: {"l0": run["metrics"]["neurons_l0"], "d_in": run["d_in"]} for run in runs
    }
    drawn = {
        "recovered": plots.recovered_plot(runs, neurons),
        "fvu": plots.fvu_plot(runs),
        "density": plots.density_plot(runs),
        "curves": plots.curve_plot(curves),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("monosem.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = lambda x, form="%.3f": "-" if x is None else form % x
    page = environment.get_template("summary.html.jinja2").render(
        sweep=sweep,
        host=first["host"]["model"],
        hook=", ".join(neurons),
        shuffle=manifest.get("shuffle"),
        rows=first["rows"],
        runs=runs,
        neurons=neurons,
        loss_clean=first["metrics"]["loss_clean"],
        loss_zero=first["metrics"]["loss_zero_ablated"],
        heldout_rows=first["metrics"]["heldout_rows"],
        plots={name: Markup(svg) for name, svg in drawn.items()},
    )
    store.put(layout.summary(sweep), page.encode())
    return f"{store.url}/{layout.summary(sweep)}"


def _finished(store: Store, sweep: str, run: str) -> dict | None:
    prefix = layout.run(sweep, run)
    try:
        record = unpack_json(store.get(f"{prefix}/{layout.FINISHED}"), prefix)
    except FileNotFoundError:
        return None
    h = record["metrics"]["density_histogram"]
    counts = list(zip(h["edges"][:-1], h["counts"], strict=True))
    asked = [f"{label} {record[key]:g}" for key, label in ASKED.items() if record.get(key) is not None]
    return record | {
        "asked": ", ".join(asked),
        "uri": f"{store.url}/{prefix}",
        "dense": sum(n for edge, n in counts if edge >= DENSE_FROM),
        "rare": sum(n for edge, n in counts if edge < RARE_TO),
    }


def _curve(store: Store, sweep: str, run: str) -> list[dict]:
    data = store.get(f"{layout.run(sweep, run)}/{layout.METRICS}")
    return [json.loads(line) for line in data.decode().splitlines()]
