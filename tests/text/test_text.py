import json
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monosem.errors import InputError
from monosem.text import builtin, files
from monosem.text.documents import Document, is_heldout
from monosem.text.generators import GENERATORS
from monosem.text.tokens import END_OF_TEXT, pack, train_tokenizer

TEXTS = [f"document {i} says the little word {i * i}" for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in ["", "plain", "1234567", "שלום мир 中文 \U0001f600", "tabs\tand\r\nlines", "\x00\x07"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("2023").ids) == 4  # digits one by one


def test_packing_is_the_concatenation_cut_into_contexts(tokenizer):
    documents = [Document(str(i), "", t) for i, t in enumerate(TEXTS)]
    train, heldout = pack(documents, tokenizer, 16, 10**9, 0.2)
    for side, wanted in ((train, False), (heldout, True)):
        chosen = [d for d in documents if is_heldout(d.key, 0.2) is wanted]
        flat = [i for d in chosen for i in [*tokenizer.encode(d.text).ids, 0]]
        n = len(flat) // 16
        assert side.tokens_NT.tolist() == np.reshape(flat[: n * 16], (n, 16)).tolist()
        starts = np.cumsum([0] + [len(tokenizer.encode(d.text).ids) + 1 for d in chosen])[:-1]
        assert side.doc_starts.tolist() == starts.tolist()
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    for context, token in [(0, 0), (3, 5), (7, 15)]:
        position = context * 16 + token
        expected = max(i for i, s in enumerate(train.doc_starts) if s <= position)
        assert train.document_of(context, token) == expected


def test_packing_stops_at_max_tokens(tokenizer):
    documents = [Document(str(i), "", t) for i, t in enumerate(TEXTS)]
    train, _ = pack(documents, tokenizer, 16, 500, 0.2)
    assert 500 - 16 <= train.tokens_NT.size <= 560


def test_the_split_is_by_name_and_about_the_asked_share():
    held = [is_heldout(f"k{i}", 0.1) for i in range(5000)]
    assert held == [is_heldout(f"k{i}", 0.1) for i in range(5000)]
    assert 400 < sum(held) < 600


def test_builtin_corpus_is_a_function_of_its_seed():
    first, again, other = (list(islice(builtin.documents(seed), 150)) for seed in (1, 1, 2))
    assert first == again and first != other
    assert len({d.key for d in first}) == 150


def test_builtin_corpus_has_every_domain_in_its_script():
    found: dict[str, str] = {}
    for d in islice(builtin.documents(0), 1500):
        found[d.domain] = found.get(d.domain, "") + d.text
    assert set(found) == set(builtin.WEIGHTS)
    ranges = {"arabic": "\u0600\u06ff", "hebrew": "\u0590\u05ff", "russian": "\u0400\u04ff", "greek": "\u0370\u03ff",
              "chinese": "\u4e00\u9fff", "japanese": "\u3040\u30ff", "korean": "\uac00\ud7af", "thai": "\u0e00\u0e7f",
              "hindi": "\u0900\u097f", "armenian": "\u0530\u058f", "persian": "\u0600\u06ff"}  # fmt: skip
    for domain, (lo, hi) in ranges.items():
        letters = [c for c in found[domain] if c.isalpha()]
        assert sum(lo <= c <= hi for c in letters) > 0.3 * len(letters), domain
    assert "def " in found["python"] and "\\begin{" in found["latex"] and "HTTP/1.1" in found["http"]
    assert set("ACGT") <= set(found["dna"]) and "Calories" in found["nutrition"]


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_follow_their_random_source(name):
    from random import Random

    texts = {GENERATORS[name](Random(i)) for i in (1, 1, 2, 3)}
    assert len(texts) == 3 and all(200 < len(t) < 20_000 for t in texts)


def test_files_of_three_kinds_give_the_same_documents(tmp_path):
    rows = [{"text": t, "domain": f"d{i % 3}"} for i, t in enumerate(TEXTS[:20])]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text(TEXTS[0])
    read = {}
    for name in ("a.jsonl", "b.parquet", "c.txt"):
        read[name] = list(files.documents(str(tmp_path / name), "text", "domain", files.Quarantine()))
    assert [d.text for d in read["a.jsonl"]] == TEXTS[:20] == [d.text for d in read["b.parquet"]]
    assert [d.domain for d in read["a.jsonl"]] == [r["domain"] for r in rows] == [d.domain for d in read["b.parquet"]]
    assert [d.text for d in read["c.txt"]] == TEXTS[:1]
    everything = list(files.documents(str(tmp_path / "*"), "text", "domain", files.Quarantine()))
    assert len(everything) == 41 and len({d.key for d in everything}) == 41


def test_bad_documents_are_counted_and_passed_over(tmp_path):
    lines = [b'{"text": "good one"}', b"not json", b'{"text": ""}', b'{"other": 1}', b"[1, 2]",
             b'{"text": "\\ud800"}', b'{"text": "caf\xe9"}', b'{"text": "good \\u0000 two"}']  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe broken")
    quarantine = files.Quarantine()
    good = list(files.documents(str(tmp_path), "text", "domain", quarantine))
    assert [d.text for d in good] == ["good one", "good \x00 two"]
    assert sum(quarantine.reasons.values()) == 7 and quarantine.reasons["lone surrogate"] == 1
    assert good[1].key.endswith("#7")  # a bad document does not shift the names of the others


@pytest.mark.parametrize("source, says", [("nowhere/*.txt", "no such file"), ("{dir}", "none ends in")])
def test_sources_that_cannot_be_read(tmp_path, source, says):
    (tmp_path / "x.pdf").write_text("")
    with pytest.raises(InputError, match=says):
        files.find_files(source.format(dir=tmp_path))


def test_a_parquet_file_without_the_column(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has the columns body"):
        list(files.documents(str(tmp_path), "text", "domain", files.Quarantine()))
