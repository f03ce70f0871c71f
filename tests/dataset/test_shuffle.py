"""Shuffling datasets: an exact permutation whatever the plan, through kills and damage."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.dataset import pieces as tasks_of
from monosem.dataset.blocks import BlockReader
from monosem.dataset.codec import decode, encode
from monosem.dataset.manifest import Dataset, open_dataset
from monosem.dataset.passes import Costs, ShufflePlan, plan_shuffle, task_costs
from monosem.dataset.pieces import FinishTask, SplitTask
from monosem.dataset.shuffle import run_inline, run_shuffle
from monosem.dataset.writer import DatasetWriter, Plan
from monosem.errors import InputError, IntegrityError, StoreError
from monosem.rows.permute import SHUFFLE, Feistel
from monosem.store.store import LocalStore, open_store
from tests.conftest import Killed

ROWS, WIDTH = 1000, 5
TINY = Costs(base=0, source=0, block_rows=16, write=0, read=0, piece=84)
"""Costs at which a thousand rows take several passes: pieces of three rows."""
FEW, SOME, MANY = 2_800, 8_000, 200_000
"""Bytes of memory that make three passes, two, and one."""


def content(rows: int = ROWS, width: int = WIDTH) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
    x[17] = np.nan
    return x


def write_source(store, prefix="", rows=ROWS, codec="raw", shard_rows=16, width=WIDTH) -> Dataset:
    lineage = {"host": "toy", "hook_point": "mlp.post"}
    order = {"kind": "stream", "identity": {"seed": 3}}
    writer = DatasetWriter(store, prefix, Plan(width, rows, 0, codec, shard_rows, order, lineage))
    writer.add(content(rows, width))
    return writer.finish()


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch):
    """Nobody cuts the power here, and thousands of syncs take minutes on a busy disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def source(tmp_path) -> Dataset:
    return write_source(LocalStore(str(tmp_path / "source")))


def shuffled(source: Dataset, out, memory=SOME, tasks=1, run=run_inline, seed=5, **more) -> Dataset:
    store = open_store(str(out))
    return run_shuffle(source, store, "", seed, memory, tasks, run, costs=TINY, shard_rows=16, **more)


