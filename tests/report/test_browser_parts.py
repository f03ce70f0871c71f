"""The parts of the feature browser that are pure: packing, words, kinds, the search's index, the map's order."""

import base64
import json
import random
import unicodedata
import zlib
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monosem.cli.main import main
from monosem.features.vocab import _shown
from monosem.report.browser import atlas, mapping
from monosem.report.browser.atlas import in_order, make_atlas, nearest, that_fit
from monosem.report.browser.examples import Examples, Texts
from monosem.report.browser.kinds import kinds_of
from monosem.report.browser.pack import listed, packed, rounded, sparse
from monosem.report.browser.sources import open_sweep
from monosem.report.browser.tables import Table
from monosem.report.browser.terms import MOST, TermIndex
from monosem.report.browser.words import Vocabulary, normal
from monosem.store.store import open_store

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FINITE | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(JSON)
def test_a_data_file_is_one_harmless_line_and_gives_the_value_back(value):
    line = packed("a/b-1", value).decode("ascii")
    body = line.removeprefix('M.put("a/b-1","').removesuffix('");\n')
    assert body.strip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") == ""
    assert json.loads(zlib.decompress(base64.b64decode(body))) == value


def test_a_data_file_of_a_strange_name_is_refused():
    with pytest.raises(ValueError):
        packed('x");alert(1);//', 1)


@given(st.lists(FINITE))
@example([9.999500252471624e17, -99995.0, 9.9995e-5])
def test_rounding_keeps_four_digits(values):
    x = np.asarray(values, dtype=np.float64)
    x[np.abs(x) < 1e-30] = 0
    assert np.all(np.abs(rounded(x) - x) <= 5.001e-4 * np.abs(x))
    assert np.array_equal(rounded(rounded(x)), rounded(x))
    assert listed(np.asarray([1.5, np.nan, np.inf])) == [1.5, None, None]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.0, 1.5, -2.25]), max_size=6), max_size=6))
def test_sparse_is_what_is_not_zero(rows):
    starts = np.cumsum([0, *map(len, rows)])
    wanted = [[x for j, value in enumerate(row) if value for x in (j, value)] for row in rows]
    assert sparse(np.asarray([v for row in rows for v in row]), starts) == wanted


