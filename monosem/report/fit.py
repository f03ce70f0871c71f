"""fit.html: laws and fronts of a sweep on one self-contained page."""

import jinja2
from markupsafe import Markup

from monosem.evals.laws import PowerLaw, pareto_front
from monosem.report import plots
from monosem.store import layout
from monosem.store.store import Store

NAMES = {"fvu": "FVU", "loss_gap": "1 - loss recovered", "l0": "L0", "alive": "features alive"}


def write_fit(store: Store, sweep: str, groups: list[dict]) -> str:
    """Render the page into the store. Returns where it is."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("monosem.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    drawn = [
        {
            "law": Markup(plots.law_plot(group["runs"], group["laws"]["fvu"] and PowerLaw(**group["laws"]["fvu"]))),
            "fvu": Markup(_front(group["runs"], "fvu", "FVU")),
            "recovered": Markup(_front(group["runs"], "loss_gap", "1 - loss recovered")),
        }
        for group in groups
    ]
    page = environment.get_template("fit.html.jinja2").render(
        sweep=sweep, groups=list(zip(groups, drawn, strict=True)), names=NAMES
    )
    store.put(layout.fit(sweep), page.encode())
    return f"{store.url}/{layout.fit(sweep)}"


def _front(runs: list[dict], key: str, label: str) -> str:
    points = [(run["l0"], run[key]) for run in runs]
    return plots.front_plot(runs, points, pareto_front(points), label)