def read_all(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows and the column `row`, through Arrow."""
    reader = BlockReader(dataset)
    batches = [
        reader.record_batch((number, k))
        for number, shard in enumerate(dataset.manifest.shards)
        for k in range(len(shard.blocks))
    ]
    rows = np.concatenate([decode(b, dataset.manifest.codec) for b in batches])
    return rows, np.concatenate([b.column("row").to_numpy() for b in batches])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(np.ascontiguousarray(a).view(np.uint32), np.ascontiguousarray(b).view(np.uint32))


@pytest.mark.parametrize("memory, passes", [(MANY, 1), (SOME, 2), (FEW, 3)])
def test_every_row_stands_where_the_permutation_says(source, tmp_path, memory, passes):
    assert plan_shuffle(ROWS, 28, memory, 1, 16, TINY).passes == passes
    out = shuffled(source, tmp_path / "out", memory)
    rows, row = read_all(out)
    assert np.array_equal(row, Feistel(ROWS, 5, SHUFFLE, 0).inverse(np.arange(ROWS)))
    assert np.array_equal(np.sort(row), np.arange(ROWS))
    assert same_bits(rows, read_plain(source)[row])
    assert out.manifest.masked == 1 and out.manifest.error["exact"] and out.manifest.has_rows
    assert out.manifest.order == {"kind": "file", "shuffled": {"seed": 5, "of": source.manifest.digest}}
    assert out.manifest.lineage["host"] == "toy" and out.manifest.lineage["source"]["codec"] == "raw"
    assert open_dataset(str(tmp_path / "out")).manifest == out.manifest
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["begin.json", "manifest.json", "shards"]


def read_plain(dataset: Dataset) -> np.ndarray:
    reader, m = BlockReader(dataset), dataset.manifest
    return np.concatenate([reader.read((n, k)) for n, s in enumerate(m.shards) for k in range(len(s.blocks))])


@pytest.mark.parametrize("memory, tasks", [(MANY, 1), (SOME, 1), (2 * SOME, 2), (FEW, 1), (2000, 1), (15_000, 5)])
def test_memory_and_tasks_change_nothing(source, tmp_path, memory, tasks):
    def backwards(todo, done):
        run_inline(random.Random(memory).sample(todo, len(todo)), done)

    assert shuffled(source, tmp_path / "out", memory, tasks, backwards).manifest == (
        shuffled(source, tmp_path / "plain").manifest
    )


def test_another_seed_is_another_order(source, tmp_path):
    a, b = (read_all(shuffled(source, tmp_path / str(seed), seed=seed))[1] for seed in (1, 2))
    assert not np.array_equal(a, b) and np.array_equal(np.sort(a), np.sort(b))


def killed_at(count: int, kind: type, level: int, method: str):
    """A runner that dies inside task number `count` of a pass, in place of its commit."""

    def run(todo, done):
        for k, task in enumerate(todo):
            mine = isinstance(task, kind) and (kind is FinishTask or task.level == level)
            if mine and k == count:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(*DEATHS[method])
                    task.run()
            task.run()
            done(task)

    return run


def die(*_, **__):
    raise Killed


DEATHS = {
    "before the record": (tasks_of, "_create", die),
    "before the second piece": (tasks_of, "_bytes", lambda array, calls=[]: calls.append(1) or (die() if len(calls) % 4 == 3 else memoryview(array.tobytes()))),
    "while reading": (np, "argsort", die),
    "before a file": (tasks_of.ShardWriter, "_commit", die),
}  # fmt: skip


@pytest.mark.parametrize("kind, level, method", [
    (SplitTask, 1, "before the record"), (SplitTask, 1, "before the second piece"), (SplitTask, 1, "while reading"),
    (SplitTask, 2, "before the record"), (SplitTask, 2, "while reading"), (FinishTask, 0, "before a file"),
])  # fmt: skip
def test_a_kill_in_any_pass_and_the_same_call_again(source, tmp_path, kind, level, method):
    finished = []

    def counting(todo, done):
        finished.extend(task.name for task in todo)
        run_inline(todo, done)

    out = tmp_path / "out"
    with pytest.raises(Killed):
        shuffled(source, out, FEW, run=killed_at(3, kind, level, method))
    again = shuffled(source, out, FEW, run=counting)
    assert again.manifest.digest == shuffled(source, tmp_path / "plain", FEW).manifest.digest
    assert len(finished) == len(set(finished))
    for gone in range(3):  # three tasks of that pass were committed, and all of the passes before it
        assert (f"finish-{gone}" if kind is FinishTask else f"split-{level}-{gone}") not in finished
    assert not [name for name in finished if name.startswith("split") and (kind is FinishTask or name < f"split-{level}")]
    assert (tmp_path / "plain/manifest.json").read_bytes() == (out / "manifest.json").read_bytes()


def test_a_kill_between_the_passes(source, tmp_path, monkeypatch):
    """While the pieces of the first pass are going, and before the last pass's manifest."""
    out, real, count = tmp_path / "out", LocalStore.delete_tree, []

    def dying(self, path):
        count.append(path)
        for name in self.list(f"{path}/records")[:3]:
            self.delete(f"{path}/records/{name}")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete_tree", dying)
        with pytest.raises(Killed):
            shuffled(source, out, FEW)
    assert count and count[0].endswith("pass-1")
    with monkeypatch.context() as patch:
        patch.setattr(tasks_of.ShardWriter, "finish", die)
        with pytest.raises(Killed):
            shuffled(source, out, FEW)
    ran = []
    again = shuffled(source, out, FEW, run=lambda todo, done: ran.extend(todo))
    assert not ran and again.manifest == shuffled(source, tmp_path / "plain").manifest
    assert real is LocalStore.delete_tree and not (out / "scratch").exists()


def test_another_plan_starts_the_passes_anew_and_keeps_finished_files(source, tmp_path):
    out, said = tmp_path / "out", []
    with pytest.raises(Killed):
        shuffled(source, out, FEW, run=killed_at(9, FinishTask, 0, "before a file"))
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    assert kept
    again = shuffled(source, out, SOME, report=lambda rows, note: said.append(note))
    assert again.manifest == shuffled(source, tmp_path / "plain").manifest
    assert any("anew" in note for note in said)
    assert all((out / "shards" / n).stat().st_mtime_ns == t for n, t in kept.items() if n.endswith(".arrow"))


@pytest.mark.parametrize("name, level", [("ids", 1), ("rows", 1), ("ids", 2), ("rows", 2), ("short", 2), ("gone", 1)])
def test_a_scratch_file_that_was_changed_is_noticed(source, tmp_path, name, level):
    out = tmp_path / "out"

    def damaging(todo, done):
        run_inline(todo, done)
        if todo[0].name.startswith(f"split-{level}"):
            home = out / "scratch" / f"pass-{level}" / "1"
            victim = home / "ids" if name == "ids" else next(p for p in sorted(home.iterdir()) if p.name != "ids")
            data = bytearray(victim.read_bytes())
            data[3 if name == "rows" else 0] ^= 1
            victim.write_bytes(data[:-4] if name == "short" else data)
            if name == "gone":
                victim.unlink()

    with pytest.raises(IntegrityError, match="start again"):
        shuffled(source, out, FEW, run=damaging)
    assert not (out / "manifest.json").exists()
    with pytest.raises(IntegrityError):
        shuffled(source, out, FEW)  # nothing that was damaged is taken for committed
    LocalStore(str(out)).delete_tree("scratch")
    assert shuffled(source, out, FEW).manifest == shuffled(source, tmp_path / "plain").manifest


def test_a_record_of_another_process_is_not_overwritten(source, tmp_path):
    def foreign(todo, done):
        path = f"scratch/pass-{todo[0].level}/records/{todo[0].number}.json"
        LocalStore(str(tmp_path / "out")).put(path, b"theirs")
        run_inline(todo, done)

    with pytest.raises(StoreError, match="written by another process with other bytes"):
        shuffled(source, tmp_path / "out", FEW, run=foreign)


def test_a_source_that_was_changed_is_noticed(source, tmp_path):
    victim = sorted((tmp_path / "source/shards").glob("*.arrow"))[3]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    with pytest.raises(IntegrityError, match="does not match its digest"):
        shuffled(source, tmp_path / "out", FEW)


def test_pieces_of_an_older_pass_go_when_the_next_is_complete(source, tmp_path):
    seen = []

    def looking(todo, done):
        seen.append(sorted(p.name for p in (tmp_path / "out/scratch").glob("pass-*")))
        run_inline(todo, done)

    shuffled(source, tmp_path / "out", FEW, run=looking)
    assert seen == [[], ["pass-1"], ["pass-2"]]


@pytest.mark.parametrize("codec", ["raw", "zstd", "bf16", "int8"])
def test_any_codec_in_and_out(tmp_path, codec):
    source = write_source(LocalStore(str(tmp_path / "source")), codec=codec)
    exact = read_plain(source)
    out = shuffled(source, tmp_path / "raw", FEW)
    rows, row = read_all(out)
    assert same_bits(rows, exact[row])
    packed = shuffled(out, tmp_path / "packed", FEW, codec=codec, seed=9)
    again, second = read_all(packed)
    if codec != "int8":
        assert same_bits(again, rows[second])
    else:
        assert packed.manifest.error["fvu"] < 1e-3
    assert packed.manifest.lineage["source"]["order"] == out.manifest.order


def test_memory_and_s3_stores(tmp_path, s3_url):
    local = shuffled(write_source(LocalStore(str(tmp_path / "source")), rows=100), tmp_path / "out", SOME)
    for url in ("memory://shuffle-test", s3_url):
        store = open_store(url)
        source = write_source(store, "source", codec="zstd", rows=100)
        out = run_shuffle(source, store, "deep/out", 5, 2300, 1, run_inline, costs=TINY, shard_rows=16)
        assert [s.sha256 for s in out.manifest.shards] == [s.sha256 for s in local.manifest.shards]
        assert store.list("deep/out") == ["begin.json", "manifest.json", "shards"]


def test_impossible_ones_are_refused_with_the_numbers(source, tmp_path):
    with pytest.raises(InputError, match=r"memory=512 MiB: tasks=8 at once need .* MiB, .* MiB each: .*fewer tasks"):
        plan_shuffle(10**9, 2056, 512 * 2**20, 8, 24576)
    with pytest.raises(InputError, match="to split a block of 8,192 rows"):  # a task would hold half of one
        plan_shuffle(10**6, 80_008, task_costs(80_008, 64).base + 5 * 8192 * 80_008 // 2, 1, 64)
    with pytest.raises(InputError, match="tasks=0"):
        plan_shuffle(10, 28, 10**9, 0, 10)
    with pytest.raises(InputError, match="seed=-1"):
        shuffled(source, tmp_path / "out", seed=-1)
    with pytest.raises(InputError, match="another activation dataset is there"):
        shuffled(source, tmp_path / "source")
    shuffled(source, tmp_path / "out")
    with pytest.raises(InputError, match="another activation dataset is there"):
        shuffled(source, tmp_path / "out", seed=6)


def test_a_disk_without_room_is_refused_before_anything_is_written(source, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match="GB free, a shuffle in 3 passes needs"):
        shuffled(source, tmp_path / "out", FEW)
    assert not (tmp_path / "out").exists()


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 10**12), width=st.integers(1, 20_000), memory=st.integers(2**28, 2**38),
    tasks=st.integers(1, 64), shard_rows=st.integers(1, 2**17),
)  # fmt: skip
def test_laws_of_a_plan(rows, width, memory, tasks, shard_rows):
    row_bytes = 4 * width + 8
    try:
        plan = plan_shuffle(rows, row_bytes, memory, tasks, shard_rows)
    except InputError:
        with pytest.raises(InputError):  # then less memory for each does not help either
            plan_shuffle(rows, row_bytes, memory, tasks + 1, shard_rows)
        return
    assert plan.task_bytes * tasks <= memory
    last = len(plan.bucket_shards)
    for level in range(last + 1):
        n, unit = plan.buckets(level), plan.unit(level)
        assert plan.bounds(level, 0)[0] == 0 and plan.bounds(level, n - 1)[1] == rows
        assert plan.bounds(level, n - 1)[0] < rows and (n - 1) * unit < rows <= n * unit
        if level:
            assert plan.unit(level - 1) % unit == 0 or n == 1 or level == 1 or plan.unit(level - 1) == rows
            assert plan.fan_outs[level - 1] * 2**20 <= max(plan.buffer_rows * row_bytes, 2 * 2**20)
    assert plan.unit(last) * row_bytes <= plan.task_bytes
    assert plan.unit(last) % shard_rows == 0 or plan.buckets(last) == 1
    costs, each = task_costs(row_bytes, shard_rows), memory // tasks
    assert costs.base + plan.unit(last) * row_bytes + costs.write <= each  # a whole bucket, and a file of it
    if last:
        assert plan.buffer_rows >= min(rows, costs.block_rows)
        assert costs.base + plan.buffer_rows * row_bytes + costs.source <= each


