"""A sweep in simulated time: workers make items, shards make segments of them, learner groups step on segments, and any of
them may die. The order of the stream and the windows of its readers are monosem's own (`stream/flow.py`).

What is simulated, and how finely:
- An item takes a worker `item_s`. Segment u needs the items of blocks u to u + G - 1; a block is made once while a
  window can use it, and again when a reader that was set back asks for it.
- A group takes a segment at a time, when it is made and its window has room; then `segment_rows` at its pace. It commits
  a checkpoint at the first segment's end after `checkpoint_every` rows.
- A rank's death ends its group: it comes back after `restart_s` where its last checkpoint was. A worker's death loses its
  item; its successor starts after `worker_restart_s`. Lives are exponential, one mean for every device.
- `cores`: everything shares so many, first come first served in slices; 0: everyone has a device of their own.

Not simulated: networks that fill up, stores that are slow for everybody at once, nodes that die as a whole, the head.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import simpy

from monosem.stream.flow import Flow

SLICE_S = 0.01
"""What a process computes before it lets others have its core."""


@dataclass(frozen=True)
class Group:
    """row_s: seconds per row of all its runs, on `threads` cores; commit_s: of a checkpoint; ranks: that can die."""

    row_s: float
    commit_s: float = 0.0
    ranks: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Setup:
    """mix_s: seconds per row in a shard; mtbf_s: mean life of a device, 0 for ever; kills: (second, "group" or "worker",
    number) besides."""

    groups: tuple[Group, ...]
    rows: int
    item_s: float
    item_rows: int
    items_per_block: int
    generations: int
    ahead: int
    workers: int
    row_bytes: int
    mix_s: float = 0.0
    checkpoint_every: int = 0
    restart_s: float = 0.0
    worker_restart_s: float = 0.0
    mtbf_s: float = 0.0
    kills: tuple[tuple[float, str, int], ...] = ()
    cores: int = 0
    seed: int = 0
    until_s: float = float("inf")

    @property
    def segment_rows(self) -> int:
        return self.item_rows * self.items_per_block


@dataclass
class Outcome:
    """Of a group: seconds by what it did, and how often it died; rows are those that count in the end."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    rows: int = 0
    deaths: int = 0
    ended: float = 0.0

    def share(self, what: str) -> float:
        return self.seconds[what] / max(1e-12, sum(self.seconds.values()))


@dataclass
class _Place:
    """Where a group is, where it would go back to, and what it has spent since then, by what it did."""

    segment: int = 0
    committed: int = 0
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    kept: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    doing: str = ""
    since: float = 0.0

    def begin(self, what: str, now: float) -> None:
        if self.doing:
            self.spent[self.doing] += now - self.since
        self.doing, self.since = what, now

    def commit(self, now: float) -> None:
        self.begin("", now)
        self.committed = self.segment
        for what, seconds in self.spent.items():
            self.kept[what] += seconds
        self.spent.clear()

    def set_back(self, now: float) -> dict[str, float]:
        """Die: what was done since the last commit is lost, what was committed before is told, and counts."""
        self.begin("", now)
        told = dict(self.kept)
        told["lost"] = self.spent.pop("step", 0.0)
        for what, seconds in self.spent.items():
            told[what] = told.get(what, 0.0) + seconds
        self.spent.clear()
        self.kept.clear()
        self.segment = self.committed
        return told

    def all(self) -> dict[str, float]:
        return {what: self.kept[what] + self.spent[what] for what in {*self.kept, *self.spent}}


