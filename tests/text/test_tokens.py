"""Packing: laws of contexts, document starts, keys and begin tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from monosem.errors import InputError
from monosem.text import packing, tokens
from monosem.text.documents import Document
from monosem.text.tokens import END_OF_TEXT, TokenIndex, pack, train_tokenizer

TOKENIZER = train_tokenizer([f"document {i} says {i * i}" for i in range(100)], 300)
TOKENIZER.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
BEGIN = TOKENIZER.token_to_id("<s>")

corpora = st.lists(st.text(alphabet="ab 1\u20ac", min_size=1, max_size=30), min_size=1, max_size=12)


@settings(deadline=None)
@given(corpora, st.integers(2, 9), st.booleans(), st.sampled_from([END_OF_TEXT, "</s>"]), st.integers(1, 40))
def test_every_token_knows_its_document(texts, length, bos, end_token, flush):
    documents = [Document(f"k\u20ac\n{i}", f"d{i % 2}", t) for i, t in enumerate(texts)]
    kept, packing.FLUSH_TOKENS = packing.FLUSH_TOKENS, flush
    try:
        sides = pack(documents, TOKENIZER, length, 10**9, 0.5, end_token=end_token, begin_token="<s>" if bos else None)
    finally:
        packing.FLUSH_TOKENS = kept
    end = TOKENIZER.token_to_id(end_token)
    seen = []
    for index in sides:
        by_key = {d.key: d for d in documents}
        named = [by_key[index.key_of(i)] for i in range(len(index.doc_starts))]
        seen += named
        flat = [
            (t, number, place)
            for number, d in enumerate(named)
            for place, t in enumerate([*TOKENIZER.encode(d.text).ids, end])
        ]
        width = length - bos
        n = len(flat) // width
        want = np.array(flat[: n * width], np.int64).reshape(n, width, 3)
        if bos:  # a begin token counts to the document of the token after it
            first = np.stack([np.full(n, BEGIN), want[:, 0, 1], np.full(n, -1)], -1)
            want = np.concatenate([first[:, None], want], 1)
        contexts, places = np.arange(n)[:, None], np.arange(length)[None]
        assert np.array_equal(index.tokens_NT, want[..., 0]) and index.tokens_NT.dtype == np.uint16
        assert np.array_equal(index.document_of(contexts, places), want[..., 1])
        assert np.array_equal(index.position_in_document(contexts, places), want[..., 2])
        assert [index.domains[i] for i in index.doc_domains] == [d.domain for d in named]
        starts = index.doc_starts[index.doc_starts < n * length]
        assert np.array_equal(
            index.tokens_NT.reshape(-1)[starts], [TOKENIZER.encode(d.text).ids[0] for d in named][: len(starts)]
        )
    assert sorted(d.key for d in seen) == sorted(d.key for d in documents)


def test_batches_of_documents_change_nothing(monkeypatch):
    documents = [Document(str(i), "", f"text {i} " * (i % 7 + 1)) for i in range(100)]
    whole = pack(documents, TOKENIZER, 8, 700, 0.2)
    monkeypatch.setattr(tokens, "CHUNK_CHARS", 50)
    assert [len(c) for c in tokens._chunks(documents)] != [100]
    for a, b in zip(whole, pack(documents, TOKENIZER, 8, 700, 0.2), strict=True):
        assert np.array_equal(a.tokens_NT, b.tokens_NT) and np.array_equal(a.doc_starts, b.doc_starts)


def test_a_large_vocabulary_takes_int32():
    big = train_tokenizer(["some words"], 300)
    big.add_tokens([f"<{i}>" for i in range(65_536 - big.get_vocab_size())])
    documents = [Document(str(i), "", "<65000><9>") for i in range(20)]
    assert pack(documents, big, 4, 10**9, 0.5)[0].tokens_NT.dtype == np.uint16
    big.add_tokens(["<one more>"])
    train, _ = pack([Document(str(i), "", "<one more>") for i in range(20)], big, 4, 10**9, 0.5)
    assert train.tokens_NT.dtype == np.int32 and train.tokens_NT.max() == 65_536


def test_a_tokenizer_that_truncates_or_pads_does_neither_here():
    cutting = train_tokenizer(["some words"], 300)
    documents = [Document(str(i), "", "many words here " * i) for i in range(1, 20)]
    want = pack(documents, cutting, 4, 10**9, 0.5)[0].tokens_NT
    cutting.enable_truncation(3)
    cutting.enable_padding(length=50)
    assert np.array_equal(pack(documents, cutting, 4, 10**9, 0.5)[0].tokens_NT, want)
    assert cutting.truncation is not None  # the caller's tokenizer stays as it is


@pytest.mark.parametrize("field", ["end_token", "begin_token"])
def test_tokens_that_the_tokenizer_lacks(field):
    with pytest.raises(InputError, match=rf"{field}='<x>': .* no such token; its special tokens: </s>, <s>, "):
        pack([], TOKENIZER, 8, 10, 0.5, **{field: "<x>"})


def test_a_column_of_names_is_no_domain_column(monkeypatch):
    monkeypatch.setattr(packing, "MAX_DOMAINS", 5)
    with pytest.raises(InputError, match=r"corpus\.domain_column: more than 5 different labels"):
        pack([Document(str(i), str(i), "x") for i in range(20)], TOKENIZER, 8, 10**9, 0.5)


def test_an_index_of_four_fields():
    index = TokenIndex(np.zeros((2, 4), np.uint16), np.array([0, 5]), np.zeros(2, np.int32), ("",))
    assert index.document_of(1, 0) == 0 and index.document_of(1, 1) == 1 and index.position_in_document(1, 3) == 2
    with pytest.raises(ValueError, match="without document keys"):
        index.key_of(0)


def test_keys_of_documents_that_are_not_there():
    index, _ = pack([Document("a", "", "x")], TOKENIZER, 8, 10**9, 0.0)
    assert index.key_of(0) == "a"
    for document in (-1, 1):
        with pytest.raises(IndexError):
            index.key_of(document)
