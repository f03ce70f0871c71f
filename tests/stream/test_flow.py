"""Who waits for whom: laws of the two windows, against any sequence of events."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monosem.stream.flow import BEHIND, MAIN, Flow


def test_the_slowest_sets_the_pace():
    flow = Flow(ahead=3)
    flow.move("a", 0)
    flow.move("b", 0)
    flow.move("a", 3)
    assert flow.may_take("a", 3) and not flow.may_take("a", 4)
    flow.move("a", 4)
    assert flow.held_up_by("a") == ["b"] and flow.held_up_by("b") == []
    flow.move("b", 1)
    assert flow.may_take("a", 4) and flow.held_up_by("a") == []
    assert flow.windows() == {MAIN: range(1, 5)}


def test_a_late_reader_holds_nobody_up_and_catches_up():
    flow = Flow(ahead=2)
    flow.move("a", 50)
    flow.move("late", 0)
    assert flow.groups == {"a": MAIN, "late": BEHIND}
    assert flow.may_take("a", 52) and flow.may_take("late", 0)
    assert flow.windows() == {MAIN: range(50, 53), BEHIND: range(0, 3)}
    for u in range(1, 50):
        flow.move("late", u)
        assert flow.groups["late"] == BEHIND
    flow.move("late", 50)
    assert flow.groups["late"] == MAIN and flow.windows() == {MAIN: range(50, 53)}


def test_a_reader_a_little_behind_joins_the_others():
    flow = Flow(ahead=2)
    flow.move("a", 10)
    flow.move("b", 8)
    assert flow.groups["b"] == MAIN and flow.slowest() == 8


def test_detached_readers_go_on_alone_until_they_are_back():
    flow = Flow(ahead=1)
    for name in "abc":
        flow.move(name, 0)
    flow.move("a", 2)
    flow.move("b", 2)
    assert flow.held_up_by("a") == ["c"]
    flow.detach("c")
    assert flow.may_take("a", 2) and flow.groups["c"] == BEHIND
    flow.move("c", 1)
    assert flow.groups["c"] == BEHIND
    flow.move("c", 2)
    assert flow.groups["c"] == MAIN


def test_the_last_reader_cannot_be_detached_and_the_ones_behind_move_up():
    flow = Flow(ahead=1)
    flow.move("a", 0)
    flow.detach("a")
    assert flow.groups["a"] == MAIN
    flow.move("b", 0)
    flow.detach("b")
    flow.leave("a")
    assert flow.groups == {"b": MAIN}
    flow.leave("b")
    flow.leave("nobody")
    assert flow.windows() == {}


class Readers(RuleBasedStateMachine):
    """Readers come, go, advance, are restarted further back, and are detached, in any order."""

    @settings(max_examples=50)
    def __init__(self):
        super().__init__()
        self.flow = Flow(ahead=2)

    @rule(name=st.sampled_from("abcd"), u=st.integers(0, 40))
    def jump(self, name, u):
        self.flow.move(name, u)

    @rule(name=st.sampled_from("abcd"))
    def leave(self, name):
        self.flow.leave(name)

    @precondition(lambda self: self.flow.cursors)
    @rule(data=st.data())
    def advance(self, data):
        name = data.draw(st.sampled_from(sorted(self.flow.cursors)))
        self.flow.move(name, self.flow.cursors[name] + 1)

    @precondition(lambda self: self.flow.cursors)
    @rule(data=st.data())
    def detach(self, data):
        self.flow.detach(data.draw(st.sampled_from(sorted(self.flow.cursors))))

    @invariant()
    def everybody_has_a_group_and_somebody_can_go_on(self):
        flow = self.flow
        assert flow.groups.keys() == flow.cursors.keys()
        assert set(flow.groups.values()) <= {MAIN, BEHIND}
        if flow.cursors:
            assert MAIN in flow.groups.values()
        for group in set(flow.groups.values()):
            slowest = min((n for n, g in flow.groups.items() if g == group), key=flow.cursors.__getitem__)
            assert flow.may_take(slowest, flow.cursors[slowest]) and not flow.held_up_by(slowest)

    @invariant()
    def whoever_must_wait_waits_for_somebody_of_its_group(self):
        for name, u in self.flow.cursors.items():
            waits = not self.flow.may_take(name, u)
            assert waits == bool(self.flow.held_up_by(name))
            assert all(self.flow.groups[other] == self.flow.groups[name] for other in self.flow.held_up_by(name))

    @invariant()
    def what_may_be_held_is_bounded(self):
        windows = self.flow.windows()
        assert len(windows) <= 2 and all(len(w) == self.flow.ahead + 1 for w in windows.values())
        for name, u in self.flow.cursors.items():
            if self.flow.may_take(name, u):
                assert u in windows[self.flow.groups[name]]


TestReaders = Readers.TestCase


@settings(deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 4), st.booleans())
def test_readers_of_any_speed_all_reach_the_end(speeds, ahead, detaching):
    """Each reader takes a segment every `speed` ticks if it may: no deadlock, every segment once, in order."""
    flow, end = Flow(ahead), 30
    cursors = dict.fromkeys(map(str, range(len(speeds))), 0)
    for name in cursors:
        flow.move(name, 0)
    for tick in range(1, 10_000):
        if not cursors:
            return
        for name, speed in zip([str(k) for k in range(len(speeds))], speeds, strict=True):
            if name not in cursors or tick % speed:
                continue
            if flow.may_take(name, cursors[name]):
                cursors[name] += 1
                flow.move(name, cursors[name])
            elif detaching:
                flow.detach(flow.held_up_by(name)[0])
            if cursors[name] == end:
                flow.leave(name)
                del cursors[name]
    pytest.fail(f"stuck at {cursors}")
