"""The whole job in one process: what it leaves, that it resumes, and that nothing shows in the bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import monosem
from monosem.learn.run import Run
from monosem.stages.listing import COLUMNS, all_rows
from monosem.store.checkpoints import CheckpointLog
from monosem.store.store import open_store
from tests.conftest import Killed, digests, dying_after, run_cli


@pytest.fixture
def undisturbed(tiny_job, tmp_path) -> dict[str, str]:
    assert run_cli("sweep", tiny_job, f"store={tmp_path / 'undisturbed'}", "--inline") == 0
    return digests(tmp_path / "undisturbed")


def test_what_a_sweep_leaves(tiny_job, tmp_path, capfd):
    assert run_cli("sweep", tiny_job, "--inline") == 0
    out = capfd.readouterr().out
    assert "loss" not in out.splitlines()[0] and "features" in out and "summary:" in out
    assert max(map(len, [line for line in out.splitlines() if "finished" in line])) <= 80
    rows = all_rows(open_store(str(tmp_path / "store")))
    assert [row["run"] for row in rows] == ["1x", "4x"]
    for row in rows:
        assert set(COLUMNS) <= set(row) and row["state"] == "finished"
        assert (row["step"], row["rows"]) == (60, 60 * 64) and row["d_sae"] == 40 * row["expansion_factor"]
        assert 0 < row["fvu"] < 1.5 and row["loss_recovered"] is not None and len(row["digest"]) == 64
        left = sorted(p.name for p in Path(row["uri"]).iterdir() if p.is_file())
        assert left == ["cfg.json", "metrics.jsonl", "monosem.json", "sae_weights.safetensors", "sparsity.safetensors"]
        assert not list(Path(row["uri"]).rglob("log/*")) and not list(Path(row["uri"]).rglob("objects/*"))
    page = (tmp_path / "store/sweeps/tiny/summary.html").read_text()
    assert page.count("<svg") == 4 and "4x" in page and "http-equiv" in page and "src=" not in page


def test_the_training_curve_is_whole(tiny_job, tmp_path):
    run_cli("sweep", tiny_job, "--inline")
    lines = (tmp_path / "store/sweeps/tiny/runs/4x/metrics.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    assert [p["step"] for p in points if "loss" in p] == list(range(5, 61, 5))
    assert [p["step"] for p in points if "resampled" in p] == [20, 40]


def test_running_it_again_does_nothing(tiny_job, tmp_path, capfd):
    run_cli("sweep", tiny_job, "--inline")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store/sweeps").rglob("*") if p.is_file()}
    capfd.readouterr()
    assert run_cli("sweep", tiny_job, "--inline", "stream.workers=2", "train.checkpoint_every=7") == 0
    assert "all 2 runs are finished" in capfd.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store/sweeps").rglob("*") if p.is_file()} == before


def test_what_a_kill_leaves_beside_a_finished_run_goes_when_the_sweep_is_run_again(tiny_job, tmp_path):
    """Killed between monosem.json and the end of clearing up."""

    def dying(self):
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CheckpointLog, "clear", dying)
        run_cli("sweep", tiny_job, "sae.expansion_factor=4", "--inline")
    at = tmp_path / "store/sweeps/tiny/runs/4x"
    (at / "failed.json").write_text("{}")  # of an attempt before
    before = digests(tmp_path / "store")
    assert (at / "monosem.json").exists() and list(at.rglob("log/*")) and list(at.rglob("curve/*"))
    for _ in range(2):
        assert run_cli("sweep", tiny_job, "sae.expansion_factor=4", "--inline") == 0
        left = sorted(p.name for p in at.rglob("*") if p.is_file())
        assert left == ["cfg.json", "metrics.jsonl", "monosem.json", "sae_weights.safetensors", "sparsity.safetensors"]
    assert digests(tmp_path / "store") == before


def test_a_run_alone_has_the_bits_it_has_in_company(tiny_job, tmp_path, undisturbed):
    run_cli("sweep", tiny_job, "sae.expansion_factor=4", f"store={tmp_path / 'alone'}", "--inline")
    assert digests(tmp_path / "alone") == {"4x": undisturbed["4x"]}


def test_other_seeds_have_other_bits(tiny_job, tmp_path, undisturbed):
    for number, override in enumerate(("seed=1", "sae.seed=1")):
        run_cli("sweep", tiny_job, override, f"store={tmp_path / str(number)}", "--inline")
        assert not set(digests(tmp_path / str(number)).values()) & set(undisturbed.values())


@pytest.mark.parametrize("step", [1, 9, 10, 11, 20, 21, 41, 59, 60])
def test_dying_at_any_step_changes_no_bit(tiny_job, tmp_path, undisturbed, step):
    with dying_after(step, "4x"):
        run_cli("sweep", tiny_job, "--inline")
    assert run_cli("sweep", tiny_job, "--inline") == 0
    assert digests(tmp_path / "store") == undisturbed
    lines = (tmp_path / "store/sweeps/tiny/runs/4x/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "loss" in line] == list(range(5, 61, 5))


WRITES = ["put", "create", "delete"]


@pytest.mark.parametrize("when", range(0, 60, 6))
def test_dying_at_any_write_to_the_store_changes_no_bit(tiny_job, tmp_path, undisturbed, monkeypatch, when):
    """Kill before the n-th change of the store: between objects and records, in the final writes, while tidying."""
    from monosem.store.store import LocalStore

    count = 0
    for name in WRITES:

        def dying(self, *args, original=getattr(LocalStore, name)):
            nonlocal count
            count += 1
            if count == when + 7:  # the first few belong to the corpus
                raise Killed
            return original(self, *args)

        monkeypatch.setattr(LocalStore, name, dying)
    with pytest.raises(Killed):
        run_cli("sweep", tiny_job, "--inline")
    monkeypatch.undo()
    assert run_cli("sweep", tiny_job, "--inline") == 0
    assert digests(tmp_path / "store") == undisturbed
    assert not list((tmp_path / "store/sweeps").rglob("objects/*"))


def start(job: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "monosem", "sweep", str(job), "--inline", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(path.rglob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigkill_and_the_same_command_again(tiny_job, tmp_path):
    long = ("train.steps=400", "train.resample_steps=[50,100]")
    assert run_cli("sweep", tiny_job, *long, f"store={tmp_path / 'u'}", "--inline") == 0
    process = start(tiny_job, *long)
    wait_for(tmp_path / "store", "checkpoints/log/*50.json")
    process.kill()
    process.wait()
    rows = all_rows(open_store(str(tmp_path / "store")))
    assert {row["state"] for row in rows} == {"unfinished"} and rows[0]["digest"] is None
    assert run_cli("sweep", tiny_job, *long, "--inline") == 0
    assert digests(tmp_path / "store") == digests(tmp_path / "u")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_leaves_a_checkpoint_and_exit_code_3(tiny_job, tmp_path, sign):
    process = start(tiny_job, "train.steps=100000")
    wait_for(tmp_path / "store", "checkpoints/log/*.json")
    os.kill(process.pid, sign)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and "monosem: stopped at step" in out and "Traceback" not in out


def test_resume_needs_only_the_store(tiny_job, tmp_path, undisturbed):
    with dying_after(1):
        run_cli("sweep", tiny_job, "--inline")
    tiny_job.unlink()
    assert run_cli("resume", tmp_path / "store/tiny", "--inline") == 0
    assert digests(tmp_path / "store") == undisturbed


def test_a_diverging_run_harms_nobody(tiny_job, tmp_path, undisturbed, capfd):
    original = Run.train_step

    def spoil(self, batch):
        if self.name == "1x" and self.step == 30:
            self.learner.sae.W_enc[0, 0] = float("nan")
        original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train_step", spoil)
        assert run_cli("sweep", tiny_job, "--inline") == 1
    assert "run 1x failed: Diverged" in capfd.readouterr().out
    rows = {row["run"]: row for row in all_rows(open_store(str(tmp_path / "store")))}
    assert rows["1x"]["state"] == "failed" and rows["1x"]["step"] == 30
    assert rows["4x"]["state"] == "finished" and rows["4x"]["digest"] == undisturbed["4x"]
    assert run_cli("sweep", tiny_job, "--inline") == 0  # the next attempt, undisturbed, mends it
    assert digests(tmp_path / "store") == undisturbed


def test_pulled_dictionaries_load_and_are_the_same(tiny_job, tmp_path):
    run_cli("sweep", tiny_job, "--inline")
    uri = tmp_path / "store/sweeps/tiny/runs/4x"
    assert run_cli("pull", uri, tmp_path / "mine") == 0
    x = torch.rand(5, 40)
    assert torch.equal(monosem.load(str(tmp_path / "mine")).encode(x), monosem.load(str(uri)).encode(x))


def test_slots_and_bf16_train_too(tiny_job, tmp_path, undisturbed):
    for number, override in enumerate(("learner.slots=8", "train.precision=bf16")):
        assert run_cli("sweep", tiny_job, override, f"store={tmp_path / str(number)}", "--inline") == 0
        assert not set(digests(tmp_path / str(number)).values()) & set(undisturbed.values())


def test_a_stop_during_the_last_evaluations_is_heeded(tiny_job, tmp_path, monkeypatch, capfd):
    """The first of two runs is finished; the second is trained, and evaluated by the next call."""
    finish = Run.finish

    def stopped(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", stopped)
        assert run_cli("sweep", tiny_job, "--inline") == 3
    states = {row["run"]: row["state"] for row in all_rows(open_store(str(tmp_path / "store")))}
    assert states == {"1x": "finished", "4x": "unfinished"}
    assert run_cli("sweep", tiny_job, "--inline") == 0
    capfd.readouterr()
    (tmp_path / "store/sweeps/half").mkdir()  # what a kill leaves before a sweep's first file
    assert run_cli("runs", tmp_path / "store") == 0 and "half" not in capfd.readouterr().out


def test_a_second_signal_is_no_fault_of_the_run(tiny_job, tmp_path, monkeypatch):
    def stopped(self, *arguments):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", stopped)
        assert run_cli("sweep", tiny_job, "--inline") == 3
    states = {row["run"]: row["state"] for row in all_rows(open_store(str(tmp_path / "store")))}
    assert states == {"1x": "unfinished", "4x": "unfinished"}
