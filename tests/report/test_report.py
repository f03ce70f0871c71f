"""The summary page and the table: hostile names stay text, nothing is loaded from elsewhere."""

import html.parser
import io
import json

from rich.console import Console

from monosem.report import plots
from monosem.report.summary import write_summary
from monosem.report.table import show_table
from monosem.store.plain import pack_json
from monosem.store.store import open_store


def record(run: str, **changes) -> dict:
    h = {"edges": [-7.0, -4.0, -2.0, 0.0], "counts": [3, 5, 2], "dead": 1}
    metrics = {"l0": 12.0, "fvu": 0.2, "loss_recovered": 0.9, "dead_fraction": 0.1, "loss_clean": 2.0,
               "loss_zero_ablated": 5.0, "heldout_rows": 1000, "neurons_l0": 4.0, "density_histogram": h}  # fmt: skip
    base = {"run": run, "d_in": 8, "d_sae": 16, "variant": "relu", "l1_coefficient": 0.1, "rows": 64, "metrics": metrics,
            "host": {"model": "h", "hook_name": "mlp.post"}}  # fmt: skip
    return base | changes


class Tags(html.parser.HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [f"{tag} {name}={value}" for name, value in attrs]


def page_of(tmp_path, host: str) -> str:
    store = open_store(str(tmp_path))
    store.put("sweeps/s/sweep.json", pack_json({"runs": ["1x", "2x"]}))
    for run in ("1x", "2x"):
        store.put(f"sweeps/s/runs/{run}/monosem.json", pack_json(record(run, host={"model": host, "hook_name": "x"})))
        point = {"step": 1, "rows": 64, "fvu": 0.5}
        store.put(f"sweeps/s/runs/{run}/metrics.jsonl", (json.dumps(point) + "\n").encode())
    return open(write_summary(store, "s")).read()


def test_hostile_names_change_nothing(tmp_path):
    plain = Tags(page_of(tmp_path / "a", "host"))
    for number, payload in enumerate(
        ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "</title>"]
    ):
        hostile = Tags(page_of(tmp_path / str(number), payload))
        assert hostile.tags == plain.tags and "script" not in hostile.tags
        assert not [a for a in hostile.attributes if " on" in a or "javascript:" in a]


def test_nothing_remote(tmp_path):
    tags = Tags(page_of(tmp_path, "host"))
    loading = [a for a in tags.attributes if a.split(" ")[1].split("=")[0] in ("src", "href", "action", "data")]
    assert not loading
    assert any("default-src 'none'" in a for a in tags.attributes)


def test_density_groups(tmp_path):
    page = page_of(tmp_path, "host")
    assert "<td>3</td><td>2</td>" in page  # 3 rare, 2 dense, from the histogram above


def test_features_of_ultralow_density_are_in_the_plot(monkeypatch):
    """The histogram begins at -7 and its first bin holds all that are rarer."""
    drawn = []
    monkeypatch.setattr(plots, "_svg", lambda figure: drawn.append(figure.axes[0].get_xlim()))
    edges = [-7.0, -6.5, -6.0, -4.0, 0.0]
    for counts in ([3, 0, 5, 2], [0, 3, 5, 2], [0, 0, 5, 2], [0, 0, 0, 2]):
        histogram = {"edges": edges, "counts": counts, "dead": 1}
        plots.density_plot([record("1x", metrics={"density_histogram": histogram})])
    assert drawn == [(-7.0, 0.0), (-6.5, 0.0), (-6.0, 0.0), (-6.0, 0.0)]


def test_table_fits_80_columns_and_shows_what_is_missing():
    out = io.StringIO()
    rows = [
        {"run": "131072x-l1_0.00017-seed_123", "d_sae": 131072, "l0": 12.345, "fvu": 0.1234, "loss_recovered": 0.9,
         "dead_fraction": 0.391, "rows_per_s": 123456.7, "state": "finished", "step": 5},
        {"run": "[bold]x", "state": "failed", "step": 30},
    ]  # fmt: skip
    show_table(rows, Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]x" in text and "failed @30" in text and " - " in text and "39.1%" in text and "123,457" in text
    assert "recovered above 1" not in text


def test_a_ratio_above_1_is_not_left_without_a_word():
    out = io.StringIO()
    show_table([{"run": "1x", "state": "finished", "loss_recovered": 1.07}], Console(file=out, width=80))
    assert "recovered above 1: the host predicts this text too badly" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_runs_without_some_figures_have_a_page_too(tmp_path):
    """Text on which the host gives no numbers leaves FVU and L0; rows that are all equal leave no FVU either."""
    store, h = open_store(str(tmp_path)), record("x")["metrics"]
    none = {"loss_recovered": None, "loss_clean": None, "loss_zero_ablated": None}
    runs = [record("1x", metrics=h | none), record("2x", metrics=h | none | {"fvu": None}), record("4x")]
    store.put("sweeps/s/sweep.json", pack_json({"runs": [run["run"] for run in runs]}))
    for run in runs:
        store.put(f"sweeps/s/runs/{run['run']}/monosem.json", pack_json(run))
        store.put(f"sweeps/s/runs/{run['run']}/metrics.jsonl", b"")
    write_summary(store, "s")
    page = (tmp_path / "sweeps/s/summary.html").read_text()
    assert page.count("<td>-</td>") == 3 and "(- nats)" in page
