"""The stored token index: found again, shared by mapping, checked, and complete in what it says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken

from monosem.config.job import CorpusConfig
from monosem.errors import InputError, IntegrityError
from monosem.store.plain import pack_json, unpack_json
from monosem.store.store import LocalStore, open_store
from monosem.store.tensors import tensors_digest
from monosem.text import index
from monosem.text.index import context_tokens, load, prepare
from monosem.text.sources import open_source
from monosem.text.tokens import train_tokenizer

TEXTS = [f"document {i} says the little word {i * i}" for i in range(60)]
TOKENIZER = train_tokenizer(TEXTS, 300)
TOKENIZER.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])


@pytest.fixture
def config(tmp_path) -> CorpusConfig:
    rows = [json.dumps({"text": t, "domain": f"d{i % 3}"}) for i, t in enumerate(TEXTS)]
    rows[5] = "nonsense"
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    return CorpusConfig(source=str(tmp_path / "a.jsonl"), context_length=16, heldout_fraction=0.3)


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


def test_an_index_is_the_same_when_read_back_from_any_store(config, store, monkeypatch):
    corpus = prepare(store, config, TOKENIZER)
    remote = prepare(open_store("memory://index-test"), config, TOKENIZER)
    monkeypatch.setattr(index, "pack", None)  # whoever builds again fails
    again = prepare(store, config, TOKENIZER)
    for other in (remote, again, load(store, corpus.key)):
        assert (other.key, other.digest, other.quarantined) == (corpus.key, corpus.digest, {"not JSON": 1})
        for a, b in ((corpus.train, other.train), (corpus.heldout, other.heldout)):
            assert np.array_equal(a.tokens_NT, b.tokens_NT) and np.array_equal(a.doc_starts, b.doc_starts)
            assert a.domains == b.domains and a.tokens_NT.dtype == b.tokens_NT.dtype == np.uint16
            assert [a.key_of(i) for i in range(len(a.doc_starts))] == [b.key_of(i) for i in range(len(b.doc_starts))]
    keys = {side.key_of(i) for side in (corpus.train, corpus.heldout) for i in range(len(side.doc_starts))}
    assert keys == {f"{Path(config.source).name}#{i}" for i in range(60) if i != 5}
    assert context_tokens(corpus.train, np.array([1, 0])).dtype == torch.int64


def test_quarantined_documents_are_listed_in_the_store(config, store):
    corpus = prepare(store, config, TOKENIZER)
    row = {"key": f"{Path(config.source).name}#5", "reason": "not JSON"}
    listed = store.get(f"corpora/{corpus.key}/quarantine.jsonl").decode().splitlines()
    assert [json.loads(line) for line in listed] == [row]
    record = json.loads(store.get(f"corpora/{corpus.key}/index.json"))
    assert record["quarantined"] == {"not JSON": 1} and record["quarantine_listed"] == 1
    assert record["quarantine_examples"] == [f"{Path(config.source).name}#5: not JSON"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at /proc")
def test_a_local_index_is_mapped_and_not_copied(config, store):
    corpus = load(store, prepare(store, config, TOKENIZER).key)
    maps = [line for line in open("/proc/self/maps") if f"{corpus.key}/train.safetensors" in line]
    spans = [[int(n, 16) for n in line.split()[0].split("-")] for line in maps]
    address = corpus.train.tokens_NT.ctypes.data
    assert any(a <= address < b for a, b in spans)


def test_what_the_key_depends_on(config, store):
    def key(tokenizer=TOKENIZER, end="<|endoftext|>", begin=None, **changes):
        return prepare(store, replace(config, **changes), tokenizer, end_token=end, begin_token=begin).key

    other = train_tokenizer(TEXTS, 290)
    keys = [key(), key(other), key(end="</s>"), key(begin="<s>", bos=True), key(begin="</s>", bos=True), key(context_length=8), key(max_tokens=100),
            key(heldout_fraction=0.4), key(domain_column="x")]  # fmt: skip
    assert len(set(keys)) == len(keys) and key() == key(begin="<s>") == keys[0]


def test_begin_tokens(config, store):
    corpus = prepare(store, replace(config, bos=True), TOKENIZER, begin_token="<s>")
    assert set(corpus.train.tokens_NT[:, 0]) == {TOKENIZER.token_to_id("<s>")} and corpus.train.text_from == 1
    with pytest.raises(InputError, match=r"corpus\.bos=true: .* no begin-of-text token"):
        prepare(store, replace(config, bos=True), TOKENIZER)


def damage(store, key, change):
    path = store.root / f"corpora/{key}/train.safetensors"
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def test_damage_is_found(config, store):
    key = prepare(store, config, TOKENIZER).key
    damage(store, key, lambda data: data.__setitem__(-1, data[-1] ^ 1))
    with pytest.raises(IntegrityError, match="does not match its digest"):
        prepare(store, config, TOKENIZER)
    load(store, key)  # a mapped file is checked in shape only, as promised
    damage(store, key, lambda data: data.__delitem__(slice(-8, None)))
    with pytest.raises(IntegrityError, match="not a readable safetensors file"):
        load(store, key)


def test_bytes_from_a_network_are_always_checked(config):
    store = open_store("memory://index-damage")
    key = prepare(store, config, TOKENIZER).key
    path = f"corpora/{key}/heldout.safetensors"
    data = store.get(path)
    store.put(path, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="does not match its digest"):
        load(store, key)


@pytest.mark.parametrize("field", ["contexts", "documents"])
def test_shapes_that_the_record_does_not_describe(config, store, field):
    key = prepare(store, config, TOKENIZER).key
    path = f"corpora/{key}/index.json"
    record = unpack_json(store.get(path), path)
    record[field]["train"] += 1
    store.put(path, pack_json(record))
    with pytest.raises(IntegrityError, match="not those that index"):
        load(store, key)


def test_a_source_that_changes_while_it_is_read(config, store):
    def grow(tokens):
        with open(config.source, "a") as file:
            file.write('\n{"text": "late"}')

    with pytest.raises(InputError, match="changed while it was read"):
        prepare(store, config, TOKENIZER, grow)
    assert not store.list("corpora")


def test_the_digest_leaves_names_out():
    from monosem.text.documents import Document
    from monosem.text.tokens import pack

    def digests(prefix):
        made, _ = pack([Document(f"{prefix}{i}", "", t) for i, t in enumerate(TEXTS)], TOKENIZER, 16, 10**9, 0.0)
        return index._text_digest(index._to_tensors(made)), tensors_digest(index._to_tensors(made))

    (text, whole), (same_text, other) = digests("a"), digests("b")
    assert text == same_text and whole != other


def test_too_little_text_says_what_was_passed_over(tmp_path, store):
    (tmp_path / "a.txt").write_bytes(b"\x00")
    with pytest.raises(InputError, match=r"too little text: .* \(passed over: 1 NUL character\)"):
        prepare(store, CorpusConfig(source=str(tmp_path / "a.txt")), TOKENIZER)


def test_one_long_document_cannot_be_split(tmp_path, store):
    (tmp_path / "a.txt").write_text("a long text of one file " * 2000)
    with pytest.raises(InputError, match=r"no (training|held-out) context of 256 tokens in 0 of 1 documents \(the split"):
        prepare(store, CorpusConfig(source=str(tmp_path / "a.txt")), TOKENIZER)


@pytest.mark.parametrize("source, option", [
    ("a.jsonl", {"seed": 3}), ("a.jsonl", {"split": "test"}), ("a.jsonl", {"revision": "main"}),
    ("hf:{dir}", {"seed": 3}), ("builtin", {"text_column": "body"}), ("builtin", {"domain_column": "topic"}),
])  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(tmp_path, source, option):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    path = source if source == "builtin" else source.format(dir=tmp_path) if "hf" in source else str(tmp_path / source)
    [(name, value)] = option.items()
    with pytest.raises(InputError) as error:
        open_source(CorpusConfig(source=path, **option))
    assert str(error.value).startswith(f"corpus.{name}={value!r}: ") and "\n" not in str(error.value)
    open_source(CorpusConfig(source=path))