def shown(piece: bytes) -> str:
    """As VOCAB writes a token."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{b:02x}" if b > 127 else chr(b) for b in piece)


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\\"), max_size=20), st.randoms(use_true_random=False))
def test_a_window_puts_cut_characters_together(text, rng: random.Random):
    data = text.encode()
    cuts = sorted(rng.sample(range(len(data) + 1), k=min(len(data), 4)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
    window = Vocabulary([shown(p) for p in pieces]).window(list(range(len(pieces))))
    assert window.text == text
    assert all(a < b for a, b in zip(window.starts, window.ends, strict=True))
    for j in range(len(pieces)):
        window.run_at(j)


def test_words_are_found_without_accents_and_vowel_points():
    assert normal("\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd") == "\u05e9\u05dc\u05d5\u05dd"
    assert normal("\u0451\u043b\u043a\u0430") != normal("\u0435\u043b\u043a\u0430") and normal("\u043c\u043e\u0438") != normal("\u043c\u043e\u0439")
    assert normal("\u0438\u0306") == "\u0439" and normal("\u0437\u0430\u0301\u043c\u043e\u043a") == "\u0437\u0430\u043c\u043e\u043a"
    assert normal("\u03bb\u03ad\u03be\u03b7") == "\u03bb\u03b5\u03be\u03b7"
    for whole in ("\u0939\u093f\u0928\u094d\u0926\u0940 \u0915\u0941", "\u304c", "\u0e19\u0e49\u0e33"):  # vowels and letters
        assert normal(whole) == unicodedata.normalize("NFKC", whole)
    assert normal("Caf\u00e9") == normal("cafe\u0301") == "cafe"
    window = Vocabulary(["\u0643\u0650\u062a\u0627\u0628 one"]).window([0])
    assert [w for w, _, _ in window.words()] == ["\u0643\u0650\u062a\u0627\u0628", "one"]


@pytest.mark.parametrize(
    "text, kind",
    [("\u0643\u062a\u0627\u0628", "Arabic"), ("\u05e9\u05dc\u05d5\u05dd", "Hebrew"), ("\u0440\u0435\u043a\u0430", "Cyrillic"), ("GATTACAGATTACA", "DNA"), ("aGVsbG8gd29ybGQhIQ8z", "base64"),
     ("deadbeef0042", "hexadecimal"), (" 1,024", "number"), ("https://example.org/x", "web address"), (" river", None), ("Mississippi", None), ("AGRICULTURE", "capitals")],
)  # fmt: skip
def test_kinds(text, kind):
    window = Vocabulary([text]).window([0])
    found = [name for name, _ in kinds_of([(window, 0)] * 10)]
    assert found == [kind] if kind else found == []
    few = [(window, 0)] * 6 + [(Vocabulary([" x"]).window([0]), 0)] * 4
    assert kinds_of(few) == []  # six of ten are not most


@settings(max_examples=30)
@given(st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 40)), st.dictionaries(st.tuples(st.text(min_size=1, max_size=4), st.integers(0, 3)), st.tuples(st.floats(0.5, 9), st.floats(0.01, 1))), max_size=20))
def test_the_index_holds_every_posting_under_its_term(features):
    index = TermIndex()
    wanted = defaultdict(set)
    for (run, feature), found in features.items():
        index.add(run, feature, 9.0, {key: list(value) for key, value in found.items()})
        for term, how in found:
            if not any((term, better) in found for better in range(1, how)):
                wanted[term].add((run, feature, how))
    terms, got = [], {}
    for file in index.files():
        terms += file["terms"]
        for term, flat in zip(file["terms"], file["postings"], strict=True):
            rows = [flat[i : i + 6] for i in range(0, len(flat), 6)]
            got[term] = {tuple(r[:3]) for r in rows}
            strength = [(r[2], -r[5] * r[4] ** 0.5) for r in rows]
            assert file["cut"] == [] and all(r[5] == pytest.approx(r[3] / (1 if r[2] == 2 else 9), rel=1e-2) for r in rows)
            assert all(a[0] <= b[0] and (a[0] < b[0] or a[1] <= b[1] + 0.05) for a, b in zip(strength, strength[1:], strict=False))
    assert terms == sorted(terms, key=lambda t: t.encode("utf-16-be", "surrogatepass"))
    assert got == wanted and min(MOST.values()) > 41 * 3


def test_of_a_very_common_word_each_run_keeps_its_strongest():
    """Small activations of one dictionary are not crowded out by large ones of another, and what is cut is counted."""
    index, most = TermIndex(), MOST[1] // 3
    for run, size in ((0, 700), (1, 700), (2, 5)):
        for f in range(size):
            largest = (100.0, 0.1, 3.0)[run]
            index.add(run, f, largest, {("the", 1): [largest * (f + 1) / size, 1.0], ("a", 3): [1.0, 0.5]} if f else {("the", 1): [largest, 1.0]})
    [file] = index.files()
    flat, cut = file["postings"][1], np.asarray(file["cut"]).reshape(-1, 4)
    rows = np.asarray(flat).reshape(-1, 6)
    for run in (0, 1):
        own = rows[rows[:, 0] == run]
        assert len(own) == most and set(own[:, 1]) == {0, *range(700 - most + 1, 700)}
    assert np.sum(rows[:, 0] == 2) == 5
    assert cut.tolist() == [[0, 3, 0, 699], [0, 3, 1, 699], [1, 1, 0, 700], [1, 1, 1, 700]]


def test_neighbours_are_the_nearest():
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[7] = x[3]
    places, distances = nearest(x, 5)
    far = 1 - x @ x.T
    np.fill_diagonal(far, -1)
    np.testing.assert_allclose(distances[:, 1:], np.sort(far, axis=1)[:, 1:5], atol=1e-6)
    assert np.array_equal(places[:, 0], np.arange(300)) and places[7, 1] == 3


def test_the_order_keeps_clusters_together():
    rng = np.random.default_rng(1)
    line, cluster = rng.normal(size=60), rng.integers(-1, 5, size=60)
    order = in_order(line, cluster, rng.normal(size=(60, 4)))
    assert sorted(order) == list(range(60))
    for c in range(5):
        own = np.sort(order[cluster == c])
        assert np.array_equal(own, np.arange(own[0], own[0] + len(own)))


def test_the_parts_of_a_name_are_words():
    window = Vocabulary(["x ", "river", "_", "8", ".bin"]).window([0, 1, 2, 3, 4])
    assert [word for word, _, _ in window.words()] == ["x", "river", "8", "bin"]
    assert [[word for word, a, b in window.words() if window.is_in(j, a, b)] for j in (1, 2, 3)] == [["river"], [], ["8"]]


def test_the_map_holds_the_smallest_and_is_the_same_again():
    assert that_fit([4096, 512, 131_072, 1024]) == [0, 1, 3]
    rng = np.random.default_rng(2)
    decoders = [rng.normal(size=(40, 8)), rng.normal(size=(60, 8))]
    alive = [np.arange(40) % 5 > 0, np.ones(60, dtype=bool)]
    a, b = make_atlas(decoders, alive), make_atlas(decoders, alive)
    assert np.array_equal(a.plane, b.plane) and np.array_equal(a.cluster, b.cluster) and np.array_equal(a.order, b.order)
    assert len(a.run) == 92 and not any(i % 5 == 0 for i, r in zip(a.feature, a.run, strict=True) if r == 0)
    assert make_atlas([rng.normal(size=(9, 8))], [np.ones(9, dtype=bool)]) is None


def test_of_dictionaries_all_too_large_the_most_important_features_are_mapped(made, monkeypatch):
    monkeypatch.setattr(atlas, "MOST_FEATURES", 10)
    monkeypatch.setattr(mapping, "MOST_FEATURES", 10)
    sweep = open_sweep(open_store(str(made)), "made", "made", [])
    found = mapping.Map(sweep, sweep.dictionaries)
    smallest = min(sweep.dictionaries, key=lambda run: run.tables.size)
    assert found.runs == [smallest] and smallest.name not in found.left
    assert len(found.left) == len(sweep.dictionaries) - 1
    [alive], importance = found.work.alive, smallest.tables.importance
    assert 0 < alive.sum() == found.part <= 10 < len(alive)
    assert importance[alive].min() >= np.sort(importance)[-10]


def test_wrong_input_is_one_line(made, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    for arguments, said in (
        ([f"{made}/nosuch", "--out", str(tmp_path / "a")], "no sweep 'nosuch'"),
        (["made", "--out", str(tmp_path / "b")], "write STORE/SWEEP"),
        ([f"{made}/sweeps/made/runs/9x", "--out", str(tmp_path / "c")], "no run '9x' there"),
        ([f"{made}/sweeps/made/runs/4x", f"{made}/sweeps/made/runs/4xx", "--out", str(tmp_path / "d")], "no run '4xx' there; did you mean 4x?"),
        ([f"{made}/made", "--out", str(tmp_path)], "notes.txt"),
    ):
        assert main(["report", *arguments]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_report_is_written_anew_over_a_report(made, site, tmp_path):
    out = tmp_path / "again"
    assert main(["report", f"{made}/sweeps/made/runs/1x", "--out", str(out)]) == 0
    assert (out / "data/made/1x").is_dir() and not (out / "data/made/4x").exists()
    assert main(["report", f"{made}/made", "--out", str(out)]) == 0
    ours = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    theirs = {p.relative_to(site): p.read_bytes() for p in site.rglob("*") if p.is_file()}
    assert ours == theirs  # the same input gives the same bytes, the map included


def test_documents_without_a_domain_make_no_chip():
    index = TermIndex()
    index.add(0, 1, 1.0, {("", 0): [1.0, 0.5], ("web", 0): [1.0, 0.5]})
    assert index.counts(["", " ", "web"], [0]) == [["web", 1]]


def test_where_no_ablation_was_made_there_are_no_lists_of_changes(made):
    """With features.ablations=top the examples of other groups have null there: not the same as none that changed."""
    sweep = open_sweep(open_store(str(made)), "made", "made", [])
    features, table = next(sweep.dictionaries[0].tables.slices())
    for name in ("up_tokens", "up_values", "down_tokens", "down_values"):
        place, column = table.table.column_names.index(name), table.table.column(name)
        some = [value if group == 0 else None for value, group in zip(column.to_pylist(), table["group"].tolist(), strict=True)]
        table = Table(table.table.set_column(place, name, pa.array(some, column.type)))
    groups = Examples.of(table, features["feature"]).by_group(0, Texts(sweep.vocabulary))
    assert len(groups) == 13
    assert all((example[4] is not None, example[5] is not None) == (group == 0, group == 0) for group, shown in groups for example in shown)


@pytest.mark.parametrize("text", [r"\x41", r"\x5cx41", r"a\xff\x", "\\", r"\u0041", "\u05e9\\x41"])
def test_a_tokens_own_backslash_is_no_byte(text):
    assert Vocabulary([_shown(text.encode())]).window([0]).text == text
    half = "\u05e9".encode()[:1]
    assert _shown(half + rb"\x41") == r"\xd7\x5cx41" and _shown(rb"\xi") == r"\xi"
