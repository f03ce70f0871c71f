from itertools import islice

import numpy as np
import pytest

from monosem.text import builtin
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