def test_the_arithmetic_of_the_docstring():
    """With 400 MiB for rows: itself, 160 GB, 64 TB."""
    memory = task_costs(1032, 24576).base + 400 * 2**20
    for rows, passes in ((200_000, 1), (60_000_000, 2), (15_000_000_000, 3)):
        assert plan_shuffle(rows, 1032, memory, 1, 24576).passes == passes


def test_halves_are_those_of_torch():
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    edges = [0, 1, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x80000000, 0xFF800000, 0x00008000]
    x = np.concatenate([bits, np.array(edges, dtype=np.uint32)]).view(np.float32)
    x = x[~np.isnan(x)].reshape(-1, 1)
    mine = encode(x, "bf16")["x"].flatten().to_numpy()
    theirs = torch.from_numpy(x.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(-1)
    infinite = (theirs & 0x7FFF == 0x7F80) & np.isfinite(x[:, 0])  # of torch: here the largest finite one
    assert infinite.any() and np.array_equal(mine, theirs - infinite)
    assert np.isnan(decode_halves(np.full((1, 1), np.nan, np.float32))).all()


def decode_halves(x: np.ndarray) -> np.ndarray:
    import pyarrow as pa

    return decode(pa.record_batch(encode(x, "bf16")), "bf16")


def test_tasks_are_light():
    code = "import sys, monosem.dataset.pieces; print(*{m.split('.')[0] for m in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ).stdout
    assert not {"torch", "ray", "omegaconf"} & set(out.split())


def test_a_plan_is_data():
    plan = plan_shuffle(10**7, 2056, 2**30, 2, 24576)
    assert isinstance(plan, ShufflePlan) and plan.passes == 2 and plan.as_json()["rows"] == 10**7


def test_a_deletion_of_another_plan_that_was_cut_short(source, tmp_path):
    """Its plan has gone, and records of its passes are still there."""
    out = tmp_path / "out"
    with pytest.raises(Killed):
        shuffled(source, out, FEW, run=killed_at(9, FinishTask, 0, "before a file"))
    (out / "scratch/plan.json").unlink()
    assert shuffled(source, out, SOME).manifest == shuffled(source, tmp_path / "plain").manifest
