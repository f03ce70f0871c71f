"""A node of the cluster is lost while a sweep runs on it: the others finish the sweep, with the same bits."""

from tests.conftest import run_cli
from tests.fleet.nodes import two_nodes
from tests.fleet.processes import descendants, wait_until
from tests.fleet.sweeps import finish, records, start

LONG = ("train.steps=600", "train.checkpoint_every=20", "stream.workers=2", "stream.shards=2")


def test_a_node_lost_in_the_middle_leaves_no_trace(job, tmp_path):
    assert run_cli("sweep", job, *LONG, f"store={tmp_path / 'inline'}", "--inline") == 0
    with two_nodes() as nodes:
        process = start(nodes, "sweep", job, *LONG, f"store={tmp_path / 'store'}")
        wait_until(lambda: any((tmp_path / "store").rglob("checkpoints/log/*.json")))
        there = " ".join(descendants(nodes.processes[1].pid).values())
        assert "ray::ModelWorker" in there or "ray::BufferShard" in there
        nodes.kill(1)
        out = finish(process)
    assert "died" in out
    assert records(tmp_path / "store") == records(tmp_path / "inline")
