"""How many passes a shuffle takes, and what each of its tasks holds: pure arithmetic.

A multi-pass shuffle (Anthropic, "The engineering challenges of scaling interpretability", June 2024: N jobs each
read a share and write K files; file k of all jobs is a shuffle of its own, K times smaller). Here a bucket is a
contiguous range of *destinations*, so that the order that results depends on the seed alone:

    a pass of splitting   a task holds a share of the rows, sorted by bucket, and writes one piece for each bucket
    the last pass         a task holds one whole bucket in its final order, and writes it as finished files

With room for M bytes of rows in a task and pieces of at least m = 1 MiB, a bucket is split into at most K = M / m.
So the last pass alone shuffles M bytes, one pass of splitting before it M*K, two M*K*K: with 400 MiB that is
400 MiB, 160 GB, 64 TB. Every pass reads and writes all rows once.
"""

from dataclasses import dataclass, field

from monosem.dataset.manifest import BLOCK_ROWS
from monosem.errors import InputError

MIB = 2**20
BASE_BYTES = 110 * MIB
"""A Ray worker that has imported what a task needs and holds no rows: measured 89 MiB private, 101 MiB PSS."""
PIECE_BYTES = MIB
"""Smaller pieces would cost more in requests and syncs than in bytes."""
INDEX_BYTES = 56
"""Beside each row: its number, destination and place, and what sorting them takes."""
READ_BYTES = 4 * MIB
"""What is read of a piece at once."""
READ_BLOCKS = {"raw": 2, "zstd": 3, "bf16": 3, "int8": 5}
"""Source blocks (as float32) that reading one takes, by codec: as stored, decoded, and in between."""
WRITE_BLOCKS = {"raw": 1, "zstd": 2, "bf16": 4, "int8": 7}
"""Blocks that encoding one takes."""
OUT_SHARE = {"raw": 1.0, "zstd": 1.0, "bf16": 0.5, "int8": 0.27}
"""Bytes of a file over bytes of its rows as float32 (at most)."""
COPIES = 2.25
"""Of a finished file while it is written: itself with room to grow, and what an S3 client sends."""
ENOUGH_BUCKETS = 8
"""A piece is sent as a copy; with this many buckets the copy is an eighth of what the task holds."""


