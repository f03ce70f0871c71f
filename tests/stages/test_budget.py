"""What fits into a machine's memory at a time, against brute force."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.config.job import SweepJob
from monosem.config.load import load_job
from monosem.errors import InputError
from monosem.host.stored import load_host
from monosem.stages.budget import (
    LEARNER,
    Need,
    check_memory,
    forward_bytes,
    groups_at_a_time,
    peak_together,
    ranks_by_cores,
    widest_layer,
)
from monosem.stages.plan import outline_job

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


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=4), st.booleans())
def test_the_peak_of_all_is_that_of_a_walk_through_what_happens(sizes, checkpoints):
    learners = [Need(f"{LEARNER}{i}x", 1, 0, "", settled + more, settled) for i, (settled, more) in enumerate(sizes)]
    there = sorted((settled, more) for settled, more in sizes)
    moments = [sum(settled for settled, _ in there)]
    if checkpoints:
        moments += [moments[0] + more for _, more in there]
    while there:  # the smallest makes its last checkpoint and goes
        moments.append(sum(settled for settled, _ in there) + max(m for s, m in there if s == there[0][0]))
        there.pop(0)
    found = peak_together([Need("driver", 1, 9, "", 3, 3), *learners], [n.name for n in learners], checkpoints)
    assert max(moments) >= found - 3 >= moments[0]
    if len({s for s, _ in sizes}) == len(sizes):
        assert found - 3 == max(moments)


def test_a_forward_pass_is_as_wide_as_its_widest_layer():
    """However narrow the hook point is that is read."""
    model = load_host(load_job(SweepJob, "jobs/quickstart.yaml", []).host, weights=False).model
    assert widest_layer(model) == model.width("mlp.post") > model.width("resid_post")
    given = [f"host.hook_point={name}" for name in ("mlp.post", "resid_post")]
    shapes = [outline_job(load_job(SweepJob, "jobs/quickstart.yaml", [one])).shapes for one in given]
    own = [forward_bytes(s) - 2 * s.item_bytes for s in shapes]
    assert own[0] == own[1] == 6 * 4 * model.width("mlp.post") * 16 * 256


def test_as_many_ranks_as_the_scheduler_has_room_for_beside_the_stream():
    job = load_job(SweepJob, "jobs/quickstart.yaml", ["learner.slots=2", "learner.replicas=2"])
    assert [ranks_by_cores(job, cpus, True, 0) for cpus in (1.3, 1.7, 1.8, 2, 16)] == [2, 2, 3, 3, 31]
    assert ranks_by_cores(job, 0.4, False, 1) == 0
    with pytest.raises(InputError, match=r"a learner of 2 ranks .* need 1\.3 CPUs, the cluster has 1; ask for fewer"):
        ranks_by_cores(job, 1, True, 0)
    with pytest.raises(InputError, match=r"need 0\.4 CPUs, the cluster has 0"):
        ranks_by_cores(job, 0.3, False, 1)
