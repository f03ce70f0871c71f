"""Files of every kind give the same documents; what is broken is named and harms nothing else."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.dataset.foreign import find_foreign
from monosem.errors import InputError
from monosem.text import files, jsonl, quarantine, streams
from monosem.text.quarantine import Bad, Quarantine

TEXTS = [f"document {i} says the little word {i * i}" for i in range(20)]
ROWS = [{"domain": f"d{i % 3}", "text": t} for i, t in enumerate(TEXTS)]  # the domain first: order must not matter
JSONL = "".join(json.dumps(r) + "\n" for r in ROWS).encode()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def read(source, quarantine=None):
    return list(files.documents(str(source), "text", "domain", Quarantine() if quarantine is None else quarantine))


def write_all(folder: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    (folder / "a.jsonl").write_bytes(JSONL)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(JSONL[:300]) + gzip.compress(JSONL[300:]))
    (folder / "c.jsonl.zst").write_bytes(zstd(JSONL[:300]) + zstd(JSONL[300:]))
    pq.write_table(table, folder / "d.parquet")
    with pa.ipc.new_stream(folder / "e.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    with pa.ipc.new_file(folder / "f.arrow", table.schema) as writer:
        writer.write_table(table)


def test_files_of_every_kind_give_the_same_documents(tmp_path):
    write_all(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        got = read(path)
        assert [(d.domain, d.text) for d in got] == [(r["domain"], r["text"]) for r in ROWS], path.name
        assert [d.key for d in got] == [f"{path.name}#{i}" for i in range(20)]
    everything = read(tmp_path)
    assert len(everything) == 120 and everything == read(tmp_path / "*")


def test_text_files_plain_and_compressed(tmp_path):
    for name, data in (("a.txt", b"one"), ("b.txt.gz", gzip.compress(b"two")), ("c.txt.zst", zstd(b"three"))):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "d.txt").write_bytes(b"\xef\xbb\xbffour")
    assert [d.text for d in read(tmp_path)] == ["one", "two", "three", "four"]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary", "dictionary"])
def test_text_columns_of_every_arrow_type(tmp_path, kind):
    table = pa.Table.from_pylist(ROWS)
    if kind == "dictionary":
        column = table["text"].dictionary_encode()
    else:
        column = table["text"].cast(getattr(pa, kind)())
    table = table.set_column(1, "text", column)
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert [d.text for d in read(tmp_path)] == TEXTS


BAD_LINES = [
    (b"not json", "not JSON"),
    (b'{"text": "cut', "not JSON"),
    (b'{"text": ""}', "empty"),
    (b'{"text": " \\n\\t"}', "empty"),
    (b'{"other": 1}', "no text in the column"),
    (b'{"text": 7}', "no text in the column"),
    (b"[1, 2]", "not a JSON object"),
    (b'{"text": "\\ud800"}', "lone surrogate"),
    (b'{"text": "caf\xe9"}', "invalid UTF-8"),
    (b'{"text": "a \\u0000 b"}', "NUL character"),
    (b'{"text": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON nested too deeply"),
    (b'{"text": "x", "a": ' + b"[" * 100_000, "JSON nested too deeply"),
    (b'{"text": "x", "a": [' + b"[]," * 1_100_000 + b"0]}", "JSON of too many values"),
    (b'{"text": "x", "domain": "\\udfff"}', "unusable domain label"),
    (b'{"text": "' + b"a" * (quarantine.DOCUMENT_BYTES + 1) + b'"}', "too large"),
    (b'{"text": "' + b"a" * streams.LINE_BYTES + b'"}', "too large"),
]


@pytest.mark.parametrize("line, reason", BAD_LINES, ids=[f"{r}-{i}" for i, (_, r) in enumerate(BAD_LINES)])
def test_a_bad_line_is_named_and_moves_no_other(tmp_path, line, reason):
    good = [b'{"text": "zero"}', b'{"text": "one"}', b'{"text": "two"}']
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(good))
    before = read(path)
    path.write_bytes(b"\n".join([good[0], line, good[2]]))
    kept = Quarantine()
    assert read(path, kept) == [before[0], before[2]]
    assert kept.reasons == {reason: 1} and kept.examples == [f"{path.name}#1: {reason}"]
    assert [json.loads(row) for row in kept.listing().splitlines()] == [{"key": f"{path.name}#1", "reason": reason}]


def test_good_lines_that_look_bad(tmp_path):
    lines = [
        json.dumps({"text": "[" * 5000 + '\\"{' * 5000}),  # brackets and quotes inside a string are text
        '{"text": "long number", "n": ' + "9" * 5000 + "}",
        '{"text": "not finite", "n": NaN}\r',
        '{"text": "' + "," * (2**20 + 10) + '"}',
        json.dumps({"text": "64 deep", "a": json.loads("[" * 63 + "]" * 63)}),
        '{"text": "65 deep", "a": ' + "[" * 64 + "]" * 64 + "}",
    ]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    got = read(tmp_path)
    assert [int(d.key.rsplit("#")[-1]) for d in got] == [0, 1, 2, 3, 4]


def test_blank_lines_are_no_documents_and_are_counted_as_places(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\n  \n{"text": "three"}\n\n')
    kept = Quarantine()
    assert [d.key[-2:] for d in read(tmp_path, kept)] == ["#1", "#3"] and not kept.reasons


def test_bad_cells_of_a_parquet_file(tmp_path):
    cells = pa.array([b"good", b"\xff", None, b"", b"a\x00b", b"x" * (quarantine.DOCUMENT_BYTES + 1), b"fine"])
    labels = pa.array([b"a", b"a", b"a", b"a", b"a", b"a", b"\xff"])
    for kind in (pa.string(), pa.binary()):
        pq.write_table(pa.table({"text": cells.view(kind), "domain": labels.view(kind)}), tmp_path / "a.parquet")
        kept = Quarantine()
        assert [d.text for d in read(tmp_path, kept)] == ["good"]
        assert [e.split(": ")[1] for e in kept.examples] == [
            "invalid UTF-8", "no text in the column", "empty", "NUL character", "too large", "unusable domain label",
        ]  # fmt: skip


def broken(data: bytes) -> list[bytes]:
    return [
        b"",
        data[:-3],
        data[: len(data) // 2],
        data + b"garbage",
        data[:40] + b"\xff" * 9 + data[49:],
        b"plain text",
    ]


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".zst", zstd)])
@pytest.mark.parametrize("case", range(6))
def test_a_broken_compressed_file_stops_the_reading(tmp_path, suffix, pack, case):
    for kind in (".txt", ".jsonl"):
        path = tmp_path / f"broken{kind}{suffix}"
        path.write_bytes(broken(pack(JSONL))[case])
        with pytest.raises(InputError, match=rf"broken{kind}{suffix} cannot be read to its end: ") as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "b.arrow"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_columns_never_crash(tmp_path_factory, name, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        folder.mkdir()
        write_all(folder)
    source = {"a.parquet": "d.parquet", "a.arrow": "e.arrow", "b.arrow": "f.arrow"}[name]
    whole = bytearray((folder / source).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[place] = data.draw(st.sampled_from([0, 1, 127, 255]))
    target = tmp_path_factory.getbasetemp() / name
    target.write_bytes(whole)
    try:
        assert len(read(target)) <= 20
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "source, says", [("nowhere/*.txt", "no such file"), ("{dir}", "none ends in"), ("gopher://x", "cannot be read")]
)
def test_sources_that_cannot_be_read(tmp_path, source, says):
    (tmp_path / "x.pdf").write_text("")
    with pytest.raises(InputError, match=says):
        files.find_files(source.format(dir=tmp_path))


def test_a_column_that_is_not_there_or_holds_no_text(tmp_path):
    pq.write_table(pa.table({"texts": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has the columns texts, n; did you mean texts"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"corpus\.text_column='n': the column holds int64, not text"):
        list(files.documents(str(tmp_path), "n", "domain", Quarantine()))


def save(folder: Path, texts: list[str], parts: int) -> None:
    """As `datasets` saves a dataset to disk; what is there already stays."""
    folder.mkdir(exist_ok=True)
    names = [f"data-{i:05d}-of-{parts:05d}.arrow" for i in range(parts)]
    for i, name in enumerate(names):
        table = pa.table({"text": texts[i * len(texts) // parts : (i + 1) * len(texts) // parts]})
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def test_a_saved_dataset_is_the_files_that_its_state_names(tmp_path):
    save(tmp_path / "set", TEXTS, 4)
    save(tmp_path / "set", TEXTS, 1)
    (tmp_path / "more.jsonl").write_text('{"text": "beside"}\n')
    assert [d.text for d in read(tmp_path / "set")] == TEXTS
    assert [d.text for d in read(tmp_path)] == ["beside", *TEXTS] and len(read(tmp_path / "**")) == 21
    state = json.loads((tmp_path / "set/state.json").read_text())
    names = [f"data-0000{i}-of-00004.arrow" for i in (3, 0, 1)]
    (tmp_path / "set/state.json").write_text(json.dumps(state | {"_data_files": [{"filename": n} for n in names]}))
    assert [d.text for d in read(tmp_path / "set")] == [*TEXTS[15:], *TEXTS[:10]]


@pytest.mark.parametrize("state, says", [
    ('{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow: is named by state.json and missing"),
    ('{"_data_files": [{"filename": "../a.arrow"}]}', ".arrow files beside it are needed"),
    ('{"_data_files": [{"filename": "a.arrow"}, {"filename": "a.arrow"}]}', "are needed, each once"),
    ('{"_data_files": [{"file": "a"}]}', "names no files"),
    ('{"_data_files": ["a"]}', "names no files"),
    ('{"_data_files": {}}', "names no files"),
    ("{}", "names no files"),
    ("[]", "a JSON object was expected"),
    ("{", "not valid JSON"),
])  # fmt: skip
def test_a_state_that_names_no_files_is_refused_by_text_and_activations_alike(tmp_path, state, says):
    save(tmp_path / "set", TEXTS, 1)
    (tmp_path / "set/state.json").write_text(state)
    for look in (files.find_files, lambda source: find_foreign(source, None)):
        with pytest.raises(InputError) as error:
            look(str(tmp_path / "set"))
        assert says in str(error.value) and "\n" not in str(error.value)


def test_a_state_beside_other_files_is_none_of_datasets(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "state.json").write_text("[]")
    assert [d.text for d in read(tmp_path)] == ["one"]


@pytest.mark.parametrize("writer", ["pyarrow", "datasets"])
def test_a_stream_that_was_cut_anywhere_is_not_whole(tmp_path, writer):
    path = tmp_path / "a.arrow"
    if writer == "pyarrow":
        table = pa.table({"text": TEXTS, "x": [[1.0]] * 20})
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table, max_chunksize=5)
    else:
        hf = pytest.importorskip("datasets")
        hf.Dataset.from_dict({"text": TEXTS, "x": [[1.0]] * 20}).save_to_disk(str(tmp_path / "set"))
        path.write_bytes((tmp_path / "set/data-00000-of-00001.arrow").read_bytes())
    assert len(read(path)) == 20 == find_foreign(str(path), "x").rows
    whole = path.read_bytes()
    for n in range(8, len(whole), 8):
        path.write_bytes(whole[:n])
        with pytest.raises(InputError):
            read(path)
        with pytest.raises(InputError):
            find_foreign(str(path), "x")


def test_names_that_are_not_unicode(tmp_path):
    (tmp_path / "bad\udcff.jsonl").write_bytes(b"nonsense\n")
    kept = Quarantine()
    assert read(tmp_path, kept) == []
    json.dumps([kept.examples, files.identity(str(tmp_path))], ensure_ascii=False).encode()
    assert b"udcff" in kept.listing()


def test_the_listing_is_bounded_and_the_counts_are_not(monkeypatch):
    monkeypatch.setattr(quarantine, "LISTED_DOCUMENTS", 30)
    kept = Quarantine()
    for i in range(100):
        kept.add(f"k{i}", "empty" if i % 2 else "not JSON")
    assert kept.reasons == {"empty": 50, "not JSON": 50} and kept.listed == 30 and len(kept.examples) == 20
    assert len(kept.listing().splitlines()) == 30


class Dribble:
    """A stream that gives as many bytes at a time as it is told to."""

    def __init__(self, data: bytes, sizes: list[int]):
        self.data, self.sizes = data, sizes

    def read(self, n: int) -> bytes:
        size = min(n, self.sizes.pop() if self.sizes else n)
        chunk, self.data = self.data[:size], self.data[size:]
        return chunk


@given(st.lists(st.sampled_from([b"", b"a", b"bcd", b"x" * 8, b"y" * 9, b"z" * 40])), st.lists(st.integers(1, 12)))
def test_lines_do_not_depend_on_how_bytes_arrive(lines, sizes):
    limit, streams.LINE_BYTES = streams.LINE_BYTES, 8
    try:
        got = list(streams.bounded_lines(Dribble(b"\n".join(lines), sizes)))
    finally:
        streams.LINE_BYTES = limit
    want = [line if len(line) <= 8 else None for line in lines]
    assert got == (want[:-1] if lines and not lines[-1] else want)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab\\"[]{},:\n\u20ac'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='"\\[{'), inner),
    max_leaves=20,
)


@given(values)
def test_what_stands_outside_strings(value):
    line = json.dumps(value, ensure_ascii=False).encode()

    def count(v):  # (lists and objects, depth)
        inner = list(v.values()) if isinstance(v, dict) else v if isinstance(v, list) else None
        if inner is None:
            return 0, 0
        below = [count(i) for i in inner]
        return 1 + sum(n for n, _ in below), 1 + max((d for _, d in below), default=0)

    outside = jsonl._outside_strings(line)
    assert outside.count(b"[") + outside.count(b"{") == count(value)[0]
    limit, jsonl.MAX_DEPTH = jsonl.MAX_DEPTH, 2
    try:
        got = jsonl.parse_line(line, "text", "domain")[0]
    finally:
        jsonl.MAX_DEPTH = limit
    assert (got == Bad(quarantine.TOO_DEEP)) == (count(value)[1] > 2)


MEASURE = """
import sys
from monosem.text import files
def peak():  # of this program; what getrusage says would include the process it was forked from
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
list(files.documents(sys.argv[1], "text", "domain", files.Quarantine()))
before = peak()
kept = files.Quarantine()
got = list(files.documents(sys.argv[2], "text", "domain", kept))
print(len(got), dict(kept.reasons), round(peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory by /proc")
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.txt.gz", "a.jsonl.gz", "a.txt.zst", "a.jsonl.zst"])
def test_a_huge_document_is_never_held(tmp_path, name):
    """100 MB in one line or file, which a few kB can hold when compressed, against the limit of 16 MiB."""
    huge = b'{"text": "' + b"a" * 100_000_000 + b'"}\n'
    data = (huge if ".jsonl" in name else huge[:-1]) + (b'{"text": "good"}\n' if ".jsonl" in name else b"")
    pack = {"gz": lambda d: gzip.compress(d, 1), "zst": zstd}.get(name.rsplit(".", 1)[-1], bytes)
    (tmp_path / name).write_bytes(pack(data))
    (tmp_path / f"small-{name}").write_bytes(pack(JSONL))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / f"small-{name}"), str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=True,
    )
    good, rest = done.stdout.split(" ", 1)
    assert int(good) == (".jsonl" in name) and "{'too large': 1}" in rest
    assert int(rest.split()[-1]) < 64, rest


def test_a_corpus_that_moves_keeps_its_names_and_so_its_split(tmp_path):
    """As a directory, a glob and a single file, here and elsewhere."""
    names = []
    for place in ("here", "else/where"):
        (tmp_path / place / "deep").mkdir(parents=True)
        for name in ("a.txt", "deep/b.txt"):
            (tmp_path / place / name).write_text(f"text of {name}")
        root = str(tmp_path / place)
        names.append([d.key for s in (root, root + "/", f"{root}/**/*.txt") for d in read(s, Quarantine())])
        assert [d.key for d in read(f"{root}/deep/b.txt", Quarantine())] == ["b.txt#0"]
    assert names[0] == names[1] == ["a.txt#0", "deep/b.txt#0"] * 3
