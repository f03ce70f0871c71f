"""Hostile text changes nothing: pages of a site full of it have the elements that harmless text gives them."""

import pytest

from monosem.report.browser import atlas, rows
from monosem.stages.report import report
from tests.report.payloads import PAYLOADS
from tests.report.tables import TOKENS, made_sweep
from tests.services.chromium import chromium

ADDRESSES = ["index.html", "run.html#made/4x", "run.html#made/4x/index", "texts.html#made/4x/0", "texts.html#made/1x/1", "rubric.html#made/1x",
             *(f"feature.html#made/4x/{i}" for i in (0, 3, 5, 9, 20, 33))]  # fmt: skip
PLACES = [*TOKENS, "tiny", "english", "arabic", "hebrew", "dna", "base64"]
"""What `made_sweep` puts through its `text`: tokens and labels, the host's name, domains."""

SKELETON = """() => {
  const lines = [];
  const walk = (node, depth) => {
    const names = [...node.attributes].map((a) => a.name).filter((n) => !['style', 'title'].includes(n)).sort();
    lines.push(`${depth} ${node.localName} ${names} ${node.id}`);
    for (const child of node.children) walk(child, depth + 1);
  };
  walk(document.body, 0);
  return lines;
}"""


def hostile(text: str) -> str:
    """One of the payloads for each place, and no two alike."""
    place = PLACES.index(text)
    return PAYLOADS[place] if place < len(PAYLOADS) else f"{PAYLOADS[place - len(PAYLOADS)]}{place}"


def harmless(text: str) -> str:
    return f" word{PLACES.index(text)}"


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """(hostile, harmless). Kinds and domains are rules on the text itself, so they are left out of the comparison; no
    map, which shows the same words by the same means."""
    assert len(PAYLOADS) == 50 and len(set(PAYLOADS)) == 50 and len(PLACES) == len(set(PLACES)) >= 50
    out = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas, "is_available", lambda: False)
        patch.setattr(rows, "kinds_of", lambda examples: [])
        for name, text in (("hostile", hostile), ("harmless", harmless)):
            root = tmp_path_factory.mktemp(name)
            made_sweep(str(root / "store"), text)
            report([f"{root}/store/made"], str(root / "site"), lambda line: None)
            out.append(root / "site")
    return out


@pytest.fixture(scope="module")
def visit():
    with chromium() as visit:
        yield visit


def test_every_payload_is_on_a_page_and_changes_none(visit, sites):
    skeletons, seen = [], set()
    for site in sites:
        v = visit()
        found = []
        for address in ADDRESSES:
            v.open(site, address)
            v.page.wait_for_timeout(150)  # names in lists come with their own file
            found.append(v.page.evaluate(SKELETON))
            if site is sites[0]:
                seen |= set(v.page.eval_on_selector_all(".token, .t, bdi", "nodes => nodes.map((n) => n.textContent)"))
        assert v.troubles == []
        skeletons.append(found)
    for address, ours, theirs in zip(ADDRESSES, *skeletons, strict=True):
        assert ours == theirs, address
    for sample in ("<script>alert(1)</script>", "<svg onload=alert(4)>", "__proto__", "\u2039U+202E\u203artl override", "null\u2400byte"):
        assert any(sample in text for text in seen), sample


def test_nothing_turns_other_text_around(visit, sites):
    v = visit().open(sites[0], "index.html")
    for address in ADDRESSES:
        v.open(sites[0], address)
        bad = v.page.evaluate("document.body.innerText.match(/[\\u202a-\\u202e\\u2066-\\u2069\\u200e\\u200f\\u061c\\u2028\\u2029\\u0000-\\u0008\\u000b\\u000e-\\u001f]/)")
        assert bad is None, address


ELEMENTS = """document.querySelectorAll(
  'script:not([src^="data/"]), img, iframe, object, embed, base, link, meta, style').length"""
"""Scripts that bring data come and go."""


def test_payloads_as_questions_and_addresses(visit, sites):
    v = visit().open(sites[0], "index.html")
    plain = v.go("#find/nothing at all").page.evaluate(ELEMENTS)
    for payload in PAYLOADS:
        v.page.evaluate("q => { location.hash = 'find/' + encodeURIComponent(q.slice(0, 2000)) }", payload)
        v.page.wait_for_selector(".results, .trouble")
        v.page.wait_for_timeout(20)
        now = v.page.evaluate(ELEMENTS)
        assert now == plain, payload
    for payload in PAYLOADS[:12]:
        v.page.evaluate("q => { location.href = 'feature.html#made/4x/' + encodeURIComponent(q) }", payload)
        v.page.wait_for_selector(".trouble")
        assert v.page.query_selector("main img, main script, main svg") is None
        v.open(sites[0], "index.html")
    v.open(sites[0], "run.html#made/4x")
    for payload in PAYLOADS:
        v.page.fill("[name=words]", payload.replace("\n", " ")[:500])
        v.page.press("[name=words]", "Enter")
    assert v.troubles == []
