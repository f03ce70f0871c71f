"""A shuffle ten times larger than its memory, with deaths: is it exact, what does it hold, how long does it take?

    python tests/bench/shuffle.py --gb 10 --memory 1GB --dir /somewhere/empty

Writes a dataset, shuffles it on a Ray of its own and kills: one worker in each pass, and once, in the last pass, the
whole process tree, after which the same command goes on. Then every row is compared with its source by its number.
Memory is sampled every 50 ms: RssAnon and PSS of the workers that run tasks, and PSS of the whole tree.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import xxhash

from monosem.dataset.blocks import BlockReader
from monosem.dataset.codec import decode
from monosem.dataset.manifest import Dataset, open_dataset
from monosem.dataset.shuffle import file_rows, shuffle_plan
from monosem.dataset.writer import Plan, ShardWriter
from monosem.errors import InputError
from monosem.rows.permute import SHUFFLE, Feistel
from monosem.stages.datasets import parse_bytes
from monosem.store.store import LocalStore

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.fleet.processes import descendants, kill_tree

WIDTH, SHARD_ROWS, SEED = 512, 65536, 7
EVERY_S = 0.05
WORKERS = ("ray::run_task", "ray::IDLE")
"""Ray's own agents, also called ray::, count for the tree."""


def write_rows(path: Path, rows: int) -> float:
    """The source; returns the seconds it took."""
    begin = time.monotonic()
    plan = Plan(WIDTH, rows, 0, "raw", SHARD_ROWS, {"kind": "file", "made": "tests/bench/shuffle.py"})
    writer = ShardWriter(LocalStore(str(path)), "", plan)
    writer.begin()
    for first, n in plan.shards():
        if not writer.has(first):
            writer.write(first, np.random.default_rng(first).standard_normal((n, WIDTH), dtype=np.float32))
    writer.finish()
    return time.monotonic() - begin


class Watch(threading.Thread):
    """Peaks of memory below a process: of its task workers together, of the largest, and of the whole tree."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.going = pid, True
        self.peaks = {"workers_anon": 0, "workers_pss": 0, "worker_anon": 0, "tree_pss": 0}
        self.samples = 0

    def run(self) -> None:
        while self.going:
            workers = [p for p, command in descendants(self.pid).items() if command.startswith(WORKERS)]
            anon = [_memory(p, "status", "RssAnon:") for p in workers]
            self._peak("workers_anon", sum(anon))
            self._peak("worker_anon", max(anon, default=0))
            if self.samples % 10 == 0:  # walking page tables is dear
                pss = {p: _memory(p, "smaps_rollup", "Pss:") for p in [self.pid, *descendants(self.pid)]}
                self._peak("workers_pss", sum(pss.get(p, 0) for p in workers))
                self._peak("tree_pss", sum(pss.values()))
            self.samples += 1
            time.sleep(EVERY_S)

    def _peak(self, name: str, value: int) -> None:
        self.peaks[name] = max(self.peaks[name], value)


def _memory(pid: int, file: str, field: str) -> int:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0
    return int(text.split(field, 1)[1].split()[0]) * 1024 if field in text else 0


def committed(out: Path, level: int, passes: int) -> int:
    """Tasks of a pass that are committed; files, in the last pass."""
    return len(list(out.glob("shards/*.json" if level == passes else f"scratch/pass-{level}/records/*.json")))


def start(source: Path, out: Path, args: argparse.Namespace) -> tuple[subprocess.Popen, Watch]:
    command = [sys.executable, "-m", "monosem", "shuffle", str(source), str(out), "--seed", str(SEED)]
    process = subprocess.Popen([*command, "--memory", args.memory, "--tasks", str(args.tasks)])
    watch = Watch(process.pid)
    watch.start()
    return process, watch


def wait_for(process: subprocess.Popen, ready) -> None:
    while not ready():
        if process.poll() is not None:
            raise InputError("the shuffle ended before it could be killed; take more --gb")
        time.sleep(0.02)


def kill_a_worker(process: subprocess.Popen) -> None:
    """SIGKILL a worker in the middle of a task: one that holds half of what it may."""
    while True:
        for pid, command in descendants(process.pid).items():
            if command.startswith("ray::run_task") and _memory(pid, "status", "RssAnon:") > 150e6:
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.02)


def shuffle_with_deaths(source: Path, out: Path, args: argparse.Namespace, passes: int) -> dict:
    """Kills a worker in each pass, then the tree in the middle of the last, and goes on. Times and peaks."""
    begin = time.monotonic()
    process, first = start(source, out, args)
    for level in range(1, passes + 1):
        wait_for(process, lambda level=level: committed(out, level, passes) >= 2)
        kill_a_worker(process)
    files = committed(out, passes, passes)
    wait_for(process, lambda: committed(out, passes, passes) >= files + 4)
    kill_tree(process.pid)
    process.wait()
    first.going = False
    kept = {p: p.stat().st_mtime_ns for p in out.glob("shards/*.json")}
    arrows = {p.with_suffix(".arrow"): p.with_suffix(".arrow").stat().st_mtime_ns for p in kept}
    process, second = start(source, out, args)
    code = process.wait()
    second.going = False
    peaks = {name: max(first.peaks[name], second.peaks[name]) for name in first.peaks}
    again = sum(p.stat().st_mtime_ns != t for p, t in arrows.items())
    return {
        "exit": code,
        "shuffle_s": time.monotonic() - begin,
        "kept_files": len(kept),
        "redone_files": again,
        **peaks,
    }


def row_hashes(dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """XXH3-64 of each row's bits, uint64 [rows], and the column `row`."""
    reader, hashes, rows = BlockReader(dataset), [], []
    for number, shard in enumerate(dataset.manifest.shards):
        for k in range(len(shard.blocks)):
            batch = reader.record_batch((number, k))
            x = np.ascontiguousarray(decode(batch, dataset.manifest.codec))
            hashes.append(np.fromiter((xxhash.xxh3_64_intdigest(r) for r in x), np.uint64, len(x)))
            if dataset.manifest.has_rows:
                rows.append(np.array(batch.column("row")))
    return np.concatenate(hashes), np.concatenate(rows) if rows else None


