"""The feature browser in a real browser: what its pages show is what the tables hold."""

import csv
import io
import json
import math
import re
import shutil
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monosem.features import schema
from monosem.report.browser import atlas
from monosem.report.browser.pack import column, packed
from monosem.report.browser.words import normal
from monosem.stages.report import report
from tests.report.tables import DOMAINS, TOKENS
from tests.services.chromium import chromium

PAGES = ["index.html", "index.html#find/river", "run.html#made/4x", "feature.html#made/4x/3", "feature.html#made/neurons/2",
         "feature.html#made/4x/9", "texts.html#made/1x/1", "map.html#made", "rubric.html#made/4x"]  # fmt: skip
"""One of each kind; feature 9 is dead."""


@pytest.fixture(scope="module")
def visit():
    with chromium() as visit:
        yield visit


def table(made, name: str, run: str = "4x") -> list[dict]:
    files = sorted((made / f"sweeps/made/runs/{run}/features").glob(f"{name}*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def a_feature(made) -> dict:
    """With all groups of examples, and text in which no character is parted."""
    return next(f for f in table(made, "features") if f["n_examples"] > 20 and np.argmax(f["domain_counts"]) != DOMAINS.index("hebrew"))


def text_of(page, selector: str) -> list[str]:
    return page.eval_on_selector_all(selector, "nodes => nodes.map((n) => n.textContent)")


@pytest.mark.parametrize("width, scheme", [(1440, "light"), (390, "dark")])
def test_pages_open_from_disk_and_are_sound(visit, site, width, scheme):
    for address in PAGES:
        v = visit(width=width, color_scheme=scheme).open(site, address)
        assert not v.page.query_selector(".trouble"), v.page.inner_text("main")
        assert v.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), f"{address} is too wide"
        dark = v.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 60")
        assert dark == (scheme == "dark")
        assert v.page.evaluate(NAMELESS) == [], f"{address}: without an accessible name"
        assert v.troubles == [], address


NAMELESS = """[...document.querySelectorAll('a, button, input, select, textarea, canvas, [role=img]')].filter((n) => {
  const label = n.getAttribute('aria-label') || n.textContent.trim() || (n.labels && [...n.labels].map((l) => l.textContent).join(''));
  return !label;
}).map((n) => n.outerHTML.slice(0, 120))"""


def test_nothing_but_our_files_can_run(visit, site):
    v = visit().open(site, "index.html")
    attempts = v.page.evaluate("""() => new Promise((done) => setTimeout(() => {     // later: a debugger's own code may eval
      window.ran = [];
      const tries = [() => { document.body.innerHTML = '<b>x</b>'; }, () => eval('ran.push(1)'), () => new Function('ran.push(2)')(),
        () => document.body.setAttribute('onclick', 'ran.push(3)'), () => { document.createElement('script').text = 'ran.push(4)'; }];
      const refused = tries.map((t) => { try { t(); return false; } catch { return true; } });
      const image = document.createElement('img');
      image.src = 'http://127.0.0.1:9/x.png';
      document.body.append(image);
      document.body.click();
      done({ refused, ran: window.ran });
    }, 50))""")
    assert attempts == {"refused": [True] * 5, "ran": []}
    assert any("x.png" in t and "Content Security Policy" in t for t in v.troubles)
    for kind in ("TrustedHTML", "TrustedScript"):  # the page's other policy, which is asked first
        assert any(f"requires '{kind}'" in t for t in v.troubles)


def test_a_feature_shows_what_its_tables_say(visit, site, made):
    feature = a_feature(made)
    i = feature["feature"]
    examples = [e for e in table(made, "examples") if e["feature"] == i]
    page = visit().open(site, f"feature.html#made/4x/{i}").page
    assert len(page.query_selector_all(".groups details")) == 13
    assert len(page.query_selector_all(".examples li")) == len(examples) == 95
    shown = text_of(page, ".groups details:first-of-type li:first-child .t")
    assert shown == [TOKENS[t] for t in examples[0]["tokens"]]
    for side, name in (("up", "top"), ("down", "bottom")):
        values = [float(v.replace("\u2212", "-")) for v in text_of(page, f".logits.{side} .n")]
        assert values == pytest.approx(feature[f"{name}_logit_values"], rel=6e-3)
    assert len(page.query_selector_all("svg.chart rect.bar.act")) == schema.BUCKETS
    assert f"{feature['max_activation']:.4g}" in page.inner_text(".facts")
    heads = " ".join(text_of(page, ".panels h2"))
    for panel in ("Neuron alignment", "Correlated neurons", "Activations", "Direct logit effects", "Other sizes", "Dataset examples"):
        assert panel in heads


def test_shade_and_underline_follow_the_numbers(visit, site, made):
    feature = a_feature(made)
    row = next(e for e in table(made, "examples") if e["feature"] == feature["feature"])
    page = visit().open(site, f"feature.html#made/4x/{feature['feature']}").page
    for j, (activation, effect) in enumerate(zip(row["activations"], row["loss_effects"], strict=True)):
        token = f".groups details:first-of-type li:first-child .t:nth-child({j + 1})"
        classes, shade = page.eval_on_selector(token, "n => [[...n.classList], n.style.getPropertyValue('--a')]")
        assert ("on" in classes) == (activation > 0)
        if activation > 0:
            assert float(shade) == pytest.approx(max(0.06, activation / feature["max_activation"]), abs=2e-3)
        if abs(effect) > 0.05:
            assert ("helped" in classes, "hurt" in classes) == (effect > 0, effect < 0)
        page.hover(token)
        told = page.inner_text("#tip")
        assert f"{activation:.4g}" in told if activation else "activation\n0" in told
    page.hover(f".groups details:first-of-type li:first-child .t:nth-child({row['centre'] + 1})")
    assert "ablation raises" in page.inner_text("#tip") and "+0.5" in page.inner_text("#tip")


def test_keys_go_from_feature_to_feature_and_token_to_token(visit, site):
    v = visit().open(site, "feature.html#made/4x/3")
    v.page.keyboard.press("ArrowRight")
    v.page.wait_for_selector("h1:has-text('Feature 4')")
    v.page.keyboard.press("j")
    v.page.keyboard.press("k")
    v.page.wait_for_selector("h1:has-text('Feature 4')")
    v.page.keyboard.press("ArrowLeft")
    v.page.wait_for_selector("h1:has-text('Feature 3')")
    v.page.focus(".examples li")
    before = text_of(v.page, ".examples .at")
    v.page.keyboard.press("ArrowRight")
    assert "activation" in v.page.inner_text("#tip")
    v.page.keyboard.press("ArrowRight")
    assert len(text_of(v.page, ".examples .at")) == 1 and v.page.url.endswith("/3"), before
    v.page.keyboard.press("Escape")
    assert v.page.is_hidden("#tip")


def test_enter_on_a_link_or_button_does_what_that_does(visit, site):
    """On the index Enter alone opens the first feature of the list; elsewhere it is the link's or the button's own."""
    v = visit().open(site, "run.html#made/4x")
    v.page.wait_for_selector(".rows li a .density")
    wanted = v.page.get_attribute(".rows li:nth-child(4) a", "href")
    for selector, address in ((".rows li:nth-child(4) a", wanted), (".tabs a >> nth=1", "texts.html#made/4x"), (".brand", "index.html")):
        v.open(site, "run.html#made/4x")
        v.page.wait_for_selector(".rows li a .density")
        v.page.focus(selector)
        v.page.keyboard.press("Enter")
        v.page.wait_for_url(f"**/{address}*")
    v.open(site, "run.html#made/4x")
    v.page.focus(".controls button")
    v.page.keyboard.press("Enter")
    v.page.wait_for_timeout(100)
    assert "run.html" in v.page.url
    v.page.focus(".scroller")
    v.page.keyboard.press("Enter")
    v.page.wait_for_selector("h1:has-text('Feature')")
    assert not v.troubles


ORDERS = {"density": lambda f: -f["density"], "importance": lambda f: -f["importance"], "max": lambda f: -f["max_activation"],
          "index": lambda f: f["feature"], "rare": lambda f: f["density"]}  # fmt: skip


def listed(page) -> list[int]:
    """Features of the list in the order they stand in."""
    rows = page.eval_on_selector_all(".rows li", "nodes => nodes.map((n) => [parseInt(n.style.top), Number(n.querySelector('.id').textContent)])")
    return [i for _, i in sorted(rows)]


@pytest.mark.parametrize("order", ORDERS)
def test_the_index_is_in_order(visit, site, made, order):
    page = visit().open(site, f"run.html#made/4x/{order}").page
    alive = [f for f in table(made, "features") if not f["dead"]]
    wanted = [f["feature"] for f in sorted(alive, key=lambda f: (ORDERS[order](f), f["feature"]))]
    got = listed(page)
    assert len(got) >= 10 and got == wanted[: len(got)]
    page.eval_on_selector(".scroller", "n => { n.scrollTop = n.scrollHeight }")
    page.wait_for_function("last => [...document.querySelectorAll('.rows .id')].some((n) => n.textContent === last)", arg=str(wanted[-1]))
    got = listed(page)
    assert got == wanted[-len(got) :]


@pytest.mark.parametrize("mode, words", [("text", "RIVER"), ("regexi", "^ (RIVER|stone)$"), ("regex", "^ (river|STONE)$"), ("regex", "[ACGT]{3}A")])
def test_search_in_a_run_is_brute_force(visit, site, made, mode, words):
    v = visit().open(site, "run.html#made/4x")
    v.page.select_option("select >> nth=0", mode)
    v.page.select_option("select >> nth=1", "tops")
    v.page.fill("[name=words]", words)
    v.page.press("[name=words]", "Enter")
    test = (lambda t: words.lower() in t.lower()) if mode == "text" else re.compile(words, re.I if mode == "regexi" else 0).search
    hits = {e["feature"] for e in table(made, "examples") if e["group"] == 0 and test(TOKENS[e["tokens"][e["centre"]]])}
    v.page.wait_for_function("n => document.querySelector('.said').textContent.startsWith(n + ' of')", arg=str(len(hits)))
    assert hits and set(listed(v.page)) <= hits
    v.page.select_option("select >> nth=0", "regex")
    v.page.fill("[name=words]", "(")
    v.page.press("[name=words]", "Enter")
    v.page.wait_for_selector(".said:has-text('no regular expression')")
    assert not v.troubles


def test_a_bar_of_densities_is_a_button_and_in_the_address(visit, site, made):
    v = visit().open(site, "run.html#made/4x")
    bars = Counter(min(-1, math.floor(math.log10(f["density"]) * 4)) for f in table(made, "features") if f["density"])
    (bar, inside), (other, there) = bars.most_common(2)
    button = ".densities .area >> nth={}"
    v.page.click(button.format(bar - min(bars)))
    assert v.page.inner_text(".said").startswith(f"{inside} of 160")
    assert v.page.evaluate("location.hash").endswith(f"/{bar / 4:g}")
    v.page.check(".controls [type=checkbox]")
    v.page.reload()
    v.page.wait_for_selector(".rows li")
    assert v.page.inner_text(".said").startswith(f"{inside} of 160"), "the address has the bar"
    assert v.page.is_checked(".controls [type=checkbox]"), "and that dead ones are listed"
    assert v.page.get_attribute(button.format(bar - min(bars)), "aria-pressed") == "true"
    v.page.focus(button.format(other - min(bars)))
    v.page.keyboard.press("Enter")
    assert v.page.inner_text(".said").startswith(f"{there} of 160")
    assert v.page.eval_on_selector_all("[aria-pressed=true]", "nodes => nodes.length") == 1
    v.page.keyboard.press("Space")
    assert v.page.inner_text(".said").startswith("160 of 160")
    assert not v.troubles


def test_every_feature_is_in_the_bar_that_counts_it(visit, site, made):
    page = visit().open(site, "run.html#made/4x").page
    for bar in page.query_selector_all(".densities .area[role=button]"):
        bar.click()
        counted = bar.get_attribute("aria-label").split()[0]
        assert page.inner_text(".said").split()[0] == counted


def strongest(made, word: str) -> list[tuple[str, int]]:
    """Features whose strongest examples have `word`, by their activation on it, as a share of their largest, times the
    root of its share of the examples."""
    found = []
    for run in ("1x", "4x"):
        top = Counter(e["feature"] for e in table(made, "examples", run) if e["group"] == 0)
        share, activation = Counter(), {}
        for e in table(made, "examples", run):
            if e["group"] <= 6 and TOKENS[e["tokens"][e["centre"]]].strip() == word:
                f = e["feature"]
                share[f] += (e["group"] == 0) / top[f]
                activation[f] = max(activation.get(f, 0), e["activations"][e["centre"]])
        most = {f["feature"]: f["max_activation"] for f in table(made, "features", run)}
        found += [(float(f"{a / most[f]:.3g}") * max(share[f], 0.01) ** 0.5, a, f"{run}/{f}") for f, a in activation.items()]
    return [name for *_, name in sorted(found, reverse=True)]


@pytest.mark.parametrize("word", ["river", "stone", "\u0643\u062a\u0627\u0628", "\u05e1\u05e4\u05e8"])
def test_a_word_finds_its_strongest_feature_from_the_start_page(visit, site, made, word):
    full = {"\u0643\u062a\u0627\u0628": "\u0627\u0644\u0643\u062a\u0627\u0628"}.get(word, word)
    v = visit().open(site, "index.html")
    v.page.fill(".big input", full)
    v.page.click(".big button")
    v.page.wait_for_selector(".hits li")
    v.page.select_option(".results select", label="made/4x")
    ids = [t.replace("\u2068", "").strip() for t in text_of(v.page, "section:has(h2:has-text('Active on it')) .hits .id")]
    wanted = [name for name in strongest(made, full) if name.startswith("4x/")]
    assert ids[0] == wanted[0]
    assert set(ids) <= set(wanted) or word == "\u05e1\u05e4\u05e8"  # there a last letter in bytes makes longer words
    v.page.click(".hits a >> nth=0")
    v.page.wait_for_selector("h1 .id")
    assert not v.troubles


def test_kinds_of_text_are_one_click_away(visit, site, made):
    v = visit().open(site, "index.html")
    chips = dict(re.fullmatch(r"(base64|\D+)(\d+)", c).groups() for c in text_of(v.page, ".chips .kind"))
    assert {"Arabic", "Hebrew", "DNA", "base64"} <= set(chips)
    for kind, count in chips.items():
        v.go(f"#find/{kind}")
        assert text_of(v.page, "h2:has-text('Of this kind') .n") == [count], kind
    v.go("#")
    v.page.click(".chips .kind:has-text('Arabic')")
    v.page.wait_for_selector(".hits li")
    first = v.page.eval_on_selector(".hits a", "n => n.getAttribute('href')")
    run, feature = first.split("#made/")[1].split("/")
    domain = Counter(e["domain"] for e in table(made, "examples", run) if e["feature"] == int(feature) and e["group"] == 0)
    assert domain.most_common(1)[0][0] == 1  # arabic


def test_words_that_begin_alike_and_several_words(visit, site):
    v = visit().open(site, "index.html#find/riv")
    assert len(text_of(v.page, ".hits li")) > 0
    v.go("#find/river stone")
    assert len(text_of(v.page, ".hits li")) > 0
    whole = {}
    for question in ("river", "river.", "(river)", "__river__", "stone", "river's stone", "river stone s"):
        v.go(f"#find/{question}")
        whole[question] = text_of(v.page, ".hits .id"), v.page.inner_text(".said")
    assert whole["river"][0] == whole["__river__"][0] == whole["river."][0] == whole["(river)"][0]
    assert "looked for \u201criver\u201d." in whole["river."][1] and "looked for" not in whole["river"][1]
    assert "looked for \u201criver\u201d and \u201cs\u201d and \u201cstone\u201d." in whole["river's stone"][1]
    v.go("#find/nosuchwordanywhere")
    assert "No feature matches" in v.page.inner_text(".said")
    assert not v.troubles


def test_a_token_of_a_text_lists_its_features(visit, site, made):
    rows = [r for r in table(made, "texts", "1x") if r["text"] == 1]
    v = visit().open(site, "texts.html#made/1x/1")
    for j in (0, 7, 39):
        v.page.click(f".reading .t:nth-child({j + 1})")
        assert text_of(v.page, ".active .id") == [str(f) for f in rows[j]["features"]]
        got = [float(x) for x in text_of(v.page, ".active > li > .n")]
        assert got == pytest.approx(rows[j]["activations"], rel=6e-3)
    v.page.focus(".reading")
    v.page.keyboard.press("ArrowLeft")
    assert text_of(v.page, ".active .id") == [str(f) for f in rows[38]["features"]]
    assert not v.troubles


def test_the_map_is_drawn_names_and_opens(visit, site):
    v = visit().open(site, "map.html#made")
    v.page.wait_for_timeout(300)
    painted = "() => { const c = document.querySelector('canvas'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((x) => x > 0) }"
    assert v.page.evaluate(painted)
    v.page.keyboard.press("+")
    clusters = v.page.query_selector_all(".clusters button")
    assert clusters
    clusters[0].click()
    v.page.wait_for_timeout(200)
    box = v.page.query_selector("canvas").bounding_box()
    hit = next(((x, y) for x in range(0, int(box["width"]), 14) for y in range(0, int(box["height"]), 14)
                if _named(v.page, box["x"] + x, box["y"] + y)), None)  # fmt: skip
    assert hit is not None
    v.page.mouse.click(box["x"] + hit[0], box["y"] + hit[1])
    v.page.wait_for_selector("h1:has-text('Feature')")
    assert not v.troubles


def _named(page, x: float, y: float) -> bool:
    page.mouse.move(x, y)
    return page.eval_on_selector("canvas", "n => n.style.cursor === 'pointer'")


def test_neurons_have_no_rubric_and_no_link_to_one(visit, site):
    v = visit().open(site, "index.html")
    links = v.page.eval_on_selector_all(".runs a.view", "nodes => nodes.map((n) => n.getAttribute('href'))")
    assert "rubric.html#made/4x" in links and not any(link.startswith("rubric") and "neurons" in link for link in links)
    v = visit().open(site, "run.html#made/neurons")
    assert text_of(v.page, ".tabs a") and "Rubric" not in text_of(v.page, ".tabs a")


def json_of(page, name: str, part: str = "value"):
    return page.evaluate(f"async (name) => {{ const value = await M.load(name); return {part} }}", name)


def test_the_rubric_is_blind_keeps_answers_and_exports_them(visit, site):
    v = visit().open(site, "rubric.html#made/4x")
    key = json.loads((site / "data/made/4x/rubric-key.json").read_text())
    assert Counter(item["kind"] for item in key["items"].values()) == {"feature": 20, "neuron": 20}
    shown = v.page.inner_text(".rubric").lower()
    assert not any(word in shown for word in ("neuron", "4x/", "feature "))
    v.page.fill("textarea", '=cmd "quoted", and\na line')
    [first] = json_of(v.page, "made/4x/rubric", "value.items.slice(0, 1)")
    assert len(text_of(v.page, ".interval")) == len(first["groups"]) and len(first["marked"]) == min(3, len(first["groups"]))
    assert len(text_of(v.page, ".interval .examples li")) == sum(len(shown) for _, shown in first["groups"])
    assert len(text_of(v.page, ".interval.marked")) == len(text_of(v.page, ".interval:has(.questions)")) == len(first["marked"])
    for name, value in {"confidence": 3, "consistency": 5, "logits": 2, "gap": 1, "specificity": 3}.items():
        v.page.check(f".interval.marked fieldset input[name$=' {name}'][value='{value}'] >> nth=0")
    assert " 14 of 14" in " " + v.page.inner_text(".interval.marked h2 >> nth=0")
    v.page.reload()
    v.page.wait_for_selector("textarea")
    assert v.page.input_value("textarea").startswith("=cmd")
    with v.page.expect_download() as download:
        v.page.click(".export")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
    assert tuple(rows[0]) == schema.RUBRIC_COLUMNS
    marks = {r["question"]: int(r["answer"]) for r in rows if r["question"] in schema.RUBRIC}
    assert marks == {"confidence": 3, "consistency": 5, "logits": 2, "gap": 1, "specificity": 3}
    assert {r["item"] for r in rows} <= set(key["items"]) and {r["key"] for r in rows} == {key["key"]}
    assert all(r["interval"] in schema.GROUPS for r in rows if r["question"] in schema.RUBRIC)
    said = next(r["answer"] for r in rows if r["question"] == "interpretation")
    assert said == "'=cmd \"quoted\", and\na line"
    assert not v.troubles


def test_the_theme_can_be_chosen_and_stays(visit, site):
    v = visit().open(site, "index.html")
    v.page.click("#theme")
    dark = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 60"
    assert v.page.evaluate(dark)
    v.page.goto(f"file://{site}/run.html#made/1x")
    v.page.wait_for_selector("body[data-ready]")
    assert v.page.evaluate(dark)


def test_a_run_of_131072_features_opens_in_two_seconds(visit, site, tmp_path):
    n, per = 131_072, 512
    import shutil

    shutil.copytree(site, tmp_path / "large")
    folder = tmp_path / "large/data/made/4x"
    rng = np.random.default_rng(0)
    columns = {key: column(10 ** rng.uniform(-6, -1, n), "<f4") for key in ("density", "max", "importance")}
    index = columns | {"ultralow": column(np.zeros(n), "u1"), "order": column(rng.permutation(n), "<u4")}
    (folder / "index.js").write_bytes(packed("made/4x/index", index))
    row = [None, [0, 20], [0, 1.5, 1, 1.2], [1, -1.0], [], [[0, 1, 0], 1, [1, 5.0]]]
    for k in range(n // per):
        (folder / f"rows-{k}.js").write_bytes(packed(f"made/4x/rows-{k}", {"rows": [row] * per, "texts": [" river", " stone"]}))
    unpack = "async () => { const s = await M.load('site'); s.runs.find((r) => r.name === '4x').features = 131072; return s }"
    v = visit().open(tmp_path / "large", "index.html")
    value = v.page.evaluate(unpack)
    (tmp_path / "large/data/site.js").write_bytes(packed("site", value))
    v.open(tmp_path / "large", "run.html#made/4x")
    v.page.wait_for_function("() => document.querySelectorAll('.rows li .t').length > 50")
    took = v.page.evaluate("performance.now()")
    assert took < 2000, f"{took:.0f} ms"
    assert "131,072 of 131,072" in v.page.inner_text(".said")
    assert not v.troubles


def _back(v, ready: str) -> None:
    v.page.wait_for_selector("h1:has-text('Feature')")
    v.page.go_back()
    v.page.wait_for_selector(ready)
    v.page.wait_for_timeout(300)


def test_who_goes_back_finds_a_page_as_it_was_left(visit, site):
    v = visit(height=600).open(site, "run.html#made/4x")
    v.page.select_option(".controls label:has-text('Order') select", "rare")
    v.page.eval_on_selector(".scroller", "n => n.scrollTop = 120")
    v.page.wait_for_timeout(200)
    v.page.click(".rows li a >> nth=5")
    _back(v, ".rows li")
    v.page.wait_for_function("() => document.querySelector('.scroller').scrollTop === 120")
    assert v.page.eval_on_selector(".controls label:has-text('Order') select", "n => n.value") == "rare"
    v.page.reload()
    v.page.wait_for_selector(".rows li")
    assert v.page.eval_on_selector(".controls label:has-text('Order') select", "n => n.value") == "rare"
    v.open(site, "index.html#find/river")
    v.page.select_option("[aria-label=dictionary]", label="made/1x")
    v.page.click(".hits a >> nth=0")
    _back(v, ".hits")
    assert v.page.eval_on_selector("[aria-label=dictionary]", "n => n.selectedOptions[0].textContent") == "made/1x"
    v.open(site, "texts.html#made/4x/1")
    here = "nodes => nodes.findIndex((n) => n.classList.contains('at'))"
    busiest = v.page.eval_on_selector_all(".reading .t", here)
    other = v.page.eval_on_selector_all(
        ".reading .t", "(nodes, busiest) => nodes.findIndex((n, j) => j !== busiest && !n.title.startsWith('0 '))", busiest
    )
    v.page.click(f".reading .t >> nth={other}")
    v.page.click(".active a >> nth=0")
    _back(v, ".reading .at")
    assert v.page.eval_on_selector_all(".reading .t", here) == other != busiest
    assert not v.troubles


def test_a_cluster_lists_its_members_for_the_keyboard_too(visit, site):
    v = visit().open(site, "map.html#made")
    v.page.wait_for_timeout(300)
    v.page.focus(".clusters button >> nth=0")
    v.page.keyboard.press("Enter")
    assert text_of(v.page, ".clusters [aria-expanded=true]") == text_of(v.page, ".clusters button")[:1]
    size = int(text_of(v.page, ".clusters [aria-expanded=true] .n")[0])
    assert len(v.page.query_selector_all(".members a")) == size
    v.page.keyboard.press("Tab")
    v.page.keyboard.press("Enter")
    _back(v, ".members a")
    assert len(v.page.query_selector_all("[aria-expanded=true]")) == 1
    assert not v.troubles


def test_the_map_cannot_be_lost(visit, site):
    v = visit().open(site, "map.html#made")
    v.page.wait_for_timeout(300)
    painted = """() => {
      const c = document.querySelector('canvas'), copy = document.createElement('canvas');
      [copy.width, copy.height] = [c.width, c.height];
      const pen = copy.getContext('2d', { willReadFrequently: true });
      pen.drawImage(c, 0, 0);
      return pen.getImageData(0, 0, c.width, c.height).data.filter((x, i) => i % 4 == 3 && x > 0).length;
    }"""
    at_first = v.page.evaluate(painted)
    box = v.page.query_selector("canvas").bounding_box()
    next((x, y) for x in range(0, int(box["width"]), 14) for y in range(0, int(box["height"]), 14) if _named(v.page, box["x"] + x, box["y"] + y))
    v.page.wait_for_selector("#tip:not([hidden])")
    v.page.mouse.wheel(0, -100)
    v.page.wait_for_selector("#tip", state="hidden")
    for key in ["-"] * 60 + ["ArrowLeft"] * 60:
        v.page.keyboard.press(key)
    v.page.wait_for_timeout(200)
    assert v.page.evaluate(painted) > at_first / 10
    assert not v.troubles


def test_a_match_is_shown_where_the_word_is(visit, site):
    v = visit().open(site, "index.html#find/river")
    v.page.wait_for_function("""() => [...document.querySelectorAll(".results .best")].every((n) => n.textContent)""")
    v.page.wait_for_timeout(500)  # previews without the word are exchanged for others
    active = v.page.eval_on_selector_all(".results section:has(h2:has-text('Active on it')) .best", "nodes => nodes.map((n) => n.textContent)")
    assert active and all("river" in text.lower() for text in active)


def test_what_looks_like_a_regular_expression_is_said_to(visit, site):
    v = visit().open(site, "run.html#made/4x")
    v.page.fill(".controls input[type=search]", "^ riv")
    v.page.click(".controls button")
    v.page.wait_for_selector(".said:has-text('regular expression')")
    v.page.fill(".controls input[type=search]", "(")
    v.page.select_option(".controls label:has-text('as') select >> nth=0", "regex")
    v.page.wait_for_selector(".said:has-text('no regular expression')")
    assert v.page.query_selector_all(".rows li") == []


def test_clusters_come_by_size_and_the_rubric_at_the_item_it_was_left_at(visit, site):
    v = visit().open(site, "map.html#made")
    sizes = [int(n) for n in text_of(v.page, ".clusters button .n")]
    assert len(sizes) > 1 and sizes == sorted(sizes, reverse=True)
    v.open(site, "rubric.html#made/4x")
    v.page.keyboard.press("ArrowRight")
    v.page.keyboard.press("ArrowRight")
    v.page.reload()
    v.page.wait_for_selector("[role=status]:has-text('item 3 of')")


def test_a_phone_shows_the_runs_with_all_their_figures(visit, site):
    v = visit(width=390).open(site, "index.html")
    assert v.page.eval_on_selector(".wide:has(.runs)", "n => n.scrollWidth <= n.clientWidth + 1")
    assert v.page.is_visible(".runs th:has-text('loss recovered')") and v.page.is_visible(".runs th:has-text('dead')")


def test_a_finger_names_a_feature_on_the_map_and_opens_it(visit, site):
    v = visit(width=390, has_touch=True).open(site, "map.html#made")
    v.page.wait_for_timeout(300)
    box = v.page.query_selector("canvas").bounding_box()
    told = "() => { const tip = document.getElementById('tip'); return tip !== null && !tip.hidden }"
    for x, y in ((x, y) for x in range(7, int(box["width"]), 14) for y in range(7, int(box["height"]), 14)):
        v.page.touchscreen.tap(box["x"] + x, box["y"] + y)
        if v.page.evaluate(told):
            break
    v.page.touchscreen.tap(box["x"] + x, box["y"] + y)
    v.page.wait_for_selector("h1:has-text('Feature')")
    assert not v.troubles


@pytest.mark.parametrize("words", ["%CC%81", "%EF%B8%8F", "%E2%80%A8"])
def test_a_search_for_nothing_finds_nothing(visit, site, words):
    """An accent alone: without accents nothing is left, and every term begins with nothing."""
    v = visit().open(site, f"index.html#find/{words}")
    assert v.page.query_selector(".hits") is None and "No feature matches" in v.page.inner_text(".said")


def test_a_page_that_was_left_while_it_loaded_changes_no_title(visit, site):
    v = visit()
    v.page.route("**/data/made/4x/features-*.js", lambda route: (v.page.wait_for_timeout(400), route.continue_())[1])
    v.open(site, "feature.html#made/4x/3")
    per = v.page.evaluate("M.site.featuresPerFile")
    v.page.evaluate(f"location.hash = 'made/4x/{per + 1}'; setTimeout(() => {{ location.hash = 'made/4x/3' }}, 50)")
    v.page.wait_for_timeout(1500)
    assert v.page.title().startswith("3 - ") and text_of(v.page, "#crumbs li")[-1] == "3"
    assert "made/4x/3" in v.page.url and v.page.inner_text("h1").startswith("Feature 3")


def test_what_draws_nothing_is_spelled_out(visit, site):
    v = visit().open(site, "index.html")
    shown = {text: v.page.evaluate("text => M.visible(text)", text) for text in
             ("a\u3164b", "a\ufe00b", "\U000e0101", "\u2800", "\u200c", "\ufe0f", "\u0645\u06cc\u200c\u062e", "\u2764\ufe0f", "x" * 79 + "\U0001f600z")}  # fmt: skip
    left, right = "\u2039", "\u203a"
    assert list(shown.values()) == [
        f"a{left}U+3164{right}b", f"a{left}U+FE00{right}b", f"{left}U+E0101{right}", f"{left}U+2800{right}",
        f"{left}U+200C{right}", f"{left}U+FE0F{right}", "\u0645\u06cc\u200c\u062e", "\u2764\ufe0f", "x" * 79 + "\u2026",
    ]  # fmt: skip


def test_a_letter_whose_bytes_are_tokens_is_found(visit, site):
    v = visit().open(site, "run.html#made/4x")
    letter, shown_in = v.page.evaluate("""async () => {
      const { rows, texts } = await M.load("made/4x/rows-0");
      const raw = rows.map((row) => (row[5] === null ? [] : row[5][0].map((t) => texts[t])));
      const joined = raw.map((parts) => M.joined(parts).join(""));
      const at = joined.findIndex((text, i) => [...text].some((c) => c > "\\u00ff" && !raw[i].join("").includes(c)));
      const letter = [...joined[at]].find((c) => c > "\\u00ff" && !raw[at].join("").includes(c));
      return [letter, joined.filter((text) => text.toLowerCase().includes(letter.toLowerCase())).length];
    }""")
    v.open(site, f"run.html#made/4x/density/{letter}/text/best")
    assert int(v.page.inner_text(".said").split()[0].replace(",", "")) == shown_in


@pytest.mark.parametrize("name", ["features-0", "rows-0"])
def test_data_that_could_not_be_loaded_is_asked_for_again(visit, site, name):
    v, asked = visit(), []
    v.page.route(f"**/data/made/4x/{name}.js", lambda route: (asked.append(name), route.abort() if len(asked) == 1 else route.continue_())[1])
    v.open(site, "index.html")
    again = "async (name) => { try { return (await M.load(name)) !== null } catch { return false } }"
    assert not v.page.evaluate(again, f"made/4x/{name}") and v.page.evaluate(again, f"made/4x/{name}") and len(asked) == 2


@pytest.mark.parametrize("domain_counts, said", [([900, 0, 0, 0, 0], []), ([300, 250, 200, 100, 90, 50, 10], ["other 6 %"])])
def test_where_in_the_corpus_counts_every_token(visit, made, tmp_path, monkeypatch, domain_counts, said):
    """A feature of one domain alone shows that; of many, the shares are of all tokens that it is active on."""
    store = shutil.copytree(made, tmp_path / "store")
    folder = store / "sweeps/made/runs/1x/features"
    for file in folder.glob("features-*.parquet"):
        whole = pq.read_table(file)
        for name, values in (("domain_counts", [domain_counts] * len(whole)), ("n_active", [sum(domain_counts)] * len(whole))):
            place = whole.column_names.index(name)
            whole = whole.set_column(place, whole.schema.field(place), pa.array(values, whole.schema.field(place).type))
        pq.write_table(whole, file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["domains"] = [f"domain{i}" for i in range(len(domain_counts))]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(atlas, "is_available", lambda: False)
    report([f"{store}/sweeps/made/runs/1x"], str(tmp_path / "out"), lambda line: None)
    page = visit().open(tmp_path / "out", "feature.html#made/1x/3").page
    found = [re.sub(r"\s+", " ", text) for text in page.eval_on_selector_all(".bars li", "nodes => nodes.map((n) => n.innerText)")]
    largest = sorted(((n, f"domain{i}") for i, n in enumerate(domain_counts) if n), reverse=True)[:5]
    assert found == [f"{name} {float(f'{100 * n / sum(domain_counts):.3g}'):g} %" for n, name in largest] + said
    sampled = sum(int(500 * 0.85**i) for i in range(40))
    assert f"Of all {sampled:,} tokens" in page.inner_text(".middle .note")  # more than there are: these tables are made up


def test_words_are_looked_up_alike_in_both_languages(visit, site):
    rng = np.random.default_rng(3)
    blocks = [(0x41, 0x250), (0x300, 0x400), (0x400, 0x530), (0x591, 0x700), (0x8a0, 0x980), (0xe01, 0xe5b), (0x1e00, 0x2000), (0x20d0, 0x20f1),
              (0x3041, 0x3100), (0xac00, 0xad00), (0xfb1d, 0xfe30)]  # fmt: skip
    words = ["".join(chr(int(rng.integers(*blocks[int(rng.integers(len(blocks)))]))) for _ in range(6)) for _ in range(3000)]
    words = [w for w in words if all(unicodedata.category(c) not in ("Cn", "Lt") for c in w)]
    v = visit().open(site, "index.html")
    theirs = v.page.evaluate("words => words.map(M.normal)", words)
    assert [(w, t) for w, t in zip(words, theirs, strict=True) if normal(w) != t] == [] and len(words) > 500


def test_a_match_is_shown_where_the_word_is_in_any_script(visit, site):
    v = visit().open(site, "index.html")
    assert v.page.evaluate("""() => [[["\u03bb\u03ad", "\u03be\u03b7 a"], 1, "\u03bb\u03b5\u03be\u03b7"], [[" \u041c\u043e", "\u0439 x"], 0, "\u043c\u043e\u0439"],
      [["x ", "\u0939\u093f\u0928", "\u094d\u0926\u0940"], 2, "\u0939\u093f\u0928\u094d\u0926\u0940"], [["\u0438", "\u0306"], 1, "\u0439"]]
      .map(([texts, centre, term]) => M.shows([texts.map((_, i) => i), centre], texts, { how: 1, term: M.normal(term) }))""") == [True] * 4
    assert not v.page.evaluate("() => M.shows([[0, 1], 0], ['caf\u00e9', ' the'], { how: 1, term: 'the' })")


@pytest.mark.parametrize("question, wanted", [("made/4x/18", ["4x/18"]), ("#18", ["1x/18", "4x/18"]), ("4x/41", ["4x/41"]), ("18", [])])
def test_a_number_is_a_way_to_a_feature(visit, site, question, wanted):
    v = visit().open(site, "index.html")
    v.go(f"#find/{question.replace('#', '%23')}")
    jumps = [t.strip() for t in text_of(v.page, "section:has(h2:has-text('By its number')) .id")]
    assert jumps == wanted
    if wanted:
        assert text_of(v.page, ".results h2")[0].startswith("By its number") and "No feature" not in v.page.inner_text(".results")
        v.page.click(".hits a >> nth=0")
        v.page.wait_for_selector(f"h1:has-text('Feature {wanted[0].split('/')[1]}')")
    v.open(site, "run.html#made/4x/density/18")
    v.page.click(".said a:has-text('Feature 18')")
    v.page.wait_for_selector("h1:has-text('Feature 18')")
    assert not v.troubles


def test_a_random_order_is_the_same_for_who_comes_back(visit, site):
    v = visit().open(site, "run.html#made/4x")
    v.page.select_option(".controls label:has-text('Order') select", "random")
    first = listed(v.page)
    v.page.click(".rows li a >> nth=2")
    _back(v, ".rows li")
    assert listed(v.page) == first and first != sorted(first)
    v.open(site, "run.html#made/4x/random")
    assert re.search(r"/random-\d+$", v.page.url)


def test_a_feature_leads_to_its_place_on_the_map_and_back(visit, site):
    v = visit().open(site, "feature.html#made/4x/3")
    v.page.click("a:has-text('its place on the map')")
    v.page.wait_for_selector("#tip:not([hidden])")
    assert "4x/3" in v.page.inner_text("#tip").replace("\u2068", "")
    v.page.click(".tabs a, .brand")
    v.page.wait_for_selector(".welcome")
    v.page.go_back()
    v.page.wait_for_selector("canvas")
    v.page.wait_for_timeout(300)
    scale = v.page.evaluate("() => M.remembering().scale")
    for _ in range(2):
        v.page.click(".brand")
        v.page.wait_for_selector(".welcome")
        v.page.go_back()
        v.page.wait_for_selector("canvas")
        v.page.wait_for_timeout(300)
    assert v.page.evaluate("() => M.remembering().scale") == scale
    v.open(site, "feature.html#made/4x/9")  # dead
    assert v.page.query_selector("a:has-text('its place on the map')") is None
    assert not v.troubles
