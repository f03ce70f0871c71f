"""Checkpoints in shares: any cut is put together again, a gap is an error."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monosem.errors import IntegrityError
from monosem.learn.shares import assembled
from monosem.sae.tree import share

D, F = 3, 11
WHOLE = {
    "W_dec": torch.randn(F, D), "W_enc": torch.randn(D, F), "b_enc": torch.randn(F), "last_fired": torch.arange(F),
    "adam.W_enc.exp_avg": torch.randn(D, F), "b_dec": torch.randn(D), "adam.b_dec.exp_avg": torch.randn(D),
}  # fmt: skip
BY_FEATURE = {"W_dec": 0, "W_enc": 1, "b_enc": 0, "last_fired": 0, "adam.W_enc.exp_avg": 1}


def cut(ranks: int) -> list:
    shares = []
    for rank in range(ranks):
        lo, hi = share(F, ranks, rank)
        tensors = {name: WHOLE[name].narrow(axis, lo, hi - lo) for name, axis in BY_FEATURE.items()}
        if rank == 0:
            tensors |= {name: t for name, t in WHOLE.items() if name not in BY_FEATURE}
        shares.append((lo, hi, tensors))
    return shares


@given(st.integers(1, F), st.integers(1, F), st.data())
def test_written_by_some_and_read_by_others(writers, readers, data):
    reader = data.draw(st.integers(0, readers - 1))
    lo, hi = share(F, readers, reader)
    found = assembled(cut(writers), lo, hi)
    assert found.keys() == WHOLE.keys()
    for name, t in WHOLE.items():
        axis = BY_FEATURE.get(name)
        assert torch.equal(found[name], t if axis is None else t.narrow(axis, lo, hi - lo)), name


@pytest.mark.parametrize("missing", [1, 2])
def test_a_gap_is_an_error(missing):
    shares = cut(3)
    del shares[missing]
    with pytest.raises(IntegrityError, match="has no features"):
        assembled(shares, 0, F)
