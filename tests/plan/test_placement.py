"""Waves against brute force, and the mesh that is suggested against every smaller one."""

from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.plan.cost import GroupShape
from monosem.plan.pace import Pace, StreamPace, wave_pace
from monosem.plan.placement import Group, Room, places_for_ranks, replicas_for, suggest, waves

GROUPS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 10)), min_size=1, max_size=6)


def made(sizes) -> list[Group]:
    return [Group((f"r{i}",), GroupShape(1, ranks), size) for i, (ranks, size) in enumerate(sizes)]


@given(GROUPS)
def test_waves_on_devices(sizes):
    groups, room = made(sizes), Room(devices=4, device_bytes=10)
    found = waves(groups, room)
    assert sorted(g.runs for wave in found for g in wave) == sorted(g.runs for g in groups)
    assert all(sum(g.mesh.ranks for g in wave) <= 4 for wave in found)
    # No two waves could have been one, and none of a later wave would have fitted an earlier one.
    for a, b in combinations(found, 2):
        assert not room.takes(a + b)
        assert not any(room.takes([*a, g]) for g in b)


@given(GROUPS, st.lists(st.integers(10, 40), min_size=1, max_size=3))
def test_waves_in_memory_never_overfill_a_node(sizes, nodes):
    room = Room(nodes=tuple(nodes))
    groups = [g for g in made(sizes) if room.takes([g])]
    for wave in waves(groups, room):
        assert sum(g.rank_bytes * g.mesh.ranks for g in wave) <= sum(nodes)
        assert room.takes(wave)


@given(GROUPS, st.integers(4, 9))
def test_waves_never_have_more_ranks_than_cores_allow(sizes, ranks):
    found = waves(made(sizes), Room(nodes=(10**6,), ranks=ranks))
    assert all(sum(g.mesh.ranks for g in wave) <= ranks for wave in found)
    assert sum(map(len, found)) == len(sizes)


@settings(max_examples=50)
@given(st.integers(1, 4000), st.integers(1, 64), st.integers(0, 4))
def test_the_suggestion_is_the_smallest_that_fits(size, devices, slots):
    room, slots = Room(devices=devices, device_bytes=100), 1 << slots

    def rank_bytes(mesh: GroupShape) -> int:  # a third is moments
        return -(-2 * size // (3 * mesh.shards)) + -(-size // (3 * mesh.ranks))

    found = suggest(rank_bytes, ("r",), GroupShape(1, 1, slots), room)
    fitting = [
        GroupShape(1 << r, 1 << s, slots)
        for r in range(slots.bit_length())
        for s in range(13)
        if 1 << r + s <= devices and rank_bytes(GroupShape(1 << r, 1 << s, slots)) <= 100
    ]
    if not fitting:
        assert found is None
    else:
        assert found.ranks == min(m.ranks for m in fitting) and rank_bytes(found) <= 100


def test_a_suggestion_keeps_to_the_exchange():
    """With all-reduce every replica holds all moments."""
    mesh = GroupShape(1, 1, 4, "ring")
    found = suggest(lambda m: 8 // m.shards + (0 if m.exchange == "ring" else -4), ("a",), mesh, Room(nodes=(4,) * 8))
    assert found == GroupShape(1, 2, 4, "ring")


def test_pace_is_set_by_the_slowest_or_by_the_cores():
    stream = StreamPace(item_s=1.0, rows=100, workers=2, threads=1)
    fast, slow = Pace(0.1, 0, 0, "memory", 1), Pace(1.0, 0.5, 0.25, "compute", 1)
    alone = wave_pace([fast, slow], stream, 100, 0, False)
    assert alone.row_s == slow.whole_s / 100 and alone.bottleneck == "compute"
    assert wave_pace([fast], stream, 100, 0, False).bottleneck == "stream"
    shared = wave_pace([slow, slow, slow], stream, 100, 2, False)
    assert shared.bottleneck == "cores" and shared.row_s == (3 * 1.75 + 1.0) / 100 / 2
    crowded = wave_pace([slow, slow, slow], stream, 100, 2, False, crowd=1.5)
    assert crowded.row_s == 1.5 * shared.row_s
    assert wave_pace([slow], stream, 100, 2, False, 1.5) == wave_pace([slow], stream, 100, 2, False)
    ranks = replace(slow, ranks=3)
    assert wave_pace([ranks], stream, 100, 2, False) == shared
    assert wave_pace([ranks], stream, 100, 2, False, 1.5) == crowded
    inline = wave_pace([fast, slow], stream, 100, 2, True)
    assert abs(inline.row_s - (fast.whole_s + slow.whole_s + 1.0) / 100) < 1e-12


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 9), st.integers(0, 200), st.integers(4, 300))
def test_no_more_replicas_would_fit_or_help(slots, shards, groups, places, features):
    found = replicas_for(slots, shards, groups, places, features)
    assert 1 <= found <= slots and found * shards <= features
    assert found == 1 or found * shards * groups <= places

    def slowest(replicas):
        return -(-slots // replicas)

    allowed = [r for r in range(1, slots + 1) if r * shards * groups <= places and r * shards <= features]
    assert slowest(found) == min(map(slowest, allowed), default=slots)
    assert all(slowest(r) > slowest(found) for r in range(1, found))


def test_places_for_ranks():
    assert places_for_ranks(gpus=0, cores=16, workers=3, threads=2) == 8
    assert places_for_ranks(gpus=8, cores=16, workers=3, threads=2) == 5
    assert places_for_ranks(gpus=2, cores=16, workers=3, threads=2) == 2  # shared with the workers
