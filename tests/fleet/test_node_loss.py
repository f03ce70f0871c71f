"""A node of the cluster is lost while a sweep runs on it: the others finish the sweep, with the same bits."""

import subprocess
import sys
import time

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


ASKS = """
import sys, time
import ray
ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
from monosem.fleet.spilling import spilled_bytes
print("ready", flush=True)
answers, end = [], time.monotonic() + 8
while time.monotonic() < end:
    answers.append(spilled_bytes())
    time.sleep(0.05)
print(0 in answers)
"""


def test_a_node_that_does_not_answer_is_no_error_of_the_spill_watch():
    """For some seconds Ray believes a lost node alive, and asks it, if that is the one it asks for all."""
    with two_nodes() as nodes:
        command = [sys.executable, "-c", ASKS, nodes.address]
        process = subprocess.Popen(command, env=nodes.environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(1)
        nodes.kill(1)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "True" in out.splitlines(), out  # Ray may print that it lost a raylet, too
