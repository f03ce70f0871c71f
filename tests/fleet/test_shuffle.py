"""Shuffling on a real Ray: killed workers, a killed tree and a signal leave no trace in the result."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monosem.dataset.passes import BASE_BYTES
from monosem.dataset.shuffle import run_inline
from monosem.store.store import LocalStore
from tests.dataset.test_shuffle import write_source
from tests.fleet.processes import descendants, kill_one, kill_tree, wait_until
from tests.fleet.slow_tasks import MEMORY, shuffle

ROWS = 1200


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("source")
    write_source(LocalStore(str(path)), rows=ROWS)
    return str(path)


@pytest.fixture(scope="module")
def plain(source, tmp_path_factory) -> bytes:
    out = tmp_path_factory.mktemp("plain") / "out"
    shuffle(source, str(out), run_inline, 20 * MEMORY)
    return (out / "manifest.json").read_bytes()


def start(source: str, out: Path, seconds: float = 0.4) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.fleet.slow_tasks", source, str(out), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def committed(out: Path, level: int) -> list[Path]:
    """The records of a pass; of the last one if `level` is 0."""
    return list(out.glob(f"scratch/pass-{level}/records/*.json" if level else "shards/*.json"))


def worker_memory(pid: int) -> int:
    """Private bytes of the largest Ray worker below `pid`."""
    found = [0]
    for child, command in descendants(pid).items():
        if command.startswith(("ray::run_task", "ray::IDLE")):
            status = Path(f"/proc/{child}/status").read_text()
            found.append(int(status.split("RssAnon:")[1].split()[0]) * 1024)
    return max(found)


def test_workers_killed_in_every_pass_leave_no_trace(source, plain, tmp_path):
    out = tmp_path / "out"
    process = start(source, out)
    try:
        for level in (1, 2, 0):
            wait_until(lambda level=level: committed(out, level))
            memory = worker_memory(process.pid)
            kill_one(process.pid, "ray::run_task")
        text, _ = process.communicate(timeout=120)
    finally:
        kill_tree(process.pid)
    assert process.returncode == 0, text
    assert (out / "manifest.json").read_bytes() == plain
    assert 0 < memory < BASE_BYTES, "a worker without rows is larger than the plan says"


def test_the_whole_tree_killed_and_the_same_call_again(source, plain, tmp_path):
    out = tmp_path / "out"
    process = start(source, out)
    wait_until(lambda: len(committed(out, 2)) >= 2)
    kill_tree(process.pid)
    process.communicate()
    kept = {f"split-2-{path.stem}" for path in committed(out, 2)}
    done_now = []

    def counting(tasks, done):
        done_now.extend(task.name for task in tasks)
        run_inline(tasks, done)

    shuffle(source, str(out), counting)
    assert kept and not kept & set(done_now)  # committed tasks were not done again
    assert not [name for name in done_now if name.startswith("split-1")]
    assert (out / "manifest.json").read_bytes() == plain


def test_sigint_ends_it_with_interrupted_and_it_goes_on(source, plain, tmp_path):
    out = tmp_path / "out"
    process = start(source, out)
    try:
        wait_until(lambda: committed(out, 1))
        os.kill(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    finally:
        kill_tree(process.pid)
    assert process.returncode == 1 and "monosem.errors.Interrupted" in text
    shuffle(source, str(out), run_inline)
    assert (out / "manifest.json").read_bytes() == plain


def test_an_error_of_a_task_arrives_as_itself(tmp_path):
    dataset = write_source(LocalStore(str(tmp_path / "copy")), rows=ROWS)
    victim = tmp_path / "copy" / dataset.manifest.shards[5].name
    victim.write_bytes(victim.read_bytes()[:-2000])
    process = start(str(tmp_path / "copy"), tmp_path / "out", 0.0)
    try:
        text, _ = process.communicate(timeout=120)
    finally:
        kill_tree(process.pid)
    last = text.strip().splitlines()[-1]
    assert process.returncode == 1 and last.startswith("monosem.errors.IntegrityError"), text
    assert dataset.manifest.shards[5].name in last
