"""Every run sees every row of its range once, in one order, whatever its speed."""

import hashlib
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from monosem.rows.order import StreamOrder
from monosem.store.store import open_store
from monosem.stream.harvest import StreamText
from monosem.stream.locate import origin, row_of
from monosem.text.index import load
from monosem.text.selection import Selection

GOLDEN = "1d8eb54c3a2279f84632bfd64d6c2314ff171cd33271644344c589fc5e9d9ea7"
"""SHA-256 of the (token id, position) of all rows: the stream of these 3,000 words under this seed."""


@pytest.fixture(scope="module", params=[0.0, 0.05], ids=["wait", "detach"])
def result(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("readers")
    command = [sys.executable, "-m", "tests.fleet.three_readers", str(directory), str(request.param)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    index = load(open_store(f"{directory}/store"), found["key"]).train
    order = StreamOrder(**found["order"])
    return found, StreamText(index, Selection(index, 8, 0, frozenset({0})), order), request.param


def test_all_readers_see_the_golden_order(result):
    found, _, _ = result
    for name, rows in found["seen"].items():
        assert len(rows) == found["rows"], name
        assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == GOLDEN, name


def test_each_row_is_where_the_arithmetic_says(result):
    found, text, _ = result
    t = np.arange(found["rows"])
    where = origin(text, t)
    expected = np.stack([text.index.tokens_NT[where.context, where.token].astype(int), where.token], axis=1)
    assert found["seen"]["slow"] == expected.tolist()
    for at in (0, 1, 777, found["rows"] - 1):
        assert row_of(text, int(where.context[at]), int(where.token[at]), int(where.epoch[at])) == at


def test_nothing_is_missing_and_nothing_is_twice(result):
    """Two epochs, but for the K*r*(G-1)/2 rows at the very beginning that the order says are never emitted."""
    found, text, _ = result
    order = text.order
    index_of = {int(token): at for at, token in np.ndenumerate(text.index.tokens_NT)}
    epochs = order.row(np.arange(found["rows"]))[0] // order.contexts_per_epoch
    for name, rows in found["seen"].items():
        first, second = ([row for row, e in zip(rows, epochs, strict=True) if e == epoch] for epoch in (0, 1))
        for seen in (first, second):
            assert max(Counter(token for token, _ in seen).values()) == 1, name
            assert all(index_of[token][1] == position for token, position in seen), name
        lost = order.segment_rows * (order.generations - 1) // 2
        assert len(second) == order.contexts_per_epoch * order.rows_per_context == len(first) + lost
        per_context = Counter(index_of[token][0] for token, _ in second)
        assert set(per_context.values()) == {order.rows_per_context}
        assert len(per_context) == order.contexts_per_epoch


def test_a_slow_reader_is_left_to_itself_only_if_asked_for(result):
    found, _, detach = result
    assert bool(found["news"]) == (detach > 0)