@dataclass(frozen=True)
class ShufflePlan:
    """What the tasks of a shuffle do.

    rows, row_bytes  of the dataset; a row as float32 with its number
    shard_rows       of a finished file
    buffer_rows      rows that a splitting task holds at most
    bucket_shards    finished files per bucket after each pass of splitting; empty if all rows fit one task
    task_bytes       memory of a task at its peak, predicted, with what its process has anyway
    disk_bytes       most that is on disk at any time beside the source
    """

    rows: int
    row_bytes: int
    shard_rows: int
    buffer_rows: int
    bucket_shards: tuple[int, ...]
    task_bytes: int
    disk_bytes: int = field(compare=False)

    @property
    def passes(self) -> int:
        """Passes of splitting and the last one."""
        return len(self.bucket_shards) + 1

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    @property
    def fan_outs(self) -> tuple[int, ...]:
        """Buckets that each bucket is split into, pass by pass."""
        above = (self.shards, *self.bucket_shards)
        return tuple(-(-whole // part) for whole, part in zip(above, self.bucket_shards, strict=False))

    def unit(self, level: int) -> int:
        """Rows of a bucket after `level` passes of splitting; 0: all."""
        return min(self.rows, self.bucket_shards[level - 1] * self.shard_rows) if level else self.rows

    def buckets(self, level: int) -> int:
        """How many there are then."""
        return -(-self.rows // self.unit(level))

    def bounds(self, level: int, bucket: int) -> tuple[int, int]:
        """Destinations [lo, hi) of a bucket."""
        unit = self.unit(level)
        return bucket * unit, min(self.rows, (bucket + 1) * unit)

    def as_json(self) -> dict:
        return {**self.__dict__, "bucket_shards": list(self.bucket_shards)}


@dataclass(frozen=True)
class Costs:
    """What tasks need beside their rows, in bytes.

    base        of a process before the first row
    source      of reading one block of the source
    block_rows  rows of such a block: a splitting task holds at least one
    write       of encoding and writing one finished file
    read        of a piece at once
    piece       the smallest piece worth writing
    """

    base: int
    source: int
    block_rows: int
    write: int
    read: int = READ_BYTES
    piece: int = PIECE_BYTES


def task_costs(
    row_bytes: int, shard_rows: int, block_rows: int = BLOCK_ROWS, source_codec: str = "raw", codec: str = "raw"
) -> Costs:
    """The costs of rows of `row_bytes` in source blocks of `block_rows` and finished files of `shard_rows`."""
    encoded = WRITE_BLOCKS[codec] * min(BLOCK_ROWS, shard_rows) * row_bytes
    file = int(COPIES * OUT_SHARE[codec] * shard_rows * row_bytes)
    return Costs(BASE_BYTES, READ_BLOCKS[source_codec] * block_rows * row_bytes, block_rows, file + encoded)


def plan_shuffle(
    rows: int, row_bytes: int, memory_bytes: int, tasks: int, shard_rows: int, costs: Costs | None = None
) -> ShufflePlan:
    """The plan with the fewest passes for `tasks` tasks at a time in `memory_bytes` altogether.

    rows, row_bytes   of the dataset; a row as float32 with its number (8 bytes)
    memory_bytes      for all tasks that run at once, each with the base of its process
    shard_rows        rows of a finished file; the smallest bucket is one file
    costs             what tasks need beside their rows; by default `task_costs`

    Memory in which no shuffle is possible is an InputError that says how much is needed.
    """
    if tasks < 1:
        raise InputError(f"tasks={tasks}: must be at least 1")
    costs = costs or task_costs(row_bytes, shard_rows)
    room = memory_bytes // tasks - costs.base
    hold, split = _row_costs(row_bytes)
    whole = max(costs.source, costs.write) + rows * hold  # the last pass reads the source itself if it is the only one
    if whole <= room:
        return _plan(rows, row_bytes, shard_rows, rows, (), costs.base + whole)
    last = max(costs.read, costs.write)
    per_bucket = (room - last) // (hold * shard_rows)
    buffer_rows = min(rows, (room - costs.source) // split)
    fan_limit = buffer_rows * row_bytes // costs.piece
    if per_bucket < 1 or fan_limit < 2 or buffer_rows < min(rows, costs.block_rows):
        raise InputError(_too_little(memory_bytes, tasks, row_bytes, shard_rows, costs))
    bucket_shards = _levels(-(-rows // shard_rows), per_bucket, fan_limit, tasks)
    bucket_rows = min(rows, bucket_shards[-1] * shard_rows)
    held = max(buffer_rows * split + costs.source, bucket_rows * hold + last)
    return _plan(rows, row_bytes, shard_rows, buffer_rows, bucket_shards, costs.base + held)


def _row_costs(row_bytes: int) -> tuple[int, int]:
    """Bytes per row in the last pass, and in one of splitting (where a piece is copied to be sent)."""
    return row_bytes + INDEX_BYTES, row_bytes + row_bytes // ENOUGH_BUCKETS + INDEX_BYTES


def _plan(
    rows: int, row_bytes: int, shard_rows: int, buffer_rows: int, bucket_shards: tuple[int, ...], task_bytes: int
) -> ShufflePlan:
    copies = 2 if bucket_shards else 1  # pieces of two passes, or pieces and the result
    return ShufflePlan(rows, row_bytes, shard_rows, buffer_rows, bucket_shards, task_bytes, copies * rows * row_bytes)


def _levels(shards: int, per_bucket: int, fan_limit: int, tasks: int) -> tuple[int, ...]:
    """Files per bucket after each pass of splitting, for buckets of at most `per_bucket` files."""
    needed = -(-shards // per_bucket)
    levels = 1
    while fan_limit**levels < needed:
        levels += 1
    buckets = min(fan_limit**levels, max(needed, min(shards, max(tasks, ENOUGH_BUCKETS))))
    fan = 2
    while fan**levels < buckets:
        fan += 1
    last = -(-shards // buckets)
    return tuple(last * fan ** (levels - 1 - level) for level in range(levels))


def _too_little(memory_bytes: int, tasks: int, row_bytes: int, shard_rows: int, costs: Costs) -> str:
    hold, split = _row_costs(row_bytes)
    last = shard_rows * hold + max(costs.read, costs.write)
    first = max(costs.block_rows, -(-2 * costs.piece // row_bytes)) * split + costs.source
    need = costs.base + max(last, first)
    return (
        f"memory={_mib(memory_bytes)}: tasks={tasks} at once need {_mib(tasks * need)}, {_mib(need)} each: "
        f"{_mib(costs.base)} for the process, {_mib(first)} to split a block of {costs.block_rows:,} rows, "
        f"{_mib(last)} to finish a file of {shard_rows:,}; give more memory or fewer tasks"
    )


def _mib(n: int) -> str:
    return f"{n / MIB:,.0f} MiB" if n >= MIB else f"{n:,} bytes"
