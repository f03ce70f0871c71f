"""What the stream costs: reading a dataset against memcpy, mixing against harvesting, memory against its plan.

    python tests/bench/stream.py [--only reading live ray memory] [--gb 1] [--repeat 7]

Ratios are medians over turns in which the contenders alternate, in one process. Wall clock where threads work beside
the reader, the thread's own CPU time where one thread does everything. Prints tables and one JSON line.
Goals: reading in batches of 4,096 at least half as fast as memcpy; mixing adds at most a tenth to harvesting;
peaks of memory within 1.1 of the plan.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from footprint import CASES
from footprint import section as memory_section

from monosem.config.job import SweepJob
from monosem.config.load import load_job
from monosem.dataset.manifest import Dataset
from monosem.dataset.rows import DatasetRows
from monosem.dataset.writer import Plan, ShardWriter
from monosem.host.stored import load_host
from monosem.host.transformer import OneLayerTransformer, TransformerConfig
from monosem.memory import keep_freed_memory
from monosem.rows.order import plan_order
from monosem.stages.prepare import prepare_stream
from monosem.store.store import open_store
from monosem.stream.harvest import Harvester, Place, StreamText, item_digest
from monosem.stream.reader import LocalSource, RowReader
from monosem.stream.records import columns_of
from monosem.text.selection import Selection
from monosem.text.tokens import TokenIndex

WIDTH, FILE_ROWS = 512, 65536
SMALL_ROWS = 65536
"""Rows of the datasets that are read for information only."""
BATCH = 4096
JOB = "jobs/quickstart.yaml"

Contender = Callable[[], int]
"""Does its work once and returns the bytes or items that it did."""


def alternate(contenders: dict[str, Contender], repeat: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Amounts per second of each contender, by turn; the first turn warms up."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeat + 1):
        for name, work in contenders.items():
            start = clock()
            done = work()
            if turn:
                rates[name].append(done / (clock() - start))
    return rates


def ratio(rates: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(a / b for a, b in zip(rates[name], rates[base], strict=True))


# -- reading ----------------------------------------------------------------------------------------


def write_dataset(directory: str, name: str, rows: int, codec: str, has_rows: bool = False) -> Dataset:
    """Random activations: half zeros, as after a ReLU."""
    plan = Plan(WIDTH, rows, 0, codec, FILE_ROWS, {"kind": "file"}, has_rows=has_rows)
    writer = ShardWriter(open_store(f"{directory}/{name}"), "", plan)
    writer.begin()
    generator = np.random.default_rng(0)
    for first, n in plan.shards():
        values = np.maximum(generator.standard_normal((n, WIDTH), dtype=np.float32), 0)
        writer.write(first, values, np.arange(first, first + n) if has_rows else None)
    return writer.finish()


def read_all(dataset: Dataset, batch: int, touch: bool = False) -> int:
    reader, total = DatasetRows(dataset), 0.0
    n = dataset.manifest.rows
    for lo in range(0, n, batch):
        x = reader.rows(lo, min(n, lo + batch))
        if touch:
            total += float(x[:, 0].sum())
    reader.threads.shutdown()
    return n * WIDTH * 4


def copy_all(source: np.ndarray, target: np.ndarray) -> int:
    np.copyto(target, source)
    return source.nbytes


def copy_batches(source: np.ndarray, batch: int) -> int:
    for lo in range(0, len(source), batch):
        source[lo : lo + batch].copy()
    return source.nbytes


def reading(directory: str, gb: float, repeat: int) -> dict:
    rows = int(gb * 1e9 / (WIDTH * 4)) // FILE_ROWS * FILE_ROWS + FILE_ROWS
    raw = write_dataset(directory, "raw", rows, "raw")
    source = np.ones((rows, WIDTH), dtype=np.float32)
    target = np.zeros_like(source)
    contenders: dict[str, Contender] = {
        "memcpy, one array": lambda: copy_all(source, target),
        "memcpy, batches of 4096": lambda: copy_batches(source, 4096),
        "memcpy, batches of 8192": lambda: copy_batches(source, 8192),
    }
    for batch in (256, 4096, 8192):
        contenders[f"raw, batches of {batch}"] = lambda batch=batch: read_all(raw, batch)
        contenders[f"raw, batches of {batch}, touched"] = lambda batch=batch: read_all(raw, batch, touch=True)
    for name, codec, has_rows in (("zstd", "zstd", False), ("bf16", "bf16", False), ("int8", "int8", False),
                                  ("raw with row", "raw", True)):  # fmt: skip
        small = write_dataset(directory, name.replace(" ", "-"), SMALL_ROWS, codec, has_rows)
        contenders[f"{name}, batches of 4096"] = lambda small=small: read_all(small, 4096)
    rates = alternate(contenders, repeat, time.perf_counter)
    base = "memcpy, one array"
    return {n: {"GB/s": statistics.median(r) / 1e9, "of memcpy": ratio(rates, n, base)} for n, r in rates.items()}


# -- live -------------------------------------------------------------------------------------------


class Counting:
    """A harvester that notes which items were asked for."""

    def __init__(self, harvester: Harvester):
        self.harvester, self.order, self.hook_points = harvester, harvester.order, harvester.hook_points
        self.items: list[int] = []

    def put(self, item: int, place: Place) -> None:
        self.items.append(item)
        self.harvester.put(item, place)


def harvester_of(model, hook_point: str, contexts: int = 4096) -> Harvester:
    """The quickstart's shapes over random tokens."""
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (contexts, 256)).astype(np.uint16)
    index = TokenIndex(tokens, np.zeros(1, np.int64), np.zeros(1, np.int32), ("",))
    order = plan_order(0, contexts, 256, 128, 16, 65536)
    return Harvester(model, StreamText(index, Selection(index, 128, 0, frozenset()), order), [hook_point], threads=1)