def check(source: Dataset, out: Dataset) -> dict:
    """The permutation, completely."""
    before, _ = row_hashes(source)
    after, row = row_hashes(out)
    n = source.manifest.rows
    return {
        "rows_once": bool(np.array_equal(np.sort(row), np.arange(n))),
        "order_is_P": all(
            np.array_equal(row[a : a + 2**20], Feistel(n, SEED, SHUFFLE, 0).inverse(np.arange(a, min(n, a + 2**20))))
            for a in range(0, n, 2**20)
        ),
        "content_by_row": bool(np.array_equal(after, before[row])),
        "distinct_hashes": len(np.unique(before)),
        "scratch_gone": not (Path(out.store.url) / "scratch").exists(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=10.0)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--dir", type=Path, required=True)
    args = parser.parse_args()
    source, out = args.dir / "source", args.dir / "out"
    rows = int(args.gb * 1e9 / (4 * WIDTH))
    result = {"gb": args.gb, "rows": rows, "memory": args.memory, "tasks": args.tasks}
    result["write_s"] = write_rows(source, rows)
    dataset = open_dataset(str(source))
    m = dataset.manifest
    memory = parse_bytes(args.memory, "memory")
    plan = shuffle_plan(m, memory, args.tasks, file_rows(m), "raw")
    result |= {
        "passes": plan.passes,
        "buckets": plan.buckets(plan.passes - 1),
        "predicted": plan.task_bytes * args.tasks,
    }
    result |= shuffle_with_deaths(source, out, args, plan.passes)
    begin = time.monotonic()
    result |= check(dataset, open_dataset(str(out)))
    result["check_s"] = time.monotonic() - begin
    for name, value in result.items():
        big = name.endswith(("anon", "pss", "predicted"))
        shown = f"{value / 2**20:,.0f} MiB" if big else f"{value:.1f}" if isinstance(value, float) else value
        sys.stdout.write(f"{name:16} {shown}\n")
    sys.stdout.write(json.dumps(result) + "\n")
    good = all(result[k] for k in ("rows_once", "order_is_P", "content_by_row", "scratch_gone"))
    sys.exit(0 if good and result["exit"] == 0 and result["workers_anon"] <= memory else 1)


if __name__ == "__main__":
    main()
