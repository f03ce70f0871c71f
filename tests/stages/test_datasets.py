"""Sweeps that write datasets and read them: the same bits as streaming, or a clear refusal."""

import numpy as np
import pytest
import torch

from monosem.dataset.manifest import open_dataset
from monosem.dataset.rows import DatasetRows
from monosem.dataset.shuffle import run_inline, run_shuffle
from monosem.dataset.writer import DatasetWriter, Plan
from monosem.host.transformer import OneLayerTransformer
from monosem.stages.listing import all_rows
from monosem.store.plain import unpack_json
from monosem.store.store import open_store
from tests.conftest import Killed, digests, dying_after, run_cli

TWO = "host.hook_point=[mlp.post,resid_mid]"


def record(store, run: str) -> dict:
    uri = next(row["uri"] for row in all_rows(open_store(str(store))) if row["run"] == run)
    return unpack_json(open_store(uri).get("monosem.json"), run)


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tiny_host, text_file):
    """(job file, store with the live sweep `tiny`, URI of the harvested dataset)."""
    directory = tmp_path_factory.mktemp("rows")
    job = directory / "job.yaml"
    job.write_text(
        f"""
name: tiny
store: {directory / "store"}
host: {{model: {tiny_host}, hook_point: mlp.post}}
corpus: {{source: {text_file}, context_length: 32, heldout_fraction: 0.1}}
stream: {{rows_per_context: 16, shuffle_rows: 1024, contexts_per_item: 4}}
sae: {{expansion_factor: [1, 4], l1_coefficient: 0.001}}
train: {{steps: 60, batch_size: 64, lr: 0.003, resample_steps: [20, 40], resample_window: 10,
         resample_rows: 256, init_rows: 256, checkpoint_every: 10, log_every: 5}}
learner: {{threads: 1}}
evaluate: {{contexts: 8, rows: 256}}
dataset: {{shard_rows: 1000}}
track: {{wandb: disabled}}
features: {{enabled: false}}
"""
    )
    assert run_cli("sweep", job, TWO, "--inline") == 0
    assert run_cli("harvest", job, TWO, "--inline") == 0
    return job, directory / "store", directory / "store/activations/tiny"


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_a_dataset_gives_the_bits_of_the_stream(rows, tmp_path, codec):
    job, live, _ = rows
    tee = f"stream.tee={tmp_path / 'tee'}"
    assert run_cli("sweep", job, TWO, f"store={tmp_path / 'a'}", tee, f"dataset.codec={codec}", "--inline") == 0
    assert run_cli("sweep", job, TWO, f"store={tmp_path / 'b'}", f"stream.from={tmp_path / 'tee'}", "--inline") == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(live)
    for run in digests(live):
        assert record(live, run)["rows_digest"] == record(tmp_path / "b", run)["rows_digest"]


def test_a_live_sweep_goes_on_from_a_dataset_and_back(rows, tmp_path):
    """The same rows from another place are the same sweep."""
    job, live, dataset = rows
    with dying_after(25):
        run_cli("sweep", job, TWO, f"store={tmp_path}", "--inline")
    assert run_cli("sweep", job, TWO, f"store={tmp_path}", f"stream.from={dataset}", "--inline") == 0
    assert digests(tmp_path) == digests(live)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 7])
def test_a_harvest_killed_before_any_write_goes_on(rows, tmp_path, monkeypatch, at):
    from monosem.store.store import LocalStore

    job, _, dataset = rows
    put, writes = LocalStore.put, []

    def dying(self, path, data):
        if "mlp.post" in path or "shards" in path:
            writes.append(path)
            if len(writes) == at:
                raise Killed
        put(self, path, data)

    tee = f"stream.tee={tmp_path / 'tee'}"
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", dying)
        with pytest.raises(Killed):
            run_cli("harvest", job, f"store={tmp_path / 's'}", tee, "--inline")
    assert run_cli("harvest", job, f"store={tmp_path / 's'}", tee, "--inline") == 0
    assert (tmp_path / "tee/mlp.post/manifest.json").read_bytes() == (dataset / "mlp.post/manifest.json").read_bytes()


def test_a_tee_that_was_killed_is_whole_in_the_end(rows, tmp_path):
    job, _, dataset = rows
    arguments = ("sweep", job, TWO, f"store={tmp_path / 's'}", f"stream.tee={tmp_path / 'tee'}", "--inline")
    with dying_after(35):
        run_cli(*arguments)
    assert run_cli(*arguments) == 0
    for point in ("mlp.post", "resid_mid"):
        assert (tmp_path / f"tee/{point}/manifest.json").read_bytes() == (dataset / point / "manifest.json").read_bytes()


