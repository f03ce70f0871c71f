"""Flow: which segments a buffer shard makes and keeps, and who has to wait. Pure state; no clock, no Ray.

Readers take segments in order. Those that keep together form the main group: the slowest of them sets the
pace, and none gets more than `ahead` segments in front of it, which bounds what is held. A reader that is further
behind than that (it joined late, was restarted, or was detached for being slow) is in the second group, which has a
window of its own and is served by harvesting its range again; it returns to the main group when it has caught up.
There are never more than two windows, so the memory of both can be planned.
"""

from dataclasses import dataclass, field

MAIN, BEHIND = "main", "behind"


@dataclass
class Flow:
    """ahead: how many segments the stream may be in front of the slowest reader of a group."""

    ahead: int
    cursors: dict[str, int] = field(default_factory=dict)  # next segment each reader wants
    groups: dict[str, str] = field(default_factory=dict)

    def move(self, reader: str, segment: int) -> None:
        """`reader` (perhaps a new one) wants `segment` next; all before it is acknowledged."""
        known = reader in self.cursors
        self.cursors[reader] = segment
        others = [u for name, u in self.cursors.items() if name != reader and self.groups.get(name) == MAIN]
        if not others:
            group = MAIN
        elif not known or segment + self.ahead < min(others):
            group = MAIN if segment + self.ahead >= min(others) else BEHIND
        elif self.groups[reader] == BEHIND and segment >= min(others):
            group = MAIN
        else:
            group = self.groups[reader]
        self.groups[reader] = group
        self._promote()

    def leave(self, reader: str) -> None:
        """A reader is done: it holds nothing back any more."""
        self.cursors.pop(reader, None)
        self.groups.pop(reader, None)
        self._promote()

    def detach(self, reader: str) -> None:
        """Let the others go on without `reader`, unless it is alone."""
        if any(name != reader and group == MAIN for name, group in self.groups.items()):
            self.groups[reader] = BEHIND

    def slowest(self, group: str = MAIN) -> int | None:
        """The lowest cursor of a group; None if it is empty."""
        return min((self.cursors[name] for name, g in self.groups.items() if g == group), default=None)

    def may_take(self, reader: str, segment: int) -> bool:
        """Whether the window of `reader`'s group has room for `segment`; if not, it waits."""
        return segment <= self.slowest(self.groups[reader]) + self.ahead

    def held_up_by(self, reader: str) -> list[str]:
        """The readers of its group that `reader` waits for, slowest first."""
        group = self.groups[reader]
        limit = self.cursors[reader] - self.ahead
        return sorted(
            (name for name, g in self.groups.items() if g == group and self.cursors[name] < limit),
            key=self.cursors.__getitem__,
        )

    def windows(self) -> dict[str, range]:
        """Segments that each group may ask for now: what is worth making ahead, and all that is kept."""
        starts = {group: self.slowest(group) for group in (MAIN, BEHIND)}
        return {group: range(u, u + self.ahead + 1) for group, u in starts.items() if u is not None}

    def _promote(self) -> None:
        """Without a main group, the one behind is the main group."""
        if MAIN not in self.groups.values():
            self.groups = dict.fromkeys(self.groups, MAIN)
