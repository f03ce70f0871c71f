"""The plan of a feature pass: subjects, slices, tasks, names of what they leave, and the memory they take. Pure data.

    collect(s)    stretch s of the tokens through every host once; entries of every subject        -> one file per unit
    merge(g)      group g of units (slices of features) over all tokens; examples, ablations ...   -> Parquet of each
    relate(u)     unit u of the runs against every other run                                       -> Parquet

Work lies in <sweep>/features/work-<fingerprint>/ and is deleted when everything has been published. A task whose last
file is there is done, and what it writes depends on the plan alone: a pass that was killed goes on, to the same bytes.

Shape letters: N tokens, T context length, D width, F features, L0 mean number of active features.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from monosem.config.job import FeaturesConfig, HostConfig
from monosem.features import schema
from monosem.features.examples import Choice
from monosem.features.onward import MOVES_AT_ONCE
from monosem.text.selection import NONE_SKIPPED, Skipped

MIB = 2**20
TILES = 128 * MIB
"""Of the encoder's product and the host's layers at a time, with what is found in them."""
TOGETHER = 4
"""Units that are merged together, if none is smaller than `slice_features`."""
DICTIONARY, NEURONS, OTHER = "dictionary", "neurons", "other"


@dataclass(frozen=True)
class Subject:
    """A set of features: a run's dictionary, the neurons of a hook point, or another host's run to compare with.

    host         which of the plan's hosts
    write_point  where the decoder writes: the hook point, or a transcoder's target
    l0           as it was measured when it was trained; None: not known
    """

    name: str
    sweep: str
    kind: str
    uri: str
    digest: str
    host: int
    hook_point: str
    write_point: str
    d_in: int
    d_sae: int
    l0: float | None = None

    @property
    def has_neurons(self) -> bool:
        """Whether coordinates of the rows that it reads are neurons."""
        return is_neurons(self.hook_point)


def is_neurons(hook_point: str) -> bool:
    """Whether coordinates at a canonical hook point are neurons: each has a nonlinearity of its own."""
    return hook_point == "mlp.post" or hook_point.endswith(".mlp.post")


@dataclass(frozen=True)
class Unit:
    """Features [lo, hi) of a subject; `number` counts the subject's slices."""

    subject: int
    number: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Plan:
    """n_contexts: how many the pass reads, context_length: T; skipped: positions that give no rows; todo: subjects
    whose tables are made."""

    store: str
    sweep: str
    hosts: tuple[HostConfig, ...]
    host_digests: tuple[str, ...]
    corpus_key: str
    config: FeaturesConfig
    subjects: tuple[Subject, ...]
    n_contexts: int
    context_length: int
    vocab_size: int
    fingerprint: str
    todo: tuple[int, ...]
    threads: int
    skipped: Skipped = NONE_SKIPPED

    @property
    def tokens(self) -> int:
        return self.n_contexts * self.context_length

    @property
    def choice(self) -> Choice:
        c = self.config
        return Choice(c.top, c.interval, c.bottom, c.sample, c.beside, c.seed)

    @property
    def work(self) -> str:
        return f"sweeps/{self.sweep}/{schema.DIRECTORY}/work-{self.fingerprint[:16]}"

    # -- slices of tokens --------------------------------------------------------------------

    @property
    def contexts_per_slice(self) -> int:
        return max(1, self.config.slice_tokens // self.context_length)

    @property
    def slices(self) -> int:
        return -(-self.n_contexts // self.contexts_per_slice)

    def contexts_of(self, s: int) -> range:
        """Contexts of slice s, by their numbers in the pass."""
        n = self.contexts_per_slice
        return range(s * n, min(self.n_contexts, (s + 1) * n))

    # -- slices of features ------------------------------------------------------------------

    def units(self, subject: int) -> list[Unit]:
        step, F = self.config.slice_features, self.subjects[subject].d_sae
        return [Unit(subject, n, lo, min(F, lo + step)) for n, lo in enumerate(range(0, F, step))]

    def groups(self) -> list[list[Unit]]:
        """Units that are merged together: of one place to write to, with at most TOGETHER * `slice_features` features.

        For each group the host runs once more over all contexts that an example is in.
        """
        groups: list[list[Unit]] = []
        size = 0
        for unit in (u for i in self.todo for u in self.units(i)):
            last = groups[-1][-1] if groups else None
            n = unit.hi - unit.lo
            if last and self._place(last) == self._place(unit) and size + n <= TOGETHER * self.config.slice_features:
                groups[-1].append(unit)
                size += n
            else:
                groups.append([unit])
                size = n
        return groups

    def _place(self, unit: Unit) -> tuple[int, str]:
        subject = self.subjects[unit.subject]
        return subject.host, subject.write_point

    # -- relations ---------------------------------------------------------------------------

    @property
    def related_slices(self) -> int:
        """Slices of tokens over which features are correlated: whole ones, at least one."""
        if self.config.related_tokens >= self.tokens:
            return self.slices
        return max(1, min(self.slices, self.config.related_tokens // (self.contexts_per_slice * self.context_length)))

    @property
    def related_tokens(self) -> int:
        return min(self.n_contexts, self.related_slices * self.contexts_per_slice) * self.context_length

    def related_units(self) -> list[Unit]:
        own = [i for i, subject in enumerate(self.subjects) if subject.kind == DICTIONARY]
        return [unit for i in own for unit in self.units(i)]

    def others(self, subject: int) -> list[int]:
        """Dictionaries that a subject's features are related to: all but itself."""
        return [i for i, other in enumerate(self.subjects) if i != subject and other.kind != NEURONS]

    # -- names of what tasks leave -----------------------------------------------------------

    def entries_file(self, s: int, unit: Unit) -> str:
        return f"{self.work}/entries/{s:06d}-{unit.subject:03d}-{unit.number:05d}.safetensors"

    def rows_file(self, s: int) -> str:
        """The last file of collect(s)."""
        return f"{self.work}/rows/{s:06d}.safetensors"

    def table_file(self, table: str, unit: Unit) -> str:
        return f"{self.work}/tables/{unit.subject:03d}-{schema.slice_file(table, unit.number)}"

    def related_file(self, unit: Unit) -> str:
        return f"{self.work}/related/{unit.subject:03d}-{unit.number:05d}.parquet"

    def directory(self, subject: int) -> str:
        """Where a subject's tables are published."""
        s = self.subjects[subject]
        if s.kind == NEURONS:
            return f"sweeps/{self.sweep}/{schema.DIRECTORY}/{s.name}"
        return f"sweeps/{self.sweep}/runs/{s.name}/{schema.DIRECTORY}"

    # -- memory ------------------------------------------------------------------------------

    def points(self, host: int) -> list[str]:
        """Hook points of a host that are looked at, in order: those that are read, and that transcoders write to."""
        read = [s.hook_point for s in self.subjects if s.host == host]
        return list(dict.fromkeys(read + [s.write_point for s in self.subjects if s.host == host and s.kind != OTHER]))

    def memory(self, host_bytes: int = 0) -> dict[str, int]:
        """Most bytes of each kind of task, beside libraries. L0 as measured after training, and a quarter more.

        collect   rows: slice_tokens * widths * 4, where transcoders write too (as the widest that is read);
                  one subject's, less b_dec and as a rough product takes them: slice_tokens * 8 D;
                  its entries, thrice, and twice as many candidates: 52 slice_tokens L0;  its sums with coordinates,
                  twice: 16 F D;  its encoder as a rough product takes it: 4 F D;  tiles, and room for entries
        merge     entries of a unit: 28 N L0 F_unit / F;  sums with coordinates and decoders: 28 F_unit D;
                  examples of the group, w tokens each: F_group * places * (24 w + 100), and as many ablations as they
                  have tokens: 56 (w + 1);  logits of a batch, of ablated rows, and of what features add to them
        relate    entries of a run and another by feature and place: 44 N' (L0 + L0')
        all       dictionaries: 8 F D each;  the host, and one forward pass of it
        """
        slice_tokens = self.contexts_per_slice * self.context_length
        l0 = [1.25 * (s.l0 if s.l0 is not None else s.d_sae / 16) for s in self.subjects]
        widths = {(s.host, s.hook_point): s.d_in for s in self.subjects}
        biggest = max(s.d_sae * s.d_in for s in self.subjects)
        dictionaries = sum(8 * s.d_sae * s.d_in for s in self.subjects)
        forward = 16 * self.context_length * 24 * max(widths.values())
        points = sum(len(self.points(host)) for host in {s.host for s in self.subjects})
        rows = 4 * sum(widths.values()) + (8 + 4 * (points - len(widths))) * max(widths.values())
        collect = slice_tokens * (rows + 52 * max(l0)) + 20 * biggest + TILES
        runs = sorted(x for x, s in zip(l0, self.subjects, strict=True) if s.kind != NEURONS)
        same = dictionaries + forward + host_bytes
        return {
            "collect": int(collect + same),
            "merge": int(max((self._merge_bytes(group, l0) for group in self.groups()), default=0) + same),
            "relate": int(44 * self.related_tokens * sum(runs[-2:]) + same),
        }

    def _merge_bytes(self, group: list[Unit], l0: list[float]) -> float:
        c, features = self.config, sum(unit.hi - unit.lo for unit in group)
        entries = max(
            28 * self.tokens * l0[u.subject] * (u.hi - u.lo) / self.subjects[u.subject].d_sae
            + 28 * (u.hi - u.lo) * self.subjects[u.subject].d_in
            for u in group
        )
        w = 2 * c.beside + 1
        examples = features * self.choice.places * (24 * w + 100 + (56 * (w + 1) if c.ablations != "none" else 0))
        logits = 4 * (4 * (1 << 24) + 3 * (1 << 25) + min(features * self.vocab_size, MOVES_AT_ONCE))
        return entries + examples + logits


def tasks(plan: Plan) -> Iterator[tuple[str, int]]:
    """All tasks of a pass: (phase, number). Those of a phase may run in any order, phases one after another."""
    yield from (("collect", s) for s in range(plan.slices))
    yield from (("merge", g) for g in range(len(plan.groups())))
    yield from (("relate", u) for u in range(len(plan.related_units())))
