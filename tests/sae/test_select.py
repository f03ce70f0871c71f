"""The k largest of a row over several parts, against one sort of the whole row."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from monosem.sae.part import Part
from monosem.sae.select import among_largest
from monosem.sae.tree import share


class Held(Part):
    """A part whose others are at hand."""

    def __init__(self, parts: list[torch.Tensor], index: int):
        super().__init__(sum(part.shape[1] for part in parts))
        self.parts, self.count, self.index = parts, len(parts), index

    def every(self, t: torch.Tensor) -> list[torch.Tensor]:
        return [part.clamp(min=0) for part in self.parts]


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**31))
def test_many_equal_values_included(count, k, features, seed):
    torch.manual_seed(seed)
    row = torch.randint(-2, 4, (6, features)).float()  # few different values: ties everywhere
    parts = [row[:, slice(*share(features, count, i))] for i in range(count)]
    found = torch.cat([among_largest(part, k, Held(parts, i)) for i, part in enumerate(parts)], dim=1)
    rank = row.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    assert torch.equal(found, (rank < k) & (row > 0))