def test_any_range_of_the_stream(rows, tmp_path):
    job, _, dataset = rows
    part = ("dataset.first_row=1234", "dataset.rows=500", f"stream.tee={tmp_path / 'part'}")
    assert run_cli("harvest", job, f"store={tmp_path / 's'}", *part, "--inline") == 0
    whole = DatasetRows(open_dataset(str(dataset), "mlp.post"))
    some = DatasetRows(open_dataset(str(tmp_path / "part"), "mlp.post"))
    assert torch.equal(some.rows(1234, 1734), whole.rows(1234, 1734))


@pytest.mark.parametrize(
    "change, says",
    [
        ("seed=1", "made with seed=0, this job has 1"),
        ("stream.rows_per_context=8", "made with stream.rows_per_context=16"),
        ("corpus.max_tokens=20000", "made with corpus.digest="),
        ("host.hook_point=attn.z", "no attn.z/manifest.json"),
        ("train.steps=61", "holds rows 0 to 3,840, the sweep reads 0 to 3,904"),
        ("stream.tee=./x", "give one of them"),
    ],
)
def test_a_dataset_of_other_rows_is_refused(rows, tmp_path, capfd, change, says):
    job, _, dataset = rows
    assert run_cli("sweep", job, f"store={tmp_path}", f"stream.from={dataset}", change, "--inline") == 2
    err = capfd.readouterr().err
    assert says in err and "Traceback" not in err


def test_a_place_that_holds_another_dataset_is_left_alone(rows, tmp_path, capfd):
    job, _, dataset = rows
    before = (dataset / "mlp.post/manifest.json").read_bytes()
    assert run_cli("harvest", job, f"stream.tee={dataset}", "seed=5", f"store={tmp_path}", "--inline") == 2
    assert "another activation dataset is there" in capfd.readouterr().err
    assert (dataset / "mlp.post/manifest.json").read_bytes() == before
    assert run_cli("harvest", job, TWO, "--inline") == 0  # the same one again: nothing to do


def test_rounded_rows_make_another_sweep_and_say_so(rows, tmp_path, capfd):
    job, live, _ = rows
    tee = f"stream.tee={tmp_path / 'int8'}"
    assert run_cli("harvest", job, f"store={tmp_path / 's'}", tee, "dataset.codec=int8", "--inline") == 0
    assert "FVU of rounding" in capfd.readouterr().out
    assert run_cli("sweep", job, f"store={live}", f"stream.from={tmp_path / 'int8'}", "--inline") == 2
    assert "already holds a sweep of this name" in capfd.readouterr().err
    assert run_cli("sweep", job, f"store={tmp_path / 's'}", f"stream.from={tmp_path / 'int8'}", "--inline") == 0
    manifest = open_dataset(str(tmp_path / "int8"), "mlp.post").manifest
    assert record(tmp_path / "s", "1x")["stream"]["dataset"] == manifest.digest
    assert 0 < manifest.error["fvu"] < 1e-3


def test_rows_of_ones_own(rows, tmp_path, capfd):
    """A dataset whose order is its own trains a dictionary; its digest is in the lineage."""
    job, _, dataset = rows
    some = DatasetRows(open_dataset(str(dataset), "mlp.post")).rows(0, 3840).numpy()
    plan = Plan(40, 3840, 0, "raw", 1000, {"kind": "file", "imported": "by hand"})
    writer = DatasetWriter(open_store(str(tmp_path)), "mine", plan)
    writer.add(some[::-1])
    digest = writer.finish().manifest.digest
    assert run_cli("sweep", job, f"store={tmp_path / 's'}", f"stream.from={tmp_path / 'mine'}", "--inline") == 0
    assert "do not say what they are of; they are taken as mlp.post" in capfd.readouterr().out
    assert record(tmp_path / "s", "4x")["stream"]["dataset"] == digest


def shuffle(dataset, out, seed: int, point: str, below: str | None = None) -> None:
    place = open_store(str(out)), below or point
    run_shuffle(open_dataset(str(dataset), point), *place, seed, 2**29, 1, run_inline)