class Sweep:
    def __init__(self, setup: Setup):
        self.setup, self.env = setup, simpy.Environment()
        self.random = random.Random(setup.seed)
        self.flow = Flow(setup.ahead)
        self.cores = simpy.Resource(self.env, setup.cores) if setup.cores else None
        self.claimed: dict[int, int] = defaultdict(int)
        self.done: dict[int, int] = defaultdict(int)
        self.made: set[int] = set()
        self.making: set[int] = set()
        self.moved, self.news = self.env.event(), self.env.event()
        self.items = self.most_rows = self.worker_deaths = 0
        self.outcomes = [Outcome() for _ in setup.groups]
        self.lives: dict[tuple[str, int], simpy.Process] = {}
        self.exhausted = False  # nothing to claim until something moves: a thousand workers need not all look
        self.places = [_Place() for _ in setup.groups]

    def run(self) -> list[Outcome]:
        for number in range(self.setup.workers):
            self._begin("worker", number, self._worker())
        for number in range(len(self.setup.groups)):
            self.flow.move(f"group-{number}", 0)
            self._begin("group", number, self._group(number))
        for when, kind, number in self.setup.kills:
            self.env.process(self._kill(when, kind, number))
        groups = [self.lives["group", n] for n in range(len(self.setup.groups))]
        everyone = self.env.all_of(groups)
        self.env.run(everyone if self.setup.until_s == float("inf") else self.env.any_of([everyone, self.env.timeout(self.setup.until_s)]))
        for out, place in zip(self.outcomes, self.places, strict=True):
            place.begin("", self.env.now)  # of a group that the horizon stopped, what it was at
            for what, seconds in place.all().items():
                out.seconds[what] += seconds
        return self.outcomes

    def _begin(self, kind: str, number: int, work: Iterator) -> None:
        self.lives[kind, number] = self.env.process(work)
        ranks = self.setup.groups[number].ranks if kind == "group" else 1
        if self.setup.mtbf_s:
            self.env.process(self._fate(kind, number, ranks / self.setup.mtbf_s))

    def _fate(self, kind: str, number: int, rate: float) -> Iterator:
        while self.lives[kind, number].is_alive:
            yield self.env.timeout(self.random.expovariate(rate))
            self._strike(kind, number)

    def _kill(self, when: float, kind: str, number: int) -> Iterator:
        yield self.env.timeout(when)
        self._strike(kind, number)

    def _strike(self, kind: str, number: int) -> None:
        if self.lives[kind, number].is_alive:
            self.lives[kind, number].interrupt()

    def _compute(self, seconds: float, threads: int = 1) -> Iterator:
        """So many seconds of work, on a device of one's own or in turns on the shared cores."""
        if self.cores is None:
            yield self.env.timeout(seconds)
            return
        parts = [self.env.process(self._on_core(seconds)) for _ in range(min(threads, self.setup.cores))]
        try:
            yield self.env.all_of(parts)
        except simpy.Interrupt:
            for part in parts:
                if part.is_alive:
                    part.interrupt()
            raise

    def _on_core(self, seconds: float) -> Iterator:
        try:
            while seconds > 0:
                with self.cores.request() as core:
                    yield core
                    taken = min(seconds, SLICE_S)
                    yield self.env.timeout(taken)
                    seconds -= taken
        except simpy.Interrupt:
            return

    # -- the stream ------------------------------------------------------------------------------

    def _worker(self) -> Iterator:
        block = None
        while True:
            try:
                block = self._claim()
                if block is None:
                    yield self.moved
                    continue
                yield from self._compute(self.setup.item_s)
                self.items += 1
                if block in self.claimed:
                    self.done[block] += 1
                    self._make_ready()
                block = None
            except simpy.Interrupt:
                self.worker_deaths += 1
                if block is not None and block in self.claimed:
                    self.claimed[block] -= 1
                    self._tell_workers()
                block = None
                yield from self._down(self.setup.worker_restart_s)

    def _claim(self) -> int | None:
        """The block of the next item that a window wants."""
        if self.exhausted:
            return None
        for window in self.flow.windows().values():
            for block in range(window.start, window.stop - 1 + self.setup.generations):
                if self.claimed[block] < self.setup.items_per_block:
                    self.claimed[block] += 1
                    return block
        self.exhausted = True
        return None

    def _make_ready(self) -> None:
        """Start what can be mixed now."""
        V, G = self.setup.items_per_block, self.setup.generations
        for window in self.flow.windows().values():
            for u in window:
                if u not in self.made and u not in self.making and all(self.done.get(b, 0) >= V for b in range(u, u + G)):
                    self.making.add(u)
                    self.env.process(self._mix(u))

    def _mix(self, u: int) -> Iterator:
        yield from self._compute(self.setup.mix_s * self.setup.segment_rows)
        self.making.discard(u)
        self.made.add(u)
        self._tell_readers()

    def _move(self, reader: str, u: int) -> None:
        self.flow.move(reader, u)
        windows = list(self.flow.windows().values())
        held = sum(self.done.values()) * self.setup.item_rows + len(self.made) * self.setup.segment_rows
        self.most_rows = max(self.most_rows, held)
        coming = [range(w.start, w.stop + self.setup.generations) for w in windows]
        for counts in (self.claimed, self.done):
            for block in [b for b in counts if not any(b in w for w in coming)]:
                del counts[block]
        self.made = {u for u in self.made if any(u in w for w in windows)}
        self._tell_workers()
        self._tell_readers()
        self._make_ready()

    def _tell_workers(self) -> None:
        self.exhausted = False
        self.moved.succeed()
        self.moved = self.env.event()

    def _tell_readers(self) -> None:
        self.news.succeed()
        self.news = self.env.event()

    # -- the groups ------------------------------------------------------------------------------

    def _group(self, number: int) -> Iterator:
        """Segments from the first to the last; after a death again from the last checkpoint on."""
        setup, out = self.setup, self.outcomes[number]
        last = -(-setup.rows // setup.segment_rows)
        name, place = f"group-{number}", self.places[number]
        while place.segment < last:
            try:
                yield from self._advance(number, name, place)
                self._move(name, place.segment)
            except simpy.Interrupt:
                out.deaths += 1
                for what, seconds in place.set_back(self.env.now).items():
                    out.seconds[what] += seconds
                self.flow.leave(name)
                self._tell_workers()
                began = self.env.now
                yield from self._down(setup.restart_s)
                out.seconds["restart"] += self.env.now - began
                name = f"group-{number}-{out.deaths}"
                self._move(name, place.segment)
            out.rows, out.ended = place.segment * setup.segment_rows, self.env.now
        self.flow.leave(name)
        self._tell_workers()
        self._tell_readers()

    def _advance(self, number: int, name: str, place: "_Place") -> Iterator:
        """One segment: wait for it, step on it, and commit if it is time."""
        setup, group = self.setup, self.setup.groups[number]
        place.begin("wait", self.env.now)
        while place.segment not in self.made or not self.flow.may_take(name, place.segment):
            yield self.news
        place.begin("step", self.env.now)
        yield from self._compute(group.row_s * setup.segment_rows, group.threads)
        place.segment += 1
        uncommitted = (place.segment - place.committed) * setup.segment_rows
        if setup.checkpoint_every and uncommitted >= setup.checkpoint_every:
            place.begin("commit", self.env.now)
            yield from self._compute(group.commit_s)
            place.commit(self.env.now)
        place.begin("", self.env.now)

    def _down(self, seconds: float) -> Iterator:
        """Until a successor has started; a death on the way starts it anew."""
        while True:
            try:
                yield self.env.timeout(seconds)
                return
            except simpy.Interrupt:
                continue
