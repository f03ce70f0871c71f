"""The tree in which slots are added: cut anywhere, the same sums in the same order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from monosem.sae.kernels import cpu
from monosem.sae.kernels.entries import joined
from monosem.sae.products import Product
from monosem.sae.tree import combine, nodes, share, total


class Order:
    """Shows in which order it was added."""

    def __init__(self, text: str):
        self.text = text

    def __add__(self, other: "Order") -> "Order":
        return Order(f"({self.text}+{other.text})")


@given(st.integers(1, 40), st.data())
def test_any_cut_of_the_slots_adds_them_in_the_same_order(slots, data):
    ranks = data.draw(st.integers(1, slots))
    whole = total([Order(str(i)) for i in range(slots)]).text
    found = {}
    for rank in range(ranks):
        mine = nodes(slots, *share(slots, ranks, rank))
        assert [i for first, end in mine for i in range(first, end)] == list(range(*share(slots, ranks, rank)))
        for first, end in mine:
            found[first, end] = total([Order(str(i)) for i in range(first, end)])
    assert combine(slots, found).text == whole


@given(st.integers(0, 1000), st.integers(1, 50))
def test_shares_are_even_and_leave_nothing_out(n, parts):
    ranges = [share(n, parts, k) for k in range(parts)]
    assert [i for lo, hi in ranges for i in range(lo, hi)] == list(range(n))
    sizes = [hi - lo for lo, hi in ranges]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 13), st.integers(0, 2**31), st.sampled_from([0.02, 0.3]))
def test_entries_of_slots_are_summed_as_one_slot_after_another(slots, seed, share_active):
    """Bit for bit, rows that no slot is active in and slots without entries included."""
    torch.manual_seed(seed)
    F, D, counts = 37, 24, torch.randint(0, 9, (slots,)).tolist()
    bound, bias = torch.tensor([float(torch.distributions.Normal(0, 1).icdf(torch.tensor(1 - share_active)))]), torch.zeros(F)
    found = [cpu.above(Product(whole_BF=torch.randn(n, F)), bias, bound, 1.0) for n in counts]
    rows = torch.randn(sum(counts), D)
    values = [torch.randn(len(at.pre_n)) for at in found]
    one = joined(found)
    outer, sums = torch.empty(F, D), cpu.sum_F(one, torch.cat(values))
    cpu.outer(one, torch.cat(values), rows, outer, 0, F)
    outers, others, first = [], [], 0
    for at, v, n in zip(found, values, counts, strict=True):
        outers.append(torch.empty(F, D))
        cpu.outer(at, v, rows[first : first + n].contiguous(), outers[-1], 0, F)
        others.append(cpu.sum_F(at, v))
        first += n
    assert torch.equal(outer, total(outers)) and torch.equal(sums, total(others))
    assert torch.equal(one.sum_rows(rows), total([part.sum(dim=0) for part in rows.split(counts)]))
