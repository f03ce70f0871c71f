"""Shuffling an activation dataset that is larger than memory: exactly, invertibly, and so that it can be stopped.

Row i of the source goes to place P(i), with P = `Feistel(rows, seed, SHUFFLE, 0)`; so the row at place t came from
row P.inverse(t), which the result's column `row` says too. The plan (`monosem.dataset.passes`) decides only how the
work is cut, never where a row goes: any memory, number of tasks and of passes writes the same bytes.

    <out>/scratch/plan.json      the plan that the scratch belongs to; with another one the scratch starts anew
    <out>/scratch/pass-1/        what the tasks of a pass leave (`monosem.dataset.pieces`)
    <out>/scratch/done-1.json    all of them are committed; now the pass before goes

After a stop the same call goes on: committed tasks and finished files stay.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from monosem.dataset.blocks import Block
from monosem.dataset.manifest import BEGIN, BLOCK_ROWS, Dataset, Manifest
from monosem.dataset.passes import Costs, ShufflePlan, plan_shuffle, task_costs
from monosem.dataset.pieces import SCRATCH, FinishTask, Piece, PieceRows, Place, SourceRows, SplitTask, Task
from monosem.dataset.writer import Plan, ShardWriter
from monosem.errors import InputError
from monosem.store.plain import pack_json, unpack_json
from monosem.store.store import Store

Run = Callable[[Sequence[Task], Callable[[Task], None]], None]
"""Runs tasks, in any order and at most so many at a time as planned; calls back after each."""

FILE_BYTES = 64 * 2**20
"""A finished file is at most this large (as float32), so that small memory can hold one."""


def run_inline(tasks: Sequence[Task], done: Callable[[Task], None]) -> None:
    """One after the other, in this process."""
    for task in tasks:
        task.run()
        done(task)


def run_shuffle(
    source: Dataset,
    out_store: Store,
    out_prefix: str,
    seed: int,
    memory_bytes: int,
    tasks: int,
    run: Run,
    codec: str = "raw",
    report: Callable[[int, str], None] = lambda rows, note: None,
    shard_rows: int | None = None,
    costs: Costs | None = None,
) -> Dataset:
    """`source` in the order of `seed`, at `out_prefix` of `out_store`; a dataset that is finished there is returned.

    memory_bytes, tasks  of all tasks that run at once, and how many; they change nothing in the result
    report               called with rows done, over all passes, and what is being done
    shard_rows           of the result's files; by default `file_rows`, which depends on the source alone

    Too little memory or disk, or another dataset in that place, is an InputError; a file of the source or of the
    scratch that was changed is an IntegrityError.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed={seed}: must be at least 0 and below 2**64")
    manifest = source.manifest
    shard_rows = shard_rows or file_rows(manifest)
    plan = shuffle_plan(manifest, memory_bytes, tasks, shard_rows, codec, costs)
    writer = ShardWriter(out_store, out_prefix, _result(manifest, seed, codec, shard_rows))
    if not out_store.exists(writer.path(BEGIN)):
        _check_disk(out_store, plan)
    writer.begin()
    if not writer.finished():
        shuffle = _Shuffle(source, writer, plan, seed, run, report)
        shuffle.make_room()
        shuffle.passes()
    dataset = writer.finish()
    out_store.delete_tree(writer.path(SCRATCH))
    return dataset


