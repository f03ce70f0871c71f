"""The positions that may give rows: the same as asking for every token, one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.text import selection
from monosem.text.selection import Selection
from monosem.text.tokens import TokenIndex


def make_index(tokens: np.ndarray) -> TokenIndex:
    return TokenIndex(tokens, np.zeros(1, np.int64), np.zeros(1, np.int32), ("",))


@given(
    st.integers(0, 9), st.integers(1, 6), st.integers(1, 7), st.integers(0, 8), st.frozensets(st.integers(0, 70_000) | st.integers(0, 4)),
    st.integers(0, 99), st.sampled_from([np.uint16, np.int32]), st.integers(1, 20),
)  # fmt: skip
def test_selection_is_the_filter_of_every_token(n, length, rows, skip, skip_tokens, seed, dtype, chunk):
    tokens = np.random.default_rng(seed).integers(0, 5, (n, length)).astype(dtype)
    kept, selection.CHUNK_TOKENS = selection.CHUNK_TOKENS, chunk
    try:
        chosen = Selection(make_index(tokens), rows, skip, skip_tokens)
    finally:
        selection.CHUNK_TOKENS = kept
    keep = [[p for p in range(skip, length) if tokens[c, p] not in skip_tokens] for c in range(n)]
    usable = [c for c in range(n) if len(keep[c]) >= rows]
    assert chosen.contexts.tolist() == usable and chosen.contexts.dtype == np.int64
    assert chosen.dropped == n - len(usable)
    for c in range(n):
        assert chosen.keep(c).tolist() == keep[c] and chosen.keep(c).dtype == np.int64


def test_limits():
    for rows, skip in ((0, 0), (1, -1)):
        with pytest.raises(ValueError, match="at least"):
            Selection(make_index(np.zeros((1, 4), np.uint16)), rows, skip, frozenset())
