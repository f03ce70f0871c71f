"""The activation plane on a cluster of two nodes: whoever makes the rows, however many, learners see the same."""

import subprocess
import sys

import pytest

from monosem.store.plain import unpack_json
from tests.conftest import run_cli
from tests.fleet.nodes import two_nodes
from tests.fleet.processes import held, wait_until
from tests.fleet.sweeps import finish, newest_checkpoint, records, start

LONG = ("train.steps=300", "train.resample_steps=[60,120]", "train.checkpoint_every=20")
HOOKS = "host.hook_point=[mlp.post,resid_mid]"


@pytest.fixture(scope="module")
def nodes():
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def inline(job, tmp_path_factory) -> dict[str, tuple]:
    store = tmp_path_factory.mktemp("inline")
    assert run_cli("sweep", job, f"store={store}", "--inline") == 0
    return records(store)


@pytest.mark.parametrize("workers, shards", [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)])
def test_any_number_of_workers_and_shards(nodes, job, inline, tmp_path, workers, shards):
    finish(start(nodes, "sweep", job, f"store={tmp_path}", f"stream.workers={workers}", f"stream.shards={shards}"))
    assert records(tmp_path) == inline


def test_from_a_dataset_written_on_the_cluster(nodes, job, inline, tmp_path):
    """harvest on Ray, read inline and on Ray; a tee on Ray writes the same files."""
    out = finish(start(nodes, "harvest", job, f"store={tmp_path / 'a'}", "stream.workers=2", "stream.shards=2"))
    assert "every bit kept" in out
    rows = tmp_path / "a/activations/tiny"
    assert run_cli("sweep", job, f"store={tmp_path / 'b'}", f"stream.from={rows}", "--inline") == 0
    finish(start(nodes, "sweep", job, f"store={tmp_path / 'c'}", f"stream.from={rows}"))
    finish(start(nodes, "sweep", job, f"store={tmp_path / 'd'}", f"stream.tee={tmp_path / 'tee'}"))
    assert records(tmp_path / "b") == records(tmp_path / "c") == records(tmp_path / "d") == inline
    for hook_point in ("mlp.post", "resid_mid"):
        one, two = (unpack_json((p / hook_point / "manifest.json").read_bytes(), "") for p in (rows, tmp_path / "tee"))
        assert one == two


def test_on_a_real_s3_server(job, inline, s3_url):
    """Store, dataset and sweep on the Ceph gateway, made and read on a Ray of its own.

    On a cluster the nodes need the credentials in their environment, which the shared one here has not.
    """
    assert run_cli("harvest", job, f"store={s3_url}", "dataset.codec=zstd", "--inline") == 0
    command = [sys.executable, "-m", "monosem", "sweep", job, f"store={s3_url}"]
    rows = f"stream.from={s3_url}/activations/tiny"
    done = subprocess.run([*map(str, command), rows], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(s3_url) == inline


def test_workers_added_and_taken_away_while_it_runs(nodes, job, tmp_path):
    """A learner is held while workers come and go, so that the sweep cannot end meanwhile however fast it is."""
    more = ("train.steps=300", "learner.pack_parameters=0", "stream.ahead_rows=2048")
    assert run_cli("sweep", job, f"store={tmp_path / 'inline'}", *more, "--inline") == 0
    store = tmp_path / "store"
    process = start(nodes, "sweep", job, f"store={store}", *more, "stream.shards=2")
    seen = 0
    for workers in (3, 1, 2):
        wait_until(lambda seen=seen: newest_checkpoint(store) > seen)
        with held(nodes.processes[0].pid, "ray::LearnerActor"):
            assert run_cli("scale", f"{store}/tiny", "--workers", workers) == 0
        seen = newest_checkpoint(store)
    assert process.poll() is None and seen < 300
    out = finish(process)
    assert "3 model workers asked for, 1 there" in out
    assert records(store) == records(tmp_path / "inline")
    assert run_cli("scale", f"{store}/tiny", "--workers", 2) == 2  # it has ended


def test_every_variant_has_its_bits_on_the_cluster(nodes, job, tmp_path):
    kinds = ("sae.variant=[relu,topk,batch_topk,jumprelu,gated,matryoshka]", "sae.expansion_factor=4", "sae.k=6",
             "sae.l0_coefficient=0.001", "train.input_scale=unit", "train.steps=150", "train.dead_rows=1000")  # fmt: skip
    assert run_cli("sweep", job, *kinds, f"store={tmp_path / 'inline'}", "--inline") == 0
    finish(start(nodes, "sweep", job, *kinds, f"store={tmp_path / 'ray'}", "stream.workers=2", "stream.shards=2"))
    assert records(tmp_path / "ray") == records(tmp_path / "inline") and len(records(tmp_path / "ray")) == 12


def test_transcoders_read_two_hook_points_in_step_on_the_cluster(nodes, job, tmp_path):
    kinds = ("host.hook_point=resid_mid", "sae.target=mlp.out", "sae.skip=true", "sae.expansion_factor=[1,4]",
             "train.steps=130", "train.batch_size=256", "learner.pack_parameters=0")  # fmt: skip
    assert run_cli("sweep", job, *kinds, f"store={tmp_path / 'inline'}", "--inline") == 0
    finish(start(nodes, "sweep", job, *kinds, f"store={tmp_path / 'ray'}", "stream.workers=2", "stream.shards=2"))
    assert records(tmp_path / "ray") == records(tmp_path / "inline") and len(records(tmp_path / "ray")) == 2