def file_rows(manifest: Manifest) -> int:
    """Rows per file of a shuffled dataset: as in the source, but no file larger than FILE_BYTES; whole blocks."""
    rows = min(manifest.shards[0].rows, max(1, FILE_BYTES // (4 * manifest.width)))
    return rows // BLOCK_ROWS * BLOCK_ROWS or rows


def shuffle_plan(
    manifest: Manifest, memory_bytes: int, tasks: int, shard_rows: int, codec: str, costs: Costs | None = None
) -> ShufflePlan:
    """How a dataset is shuffled; see `plan_shuffle`."""
    row_bytes = 4 * manifest.width + 8
    block_rows = min(BLOCK_ROWS, manifest.shards[0].rows)
    costs = costs or task_costs(row_bytes, shard_rows, block_rows, manifest.codec, codec)
    return plan_shuffle(manifest.rows, row_bytes, memory_bytes, tasks, shard_rows, costs)


def _result(manifest: Manifest, seed: int, codec: str, shard_rows: int) -> Plan:
    """The dataset that is to be. Its lineage is the source's, and what the source itself was."""
    source = {"codec": manifest.codec, "error": manifest.error, "order": manifest.order}
    return Plan(
        width=manifest.width,
        rows=manifest.rows,
        first_row=0,
        codec=codec,
        shard_rows=shard_rows,
        order={"kind": "file", "shuffled": {"seed": seed, "of": manifest.digest}},
        lineage={**manifest.lineage, "source": source},
        has_rows=True,
    )


class _Shuffle:
    """The passes of one shuffle, from where an earlier run left them."""

    def __init__(self, source: Dataset, writer: ShardWriter, plan: ShufflePlan, seed: int, run: Run, report):
        self.source, self.writer, self.plan, self.seed = source, writer, plan, seed
        self.run, self.report, self.rows_done = run, report, 0
        self.store = writer.store
        self.place = Place(writer.store.url, writer.prefix)

    def scratch(self, *names: object) -> str:
        return self.place.path(SCRATCH, *names)

    def make_room(self) -> None:
        """What another plan has left in the scratch goes."""
        path = self.scratch("plan.json")
        record = pack_json(self.plan.as_json() | {"of": self.source.manifest.digest})
        there = self.store.list(self.scratch())
        if there and ("plan.json" not in there or self.store.get(path) != record):  # none: a deletion was cut short
            self.report(0, "another plan: passes start anew")
            self.store.delete_tree(self.scratch())
        self.store.put(path, record)

    def passes(self) -> None:
        last = len(self.plan.bucket_shards)
        done = max((j for j in range(1, last + 1) if self.store.exists(self.scratch(f"done-{j}.json"))), default=0)
        self.rows_done = done * self.plan.rows
        pieces = self._committed(done) if done else []
        for level in range(done + 1, last + 1):
            tasks = self._split_tasks(level, pieces)
            have = {int(n.removesuffix(".json")) for n in self.store.list(self.scratch(f"pass-{level}", "records"))}
            self._run(tasks, {t.number for t in tasks if t.number in have}, f"pass {level} of {last + 1}")
            self.store.put(self.scratch(f"done-{level}.json"), pack_json({"tasks": len(tasks)}))
            pieces = self._committed(level)
        self._finish(pieces)

    def _finish(self, pieces: list[Piece]) -> None:
        tasks = self._finish_tasks(pieces)
        files = self.writer.done()
        whole = {t.number for t in tasks if files.issuperset(range(t.first, t.first + t.rows, t.plan.shard_rows))}
        self._run(tasks, whole, f"pass {self.plan.passes} of {self.plan.passes}")

    def _run(self, tasks: Sequence[Task], have: set[int], note: str) -> None:
        self.rows_done += sum(task.rows for task in tasks if task.number in have)

        def done(task: Task) -> None:
            self.rows_done += task.rows
            self.report(self.rows_done, note)

        self.report(self.rows_done, note)
        self.run([task for task in tasks if task.number not in have], done)

    def _committed(self, level: int) -> list[Piece]:
        """The pieces of a pass that is complete, by task; and what the pass before it left goes."""
        path = self.scratch(f"done-{level}.json")
        count = unpack_json(self.store.get(path), path)["tasks"]
        pieces = []
        for task in range(count):
            path = self.scratch(f"pass-{level}", "records", f"{task}.json")
            record = unpack_json(self.store.get(path), path)
            pieces += [Piece(level, task, *piece) for piece in record["pieces"]]
        self._forget(level - 1)
        return pieces

    def _forget(self, level: int) -> None:
        if level:
            self.store.delete_tree(self.scratch(f"pass-{level}"))

    # -- what there is to do -------------------------------------------------------------------

    def _split_tasks(self, level: int, pieces: list[Piece]) -> list[SplitTask]:
        """One task for as many rows of a bucket as it can hold."""
        if level == 1:
            blocks = _blocks(self.source.manifest)
            shares = [(n, self._of_source(part)) for n, part in _grouped(blocks, self.plan.buffer_rows)]
        else:
            shares = [
                (n, self._of_pieces(part))
                for bucket in _by_bucket(pieces).values()
                for n, part in _grouped([(p.rows, p) for p in bucket], self.plan.buffer_rows)
            ]
        unit, m = self.plan.unit(level), self.source.manifest
        return [
            SplitTask(self.place, level, k, self.seed, m.rows, m.width, unit, n, share)
            for k, (n, share) in enumerate(shares)
        ]

    def _finish_tasks(self, pieces: list[Piece]) -> list[FinishTask]:
        level = len(self.plan.bucket_shards)
        if level:
            by_bucket = _by_bucket(pieces)
            shares = [self._of_pieces(by_bucket.get(k, [])) for k in range(self.plan.buckets(level))]
        else:
            shares = [self._of_source([block for _, block in _blocks(self.source.manifest)])]
        tasks = []
        for k, share in enumerate(shares):
            lo, hi = self.plan.bounds(level, k)
            tasks.append(FinishTask(self.place, k, self.seed, self.plan.rows, self.writer.plan, lo, hi - lo, share))
        return tasks

    def _of_source(self, blocks: Sequence[Block]) -> SourceRows:
        """With a manifest of the files in question only: all of it may be larger than a task's memory."""
        m = self.source.manifest
        first, last = blocks[0][0], blocks[-1][0]
        part = replace(m, shards=m.shards[first : last + 1])
        place = Place(self.source.store.url, self.source.prefix)
        return SourceRows(place, part, tuple((number - first, k) for number, k in blocks))

    def _of_pieces(self, pieces: Sequence[Piece]) -> PieceRows:
        return PieceRows(self.place, self.source.manifest.width, tuple(pieces))


def _blocks(manifest: Manifest) -> list[tuple[int, Block]]:
    """(rows, block) of all blocks of a dataset, in order."""
    return [
        (min(BLOCK_ROWS, shard.rows - k * BLOCK_ROWS), (number, k))
        for number, shard in enumerate(manifest.shards)
        for k in range(len(shard.blocks))
    ]


def _grouped(items: Iterable[tuple[int, object]], limit: int) -> list[tuple[int, list]]:
    """(rows, items) of neighbours that have at most `limit` rows together."""
    groups: list[tuple[int, list]] = []
    for rows, item in items:
        if not groups or groups[-1][0] + rows > limit:
            groups.append((0, []))
        held, part = groups[-1]
        part.append(item)
        groups[-1] = (held + rows, part)
    return groups


def _by_bucket(pieces: Sequence[Piece]) -> dict[int, list[Piece]]:
    found: dict[int, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.bucket, []).append(piece)
    return dict(sorted(found.items()))


def _check_disk(store: Store, plan: ShufflePlan) -> None:
    """A local disk must have room for the result and the scratch; what others will take is not known."""
    root = getattr(store, "root", None)
    if root is None:
        return
    place = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < plan.disk_bytes:
        raise InputError(
            f"{store.url}: {free / 1e9:,.1f} GB free, a shuffle in {plan.passes} passes needs "
            f"{plan.disk_bytes / 1e9:,.1f} GB"
        )