def test_shuffled_rows_are_those_of_the_hook_point_and_the_text(rows, tmp_path, capfd):
    """Their order is their own: it may be of another seed than the job's. Host, hook point and text may not."""
    job, _, dataset = rows
    shuffle(dataset, tmp_path / "good", 3, "mlp.post")
    shuffle(dataset, tmp_path / "bad", 3, "resid_mid", "attn.out")
    sweep = ("sweep", job, "--inline", f"store={tmp_path / 's'}", "features.enabled=false")
    assert run_cli(*sweep, f"stream.from={tmp_path / 'good'}", "seed=5") == 0
    capfd.readouterr()
    for change, says in (
        ((f"stream.from={tmp_path / 'bad'}", "host.hook_point=attn.out"), "holds rows of resid_mid, this job reads attn"),
        ((f"stream.from={tmp_path / 'good'}", "corpus.max_tokens=20000"), "made with corpus.digest="),
        ((f"stream.from={tmp_path / 'good/mlp.post'}", TWO), "is one dataset, this job reads mlp.post, resid_mid"),
    ):
        assert run_cli(*sweep, "name=other", *change) == 2
        *_, last = capfd.readouterr().err.splitlines()
        assert says in last and last.startswith("monosem: stream.from=")


def test_rows_of_a_transcoder_belong_together(rows, tmp_path, capfd):
    job, _, dataset = rows
    pair = ("host.hook_point=resid_mid", "sae.target=mlp.post")
    sweep = ("sweep", job, "--inline", f"store={tmp_path / 's'}", *pair)
    for out, seed in (("same", 3), ("other", 4)):
        shuffle(dataset, tmp_path / out, 3, "resid_mid")
        shuffle(dataset, tmp_path / out, seed, "mlp.post")
    assert run_cli(*sweep, f"stream.from={tmp_path / 'same'}") == 0
    capfd.readouterr()
    assert run_cli(*sweep, "name=other", f"stream.from={tmp_path / 'other'}") == 2
    err = capfd.readouterr().err
    assert "do not belong together" in err and "shuffle seed is 3 and 4" in err and err.count("\n") == 1


def test_masked_rows_are_counted_and_harm_nothing(tiny_job, tmp_path, monkeypatch):
    """Some contexts overflow: their rows count for nothing, are counted, and the run ends well; twice the same."""
    capture = OneLayerTransformer.capture

    def overflowing(self, tokens, points):
        found = {name: x.clone() for name, x in capture(self, tokens, points).items()}
        bad = (tokens.sum(dim=1) % 7 == 0)[:, None] & (torch.arange(tokens.shape[1]) % 3 == 0)[None, :]
        for x in found.values():
            x[bad] = float("inf")
        return found

    monkeypatch.setattr(OneLayerTransformer, "capture", overflowing)
    for name in "ab":
        assert run_cli("sweep", tiny_job, f"store={tmp_path / name}", "--inline") == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    masked = {run: record(tmp_path / "a", run)["masked_rows"] for run in ("1x", "4x")}
    assert masked["1x"] == masked["4x"] > 20
    tee = f"stream.tee={tmp_path / 'tee'}"
    assert run_cli("harvest", tiny_job, f"store={tmp_path / 'c'}", tee, "--inline") == 0
    assert open_dataset(str(tmp_path / "tee"), "mlp.post").manifest.masked == masked["1x"]
    assert run_cli("sweep", tiny_job, f"store={tmp_path / 'd'}", f"stream.from={tmp_path / 'tee'}", "--inline") == 0
    assert digests(tmp_path / "d") == digests(tmp_path / "a")
    metrics = record(tmp_path / "a", "4x")["metrics"]
    assert all(np.isfinite(v) for v in metrics.values() if isinstance(v, float)) and metrics["heldout_rows"] < 256


def test_a_host_that_makes_nothing_finite_ends_the_run_with_the_reason(tiny_job, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        OneLayerTransformer,
        "capture",
        lambda self, tokens, points: {n: torch.full((*tokens.shape, self.width(n)), float("nan")) for n in points},
    )
    assert run_cli("sweep", tiny_job, "--inline") == 1
    assert "are masked: the host gave NaN or infinity" in capfd.readouterr().out


def test_harvests_of_two_hook_points_go_to_one_place(tiny_job, tmp_path):
    for store, point in (("s", "mlp.post"), ("s", "resid_mid"), ("t", "mlp.post")):
        more = (f"host.hook_point={point}", f"stream.tee={tmp_path / 'tee'}", f"store={tmp_path / store}", f"name={point}")
        assert run_cli("harvest", tiny_job, *more, "--inline") == 0
    assert {"mlp.post", "resid_mid"} <= {p.name for p in (tmp_path / "tee").iterdir()}
