"""The simulation against what is known without it: queues that never fill, queues that never empty, Young and Daly."""

import math
from dataclasses import replace

import pytest

from tests.bench.events import Group, Setup, Sweep

BASE = Setup(
    groups=(Group(row_s=1e-3),), rows=100_000, item_s=0.01, item_rows=100, items_per_block=2, generations=4,
    ahead=4, workers=1, row_bytes=4,
)  # fmt: skip


def end(setup: Setup) -> float:
    return max(out.ended for out in Sweep(setup).run())


def test_a_slow_learner_sets_the_pace():
    [out] = Sweep(BASE).run()
    assert out.seconds["step"] == pytest.approx(100.0)
    assert out.ended == pytest.approx(100.0, rel=0.01) and out.share("wait") < 0.01
    assert out.rows == 100_000 and out.deaths == 0


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_slow_stream_sets_the_pace_and_workers_share_it(workers):
    slow = replace(BASE, item_s=1.0, workers=workers)
    assert end(slow) == pytest.approx(1000 / workers, rel=0.02)
    [out] = Sweep(slow).run()
    assert out.share("wait") == pytest.approx(1 - 100 / (1000 / workers), abs=0.02)


def test_a_horizon_tells_what_was_spent_until_then():
    [out] = Sweep(replace(BASE, item_s=1.0, rows=10**9, until_s=500.0)).run()
    assert sum(out.seconds.values()) == pytest.approx(500.0) and out.share("wait") == pytest.approx(0.9, abs=0.02)


def test_items_are_made_once_for_all_groups():
    sweep = Sweep(replace(BASE, groups=(Group(1e-3), Group(2e-3), Group(1e-4))))
    outs = sweep.run()
    assert all(out.rows == 100_000 for out in outs)
    assert max(out.ended for out in outs) == pytest.approx(200.0, rel=0.01)
    whole = 100_000 // BASE.item_rows
    assert whole <= sweep.items <= whole + (BASE.ahead + BASE.generations + 1) * BASE.items_per_block


def test_what_is_held_is_bounded_by_the_window():
    sweep = Sweep(BASE)
    sweep.run()
    assert sweep.most_rows <= (2 * (BASE.ahead + 1) + BASE.generations) * BASE.segment_rows


def test_shared_cores_add_work_up():
    two = replace(BASE, groups=(Group(1e-3), Group(1e-3)), cores=1)
    assert end(two) == pytest.approx(200 + 1000 * 0.01, rel=0.02)
    assert end(replace(two, cores=2)) == pytest.approx(105, rel=0.03)


def test_a_kill_costs_what_was_not_committed_and_the_restart():
    whole = replace(BASE, checkpoint_every=10_000, restart_s=7.0, kills=((25.0, "group", 0),))
    [out] = Sweep(whole).run()
    assert out.deaths == 1 and out.rows == 100_000
    assert out.seconds["lost"] == pytest.approx(5.0, abs=0.3)
    assert out.ended == pytest.approx(100 + 5 + 7, abs=0.5)
    assert sum(out.seconds.values()) == pytest.approx(out.ended, rel=1e-6)


def test_a_dead_worker_loses_its_item_and_no_more():
    slow = replace(BASE, item_s=1.0, worker_restart_s=20.0, kills=((100.5, "worker", 0),))
    assert end(slow) == pytest.approx(1000 + 20.5, rel=0.02)
    [out] = Sweep(slow).run()
    assert out.deaths == 0 and out.rows == 100_000


def test_the_same_seed_is_the_same_history():
    setup = replace(BASE, mtbf_s=30.0, checkpoint_every=2000, restart_s=1.0)
    first, again, other = (Sweep(replace(setup, seed=seed)).run()[0] for seed in (1, 1, 2))
    assert first == again and first.ended != other.ended


@pytest.mark.parametrize("every_s", [20.0, 60.0, 180.0])
def test_goodput_is_youngs_and_dalys(every_s):
    """Of many failures: useful time T costs (T/tau) (M exp(R/M)) (exp((tau + C)/M) - 1), Daly 2006, equation 13."""
    ranks, mtbf, commit, restart = 10, 6000.0, 2.0, 10.0
    setup = replace(
        BASE, groups=(Group(1e-3, commit_s=commit, ranks=ranks),), rows=20_000_000, item_rows=4000, items_per_block=1,
        item_s=0.001, mtbf_s=mtbf, checkpoint_every=int(every_s * 1000), restart_s=restart,
    )  # fmt: skip
    M = mtbf / ranks
    # Restarts here begin anew if they fail themselves, as in Daly's formula, whose restart is part of the lost segment.
    expected = 20_000 / every_s * M * math.exp(restart / M) * (math.exp((every_s + commit) / M) - 1)
    assert end(setup) == pytest.approx(expected, rel=0.06)
