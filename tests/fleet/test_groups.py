"""Learner groups on a real Ray: the inline run's bits on any number of replicas, whichever rank dies."""

import subprocess
import sys

import pytest

from monosem.store.plain import unpack_json
from monosem.store.store import open_store
from tests.conftest import digests, run_cli
from tests.fleet import sweeps
from tests.fleet.nodes import two_nodes
from tests.fleet.processes import kill_one, kill_tree, wait_until
from tests.fleet.sweeps import newest_checkpoint, read_until, start_here

SLOTS = ("learner.slots=4", "train.steps=300", "train.resample_steps=[60,120]", "train.checkpoint_every=20")


@pytest.fixture
def inline_digests(tiny_job, tmp_path) -> dict[str, str]:
    assert run_cli("sweep", tiny_job, *SLOTS, f"store={tmp_path / 'inline'}", "--inline") == 0
    return digests(tmp_path / "inline")


@pytest.mark.parametrize("replicas", [2, 0])  # 0: as many as there are cores for
def test_replicas_leave_no_trace_though_a_rank_dies(tiny_job, tmp_path, inline_digests, replicas):
    store = tmp_path / "store"
    process = start_here(tiny_job, *SLOTS, f"store={store}", f"learner.replicas={replicas}", "learner.threads=1")
    try:
        wait_until(lambda: newest_checkpoint(store) >= 40)
        kill_one(process.pid, "ray::LearnerActor")
        out, _ = process.communicate(timeout=240)
    finally:
        kill_tree(process.pid)
    assert process.returncode == 0, out
    assert "learner" in out and "starting a successor" in out
    assert ("learner.replicas=0: " in out) == (replicas == 0)
    assert digests(store) == inline_digests


def test_parts_follow_the_inline_run(tiny_job, tmp_path, inline_digests):
    """In two parts the bits are others, the result is not; stopped, and gone on with as one part."""
    store = tmp_path / "store"
    process = start_here(tiny_job, *SLOTS, f"store={store}", "learner.feature_shards=2")
    try:
        wait_until(lambda: newest_checkpoint(store) >= 100)
    finally:
        process.terminate()
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 3, out
    assert run_cli("sweep", tiny_job, *SLOTS, f"store={store}", "--inline") == 0
    here, inline = (open_store(str(place)) for place in (store, tmp_path / "inline"))
    for run in ("1x", "4x"):
        path = f"sweeps/tiny/runs/{run}/monosem.json"
        ours, theirs = (unpack_json(place.get(path), path) for place in (here, inline))
        assert ours["rows_digest"] == theirs["rows_digest"]
        assert ours["feature_shards"] == [2, 1] and theirs["feature_shards"] == [1]
        assert ours["metrics"]["fvu"] == pytest.approx(theirs["metrics"]["fvu"], rel=0.01)


ONE_AT_A_TIME = """
import sys
from monosem.cli.main import main
from monosem.stages import executor
executor.groups_at_a_time = lambda needs, have: 1
sys.exit(main(sys.argv[1:]))
"""


def test_learners_that_this_machines_memory_does_not_take_together_train_in_waves(tiny_job, tmp_path, inline_digests):
    values = [*SLOTS, f"store={tmp_path / 'store'}", "learner.pack_parameters=0"]
    command = [sys.executable, "-c", ONE_AT_A_TIME, "sweep", str(tiny_job), *values]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert done.returncode == 0, done.stdout
    assert "1 wait for room" in done.stdout
    assert digests(tmp_path / "store") == inline_digests


def test_more_groups_than_there_is_room_for_train_in_waves(tiny_job, tmp_path, inline_digests):
    store = tmp_path / "store"
    with two_nodes() as nodes:  # four CPUs in all: room for one group of six ranks
        more = ("learner.replicas=4", "learner.pack_parameters=0", "stream.workers=8", "stream.shards=4")
        out = sweeps.finish(sweeps.start(nodes, "sweep", tiny_job, *SLOTS, f"store={store}", *more))
    assert "1 wait for room" in out
    assert digests(store) == inline_digests


def test_ranks_on_two_nodes_and_one_node_lost(tiny_job, tmp_path, inline_digests):
    store = tmp_path / "store"
    with two_nodes() as nodes:
        more = ("learner.replicas=3", "stream.workers=2", "stream.shards=2")
        process = sweeps.start(nodes, "sweep", tiny_job, *SLOTS, f"store={store}", *more)
        wait_until(lambda: newest_checkpoint(store) >= 40, seconds=240)
        nodes.kill(1)
        out = sweeps.finish(process)
    assert "the cluster has 2 CPUs now: 2 of 2 model workers" in out and "in 2 of 3 replicas" in out, out
    assert digests(store) == inline_digests


def test_what_is_left_is_too_small_until_a_node_comes(tiny_job, tmp_path):
    """Parts cannot be fewer without other bits: five of them wait for the CPUs of a second node."""
    store = tmp_path / "store"
    with two_nodes() as nodes:
        process = sweeps.start(nodes, "sweep", tiny_job, *SLOTS, f"store={store}", "learner.feature_shards=5")
        wait_until(lambda: newest_checkpoint(store) >= 20, seconds=240)
        nodes.kill(1)
        said = read_until(process, "waiting for nodes")
        nodes.add()
        out = said + sweeps.finish(process)
    assert "the cluster has 4 CPUs now" in out, out
