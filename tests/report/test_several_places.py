"""Sweeps at several hook points, and sweeps of one name in several stores: nothing of one is taken for the other's."""

import base64
import json
import re
import shutil
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monosem.report.browser import atlas
from monosem.stages.report import report
from tests.services.chromium import chromium

FIRST, SECOND = "mlp.post", "blocks.1.resid_post"


@pytest.fixture(scope="module")
def visit():
    with chromium() as visit:
        yield visit


@pytest.fixture(scope="module")
def two_points(made, tmp_path_factory):
    """The made-up sweep as if its run 4x were of another hook point, and its site."""
    root = tmp_path_factory.mktemp("points")
    store = shutil.copytree(made, root / "store")
    run = store / "sweeps/made/runs/4x"
    for file, change in (("monosem.json", lambda d: d["host"].update(hook_name=SECOND)), ("features/manifest.json", lambda d: d.update(hook_point=SECOND))):
        found = json.loads((run / file).read_text())
        change(found)
        (run / file).write_text(json.dumps(found))
    report([f"{store}/made"], str(root / "site"), lambda line: None)
    return root / "site"


@pytest.fixture(scope="module")
def two_stores(made, tmp_path_factory):
    """Two stores with a sweep "made" each, of other hosts; of the second, what 1x is related to lies in a sweep "gone"."""
    root = tmp_path_factory.mktemp("stores")
    for name in ("a", "b"):
        shutil.copytree(made, root / name)
    table = pq.read_table(root / "b/sweeps/made/features/related.parquet")
    others = ["gone" if run == "1x" else sweep for run, sweep in zip(table["run"].to_pylist(), table["other_sweep"].to_pylist(), strict=True)]
    place = table.column_names.index("other_sweep")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(others)), root / "b/sweeps/made/features/related.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas, "is_available", lambda: False)
        report([f"{root}/a/made", f"{root}/b/made"], str(root / "site"), lambda line: None)
    return root / "site"


def data(site, name: str):
    body = re.fullmatch(r'M\.put\("[^"]*","([^"]*)"\);\n', (site / f"data/{name}.js").read_text())
    return json.loads(zlib.decompress(base64.b64decode(body[1])))


def text_of(page, selector: str) -> list[str]:
    return page.eval_on_selector_all(selector, "nodes => nodes.map((n) => n.textContent)")


def test_each_hook_point_has_a_map(two_points, visit):
    facts = data(two_points, "site")
    names = [run["name"] for run in facts["runs"]]
    maps = facts["sweeps"][0]["maps"]
    assert [(m["point"], m["runs"]) for m in maps] == [(FIRST, ["1x"]), (SECOND, ["4x"])]
    for one in maps:
        found = data(two_points, f"made/{one['name']}")
        assert [names[r] for r in found["runs"]] == one["runs"] and found["left"] == []
    assert all(data(two_points, f"made/{run}/index")["order"] is not None for run in ("1x", "4x"))
    v = visit()
    for address, run, here in (("made", "1x", FIRST), ("made/1x", "1x", FIRST), ("made/4x/3", "4x", SECOND)):
        v.open(two_points, f"map.html#{address}")
        assert text_of(v.page, ".mapbox .key bdi") == [run] and text_of(v.page, ".tabs [aria-current]") == [here]
    v.page.wait_for_selector("#tip:not([hidden])")
    v.page.click(f".tabs a:has-text('{FIRST}')")
    v.page.wait_for_selector(".mapbox .key bdi:has-text('1x')")
    v.open(two_points, "index.html")
    assert v.page.eval_on_selector_all(".sweep > .note a[href^=map]", "nodes => nodes.map((n) => n.getAttribute('href'))") == ["map.html#made/1x", "map.html#made/4x"]
    assert not v.troubles


def test_each_hook_point_has_its_fronts(two_points, site, visit):
    """Of one place 4x is better than 1x in all; of two places each is the best there is."""
    assert {r["name"]: r["front"] for r in data(site, "site")["runs"]} == {"1x": [], "4x": ["recovered", "fvu"], "neurons": []}
    assert {r["name"]: r["front"] for r in data(two_points, "site")["runs"]} == {"1x": ["recovered", "fvu"], "4x": ["recovered", "fvu"], "neurons": []}
    v = visit().open(two_points, "index.html")
    assert len(v.page.query_selector_all("svg.chart polyline.front")) == 4
    assert "hook point" in text_of(v.page, ".runs th") and text_of(v.page, ".runs td:nth-child(3)") == [FIRST, SECOND, FIRST]
    assert visit().open(site, "index.html").page.query_selector(".runs th:has-text('hook point')") is None
    phone = visit(width=390).open(two_points, "index.html")
    assert phone.page.eval_on_selector(".wide:has(.runs)", "n => n.scrollWidth <= n.clientWidth + 1")


def test_dictionaries_of_another_layer_are_no_other_sizes(two_points, site, visit):
    for where, title in ((site, "Other sizes"), (two_points, "Other hook points")):
        v = visit().open(where, "feature.html#made/4x/3")
        assert [h for h in text_of(v.page, ".side h2") if h.startswith("Other")] == [title]


def test_relatives_are_of_their_own_store(two_stores, visit):
    assert [s["name"] for s in data(two_stores, "site")["sweeps"]] == ["made", "made-2"]
    for sweep in ("made", "made-2"):
        related = data(two_stores, f"{sweep}/4x/features-0")["features"][0]["related"]
        assert related and {(r[0], r[1]) for r in related} == {(sweep, "1x")} and all(r[5] for r in related[:1])
    related = data(two_stores, "made-2/1x/features-0")["features"][0]["related"]
    assert related and {(r[0], r[1], *r[5]) for r in related} == {(None, "gone/4x")}
    v = visit().open(two_stores, "feature.html#made-2/4x/3")
    links = v.page.eval_on_selector_all(".kin a", "nodes => nodes.map((n) => n.getAttribute('href'))")
    assert links and all(link.startswith("feature.html#made-2/1x/") for link in links)
    v.open(two_stores, "feature.html#made-2/1x/3")
    assert v.page.query_selector(".kin a") is None and text_of(v.page, ".kin h3") == ["gone/4x"]
    assert not v.troubles
