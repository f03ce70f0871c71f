"""What fits into a machine's memory at a time, against brute force."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.errors import InputError
from monosem.stages.budget import LEARNER, Need, check_memory, groups_at_a_time

GB = 1 << 30


def needs(*learners: int, other: int = 3) -> list[Need]:
    found = [Need(f"{LEARNER}{i}x", 1, n * GB, "sae.k") for i, n in enumerate(learners)]
    return [Need("driver", 1, other * GB, ""), *found]


@given(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 40))
def test_any_so_many_learners_fit_and_one_more_might_not(learners, have):
    g = groups_at_a_time(needs(*learners), have * GB)
    assert all(3 + sum(some) <= have for some in combinations(learners, g)) or g == 0
    assert g == len(learners) or any(3 + sum(some) > have for some in combinations(learners, g + 1))


def test_learners_that_do_not_fit_together_go_one_after_the_other():
    told = check_memory(needs(6, 4, 2), 10 * GB, in_waves=True)
    assert told.endswith("9.0 of 10.0, 1 of 3 learners at a time")
    assert check_memory(needs(6, 4, 2), 13 * GB, in_waves=True).endswith("13.0 of 13.0, 2 of 3 learners at a time")
    assert check_memory(needs(6, 4, 2), 15 * GB, in_waves=True).endswith("15.0 of 15.0")
    with pytest.raises(InputError, match=r"needs 9\.0 GiB .* most for learner of 0x"):
        check_memory(needs(6, 4, 2), 8 * GB, in_waves=True)
    with pytest.raises(InputError, match=r"needs 15\.0 GiB"):
        check_memory(needs(6, 4, 2), 14 * GB)