def overhead(harvester: Harvester, repeat: int, batch: int, segments: int = 12) -> dict[str, float]:
    """Time per item of the whole stream against that of harvesting the same items, digests included."""
    [hook_point] = harvester.hook_points
    order = harvester.order
    rows = segments * order.segment_rows // batch * batch
    warm = Counting(harvester)
    LocalSource(warm).segment(0, hook_point)
    first = len(warm.items)

    def harvest() -> int:
        for item in range(first, first + segments * order.items_per_block):
            item_digest(harvester.item(item))
        return segments * order.items_per_block

    source = Counting(harvester)
    reader = RowReader(LocalSource(source), order, hook_point)
    reader.rows(0, 1)  # the first segment is the only one that needs more than one block of items
    position = order.segment_rows

    def stream() -> int:
        nonlocal position
        before = len(source.items)
        for lo in range(position, position + rows, batch):
            reader.rows(lo, lo + batch)
        position += rows
        return len(source.items) - before

    kept, filled = np.zeros((order.generations * order.segment_rows, WIDTH), dtype=np.float32), 0

    def keep() -> int:
        """Harvest, and one plain copy into memory of the shuffle's size: the least that holding rows back can cost."""
        nonlocal filled
        for item in range(first, first + segments * order.items_per_block):
            found = harvester.item(item)
            item_digest(found)
            [rows] = columns_of(found)
            filled = filled if filled + len(rows) <= len(kept) else 0
            np.copyto(kept[filled : filled + len(rows)], rows)
            filled += len(rows)
        return segments * order.items_per_block

    rates = alternate({"harvest": harvest, "keep": keep, "stream": stream}, repeat, time.thread_time)
    return {"harvest, ms per item": 1e3 / statistics.median(rates["harvest"]),
            "with one copy": ratio(rates, "harvest", "keep"),
            "stream": ratio(rates, "harvest", "stream")}  # fmt: skip


def live(repeat: int) -> dict:
    torch.manual_seed(0)
    sizes = TransformerConfig(vocab_size=4096, context_length=256, d_model=WIDTH, d_mlp=8, n_heads=2)
    job = load_job(SweepJob, JOB, [])
    hosts = {
        "embeddings (resid_pre, 512)": harvester_of(OneLayerTransformer(sizes), "resid_pre"),
        "one-layer-a (mlp.post, 512)": harvester_of(load_host(job.host).model, "mlp.post"),
    }
    return {f"{n}, {batch}": overhead(h, repeat, batch) for n, h in hosts.items() for batch in (256, BATCH)}


def on_ray(directory: str, rows: int = 400_000) -> dict:
    """One reader through a model worker and a buffer shard, against harvesting in this process. Needs two free cores."""
    from monosem.fleet.cluster import connected, set_environment
    from monosem.stages.budget import object_store_bytes, shapes_of
    from monosem.stages.learning import make_harvester

    overrides = [f"store={directory}/store", "corpus.max_tokens=1_000_000"]
    job = load_job(SweepJob, JOB, overrides)
    store = open_store(job.store)
    spec = prepare_stream(job, store)
    harvester, per_item = make_harvester(spec, store), spec.order.contexts_per_item * spec.order.rows_per_context
    harvester.item(0)
    start = time.perf_counter()
    for item in range(rows // per_item // 4):
        item_digest(harvester.item(item))
    alone = rows // per_item // 4 * per_item / (time.perf_counter() - start)
    set_environment(None)
    with connected(None, object_store_bytes(shapes_of(spec))):
        rate = ray_rate(spec, rows)
    return {"harvest alone, rows/s": alone, "reader on Ray, rows/s": rate, "reader / harvest": rate / alone}


def ray_rate(spec, rows: int) -> float:
    """Rows per second that a reader gets, after the first segment."""
    import ray

    from monosem.fleet.source import RaySource
    from monosem.fleet.workers import BufferShard, ModelWorker

    worker = ModelWorker.options(num_cpus=0).remote(spec)
    shard = BufferShard.options(num_cpus=0).remote(spec, 0, 1)
    ray.get(shard.set_workers.remote({0: worker}))
    [hook_point] = spec.hook_points
    source = RaySource(spec.order, "reader", spec.hook_points, {0: shard}, spec.hook_points)
    source.join(0)
    reader, first = RowReader(source, spec.order, hook_point), spec.order.segment_rows
    reader.rows(0, first)
    start = time.perf_counter()
    for lo in range(first, first + rows, BATCH):
        reader.rows(lo, lo + BATCH)
    return -(-rows // BATCH) * BATCH / (time.perf_counter() - start)


def show(section: str, table: dict[str, dict]) -> None:
    sys.stdout.write(f"\n{section}\n")
    for name, figures in table.items():
        cells = figures if isinstance(figures, dict) else {"": figures}
        text = "  ".join(f"{key} {value:,.2f}" for key, value in cells.items() if isinstance(value, int | float))
        sys.stdout.write(f"  {name:40} {text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    sections = ("reading", "live", "ray", "memory")
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="of the memory section")
    args = parser.parse_args()
    keep_freed_memory()
    found: dict[str, object] = {"load": os.getloadavg()[0], "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as directory:
        work = {
            "reading": lambda: reading(directory, args.gb, args.repeat),
            "live": lambda: live(args.repeat),
            "ray": lambda: on_ray(directory),
            "memory": lambda: memory_section(args.cases, directory),
        }
        for name in args.only:
            found[name] = work[name]()
            show(name, found[name])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
