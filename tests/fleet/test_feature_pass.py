"""The feature pass on two nodes: the tables of one process, though a process dies in the middle of a task."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import run_cli
from tests.fleet import sweeps
from tests.fleet.nodes import two_nodes
from tests.fleet.processes import kill_one, wait_until

FINE = ("features.slice_tokens=64", "features.slice_features=48", "features.top=5")
"""Many small tasks."""


@pytest.fixture(scope="module")
def trained(job, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("trained")
    short = ("host.hook_point=mlp.post", "train.steps=40", "train.resample_steps=[]", "features.enabled=false")
    assert run_cli("sweep", str(job), "--inline", f"store={store}", *short) == 0
    return store


def copy_of(trained: Path, to: Path) -> Path:
    """The same sweep in another place."""
    return Path(shutil.copytree(trained, to))


def tables(store: Path) -> dict[str, bytes]:
    found = [p for p in store.rglob("*") if p.is_file() and "features" in p.parts and "work" not in p.parts]
    return {str(p.relative_to(store)): p.read_bytes() for p in found}


def test_two_nodes_leave_the_tables_of_one_process_though_a_process_dies(trained, tmp_path):
    alone, there = copy_of(trained, tmp_path / "alone"), copy_of(trained, tmp_path / "there")
    assert run_cli("features", f"{alone}/tiny", *FINE) == 0
    with two_nodes() as nodes:
        # Nine, of which four find room: the others wait, and nothing waits for them.
        process = sweeps.start(nodes, "features", f"{there}/tiny", *FINE, "stream.workers=9")
        wait_until(lambda: list(there.rglob("rows/*.safetensors")), seconds=120)
        kill_one(nodes.processes[1].pid, "ray::FeatureWorker.run")
        out = sweeps.finish(process)
        assert "features: " in out and "Traceback" not in out
        too_much = sweeps.start(nodes, "features", f"{trained}/tiny", "features.slice_tokens=4_000_000_000")
        said = too_much.communicate(timeout=120)[0].strip().splitlines()
        too_wide = sweeps.start(nodes, "features", f"{there}/tiny", *FINE, "features.top=6", "learner.threads=3")
        assert "learner.threads=3: the largest node gives 2 CPUs" in too_wide.communicate(timeout=120)[0]
    wanted = tables(alone)
    assert len(wanted) > 10 and tables(there) == wanted
    assert too_much.returncode == 2 and "features.slice_tokens" in said[-1] and "the largest node gives" in said[-1]
