"""Sweeps on a real Ray: any number of actors, and deaths of each kind, end with the inline run's bits."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import digests, run_cli
from tests.fleet.processes import kill_one, kill_tree, wait_until
from tests.fleet.sweeps import newest_checkpoint, start_here

LONG = ("train.steps=500", "train.resample_steps=[60,120]", "train.checkpoint_every=20")


@pytest.fixture
def inline_digests(tiny_job, tmp_path) -> dict[str, str]:
    assert run_cli("sweep", tiny_job, *LONG, f"store={tmp_path / 'inline'}", "--inline") == 0
    return digests(tmp_path / "inline")


def start(job: Path, *more: object) -> subprocess.Popen:
    return start_here(job, *LONG, *more)


@pytest.mark.parametrize("pack", ["learner.pack_parameters=0", "learner.pack_parameters=1000000"])
def test_workers_shards_and_packs_leave_no_trace(tiny_job, tmp_path, inline_digests, pack):
    store = tmp_path / "store"
    process = start(tiny_job, f"store={store}", "stream.workers=3", "stream.shards=2", pack)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, out
    assert digests(store) == inline_digests


def test_deaths_of_a_worker_a_shard_and_a_learner_leave_no_trace(tiny_job, tmp_path, inline_digests):
    store = tmp_path / "store"
    process = start(tiny_job, f"store={store}", "stream.workers=2", "stream.shards=2", "learner.pack_parameters=0")
    try:
        for name in ("ModelWorker", "BufferShard", "LearnerActor"):
            step = newest_checkpoint(store)
            wait_until(lambda step=step: newest_checkpoint(store) > step)
            kill_one(process.pid, f"ray::{name}")
        out, _ = process.communicate(timeout=180)
    finally:
        kill_tree(process.pid)
    assert process.returncode == 0, out
    for kind in ("worker", "shard", "learner"):
        assert f"monosem: {kind}" in out and "starting a successor" in out
    assert digests(store) == inline_digests


def test_killing_the_whole_tree_and_the_same_command_again(tiny_job, tmp_path, inline_digests):
    store = tmp_path / "store"
    process = start(tiny_job, f"store={store}")
    wait_until(lambda: newest_checkpoint(store) >= 60)
    kill_tree(process.pid)
    process.communicate()
    again = start(tiny_job, f"store={store}", "stream.workers=2")
    out, _ = again.communicate(timeout=180)
    assert again.returncode == 0, out
    assert digests(store) == inline_digests


def test_sigterm_leaves_checkpoints_and_exit_code_3(tiny_job, tmp_path):
    store = tmp_path / "store"
    process = start(tiny_job, f"store={store}", "train.steps=100000")
    try:
        wait_until(lambda: newest_checkpoint(store) >= 20)
        process.terminate()
        out, _ = process.communicate(timeout=90)
    finally:
        kill_tree(process.pid)
    assert process.returncode == 3 and "the same command resumes" in out


def test_too_many_actors_for_the_cluster_is_an_input_error(tiny_job, tmp_path):
    """Five workers share a CPU, so this is one shard and one learner too many, on little memory."""
    process = start(tiny_job, f"store={tmp_path / 'store'}", f"stream.workers={5 * os.cpu_count()}")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "the cluster has" in out


def test_more_workers_than_memory_are_refused_before_ray_starts(tiny_job, tmp_path):
    process = start(tiny_job, f"store={tmp_path / 'store'}", "stream.workers=4096")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and out.startswith("monosem: stream.workers: the sweep needs ")
