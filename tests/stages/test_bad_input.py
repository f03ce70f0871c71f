"""Wrong input through the command line: one line, exit code 2, nothing started, nothing lost."""

import json
import os
from pathlib import Path

import pytest

from monosem.plan.cost import GroupShape
from monosem.plan.memory import rank_memory
from monosem.sae.config import SaeConfig
from monosem.stages import executor
from monosem.stages.budget import GIB, Gpu
from tests.conftest import run_cli

CASES = [
    ("train.stpes=3", "did you mean train.steps"),
    ("train.steps=soon", "train.steps"),
    ("train.steps=???", "is no value"),
    ("recipe=${{nowhere}}", "Interpolation key 'nowhere' not found"),
    ("train.batch_size=0", "train.batch_size=0: must be at least 1"),
    ("train.batch_size=-64", "must be at least 1"),
    ("train.batch_size=1000000", "the whole stream has"),
    ("train.lr=0", "must be greater than 0"),
    ("sae.expansion_factor=1000000", "GiB"),
    ("sae.expansion_factor=[1,1]", "the same value twice"),
    ("sae.l1_coefficient=-1", "must be at least 0"),
    ("host.hook_point=mlp.pots", "did you mean mlp.post"),
    ("host.model=one-layer-x", "not a bundled host"),
    ("host.model=/nowhere/at/all", "no host there"),
    ("corpus.source=/nowhere/*.txt", "no such file"),
    ("corpus.source={empty}", "too little text"),
    ("corpus.context_length=33", "takes at most 32"),
    ("corpus.text_column=body", "too little text"),
    ("stream.rows_per_context=64", "at most corpus.context_length"),
    ("stream.shuffle_rows=10", "stream.shuffle_rows=10: shuffle_rows must be at least rows_per_context"),
    ("stream.shuffle_rows=5000000", "lower stream.shuffle_rows"),
    ("stream.shuffle_rows=10000000000", "this machine has"),
    ("stream.skip_positions=31", "stream.rows_per_context=16"),
    ("host.hook_point=[mlp.post,blocks.0.mlp.hook_post]", "the same point as 'mlp.post'"),
    ("host.hook_point=blocks.1.mlp.post", "must be one of"),
    ("host.precision=bf16", "only for Hugging Face hosts"),
    ("host.revision=main", "only for Hugging Face hosts"),
    ("corpus.bos=true", "no begin-of-text token"),
    ("stream.from=nowhere", "no activation dataset there"),
    ("stream.form=x", "did you mean stream.from?"),
    ("dataset.codec=int4", "must be one of raw, zstd, bf16, int8"),
    ("train.resample_steps=[100]", "is not before train.steps"),
    ("train.resample_steps=[9,40]", "at step 9 no feature can have been silent for train.resample_window=10 steps"),
    ("learner.slots=7", "must divide"),
    ("store={file}", "not writable"),
    ("store=gopher://x", "gopher"),
    ("store=${{oc.env:HOME}}", "is refused"),
    ("name=a/b", "use 1 to 64 letters"),
]


@pytest.mark.parametrize("override, says", CASES, ids=[c[0] for c in CASES])
def test_one_line_exit_code_2_and_nothing_started(tiny_job, tmp_path, capfd, override, says):
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "file").write_text("")
    override = override.format(empty=tmp_path / "empty.txt", file=tmp_path / "file")
    assert run_cli("sweep", tiny_job, override, "--inline") == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("monosem:")]
    assert len(lines) == 1 and says in lines[0], captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    assert not list((tmp_path / "store").rglob("sweep.json"))


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["sweep"], "required: JOB.yaml"),
        (["swep"], "did you mean sweep?"),
        (["pull", "/nowhere", "out", "--format", "saelen"], "did you mean saelens?"),
        (["sweep", "nowhere.yaml"], "no such job file"),
        (["sweep", "/dev/null"], "is empty"),
        (["sweep", "{job}", "--inline", "features.enabled=true", "features.compare=[/nowhere]"], "no finished dictionary there"),
        (["rubric", "{job}", "{job}"], "give the answers first"),
        (["sweep", "{job}", "--inlin"], "unrecognized argument '--inlin'"),
        (["sweep", "{job}", "--address", "http://127.0.0.1:8265"], "write auto, or HOST:PORT"),
        (["sweep", "{job}", "--address", "127.0.0.1:9"], "--address 127.0.0.1:9: no Ray answers there"),
        (["plan", "{job}", "--address", "127.0.0.1:70000"], "--address 127.0.0.1:70000"),
        (["sweep", "{job}", "nonsense"], "write key=value"),
        (["runs", "/nowhere"], "no sweeps there"),
        (["pull", "/nowhere", "out"], "no finished dictionary there"),
        (["evaluate", "/nowhere"], "no finished dictionary there"),
        (["resume", "/nowhere/x"], "no sweep 'x'"),
        (["submit", "{job}", "--address", "127.0.0.1:1"], "write the dashboard's URL"),
        (["status", "x", "--address", "http://127.0.0.1:9"], "no Ray dashboard answers"),
    ],
)
def test_wrong_commands(tiny_job, capfd, arguments, says):
    assert run_cli(*[a.format(job=tiny_job) for a in arguments]) == 2
    err = capfd.readouterr().err
    assert says in err and len(err.strip().splitlines()) == 1


def test_another_config_under_the_same_name(tiny_job, tmp_path, capfd):
    assert run_cli("sweep", tiny_job, "train.steps=2", "train.resample_steps=[]", "--inline") == 0
    manifest = (tmp_path / "store/sweeps/tiny/sweep.json").read_bytes()
    assert run_cli("sweep", tiny_job, "train.steps=3", "train.resample_steps=[]", "--inline") == 2
    err = capfd.readouterr().err
    assert "already holds a sweep of this name with train.steps=2 (this job: 3)" in err
    assert (tmp_path / "store/sweeps/tiny/sweep.json").read_bytes() == manifest


def test_pull_overwrites_nothing(tiny_job, tmp_path, capfd):
    run_cli("sweep", tiny_job, "train.steps=2", "train.resample_steps=[]", "--inline")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("keep")
    uri = tmp_path / "store/sweeps/tiny/runs/1x"
    assert run_cli("pull", uri, tmp_path / "full") == 2
    assert os.listdir(tmp_path / "full") == ["mine.txt"]
    weights = uri / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert run_cli("pull", uri, tmp_path / "new") == 1
    assert "does not match its digest" in capfd.readouterr().err


def test_a_run_that_is_not_there_is_told_beside_those_that_are(tmp_path, capfd):
    for name in ("1x", "8x"):
        (tmp_path / f"sweeps/s/runs/{name}").mkdir(parents=True)
    assert run_cli("pull", tmp_path / "sweeps/s/runs/8", tmp_path / "out") == 2
    assert "runs of this sweep: 1x, 8x" in capfd.readouterr().err


def test_help_has_examples_and_exit_codes(capfd):
    for verb in ("sweep", "resume", "submit", "status", "logs", "stop", "pretrain", "evaluate", "runs", "pull"):
        with pytest.raises(SystemExit) as ended:
            run_cli(verb, "--help")
        out = capfd.readouterr().out
        assert ended.value.code == 0 and "example:" in out and "exit codes:" in out
        assert max(map(len, out.splitlines())) <= 110


def test_json_and_nothing_else_on_stdout(tiny_job, tmp_path, capfd):
    run_cli("sweep", tiny_job, "train.steps=2", "train.resample_steps=[]", "--inline")
    capfd.readouterr()
    assert run_cli("runs", tmp_path / "store", "--json") == 0
    assert len(json.loads(capfd.readouterr().out)) == 2
    assert run_cli("evaluate", Path(tmp_path / "store/sweeps/tiny/runs/4x"), "--json") == 0
    again = json.loads(capfd.readouterr().out)
    stored = json.loads((tmp_path / "store/sweeps/tiny/runs/4x/monosem.json").read_text())["metrics"]
    assert again == stored
    (tmp_path / "store/sweeps/tiny/runs/4x/monosem.json").write_text('{"metr')
    assert run_cli("runs", tmp_path / "store", "--json") == 1
    listed = capfd.readouterr()
    assert [row["state"] for row in json.loads(listed.out)] == ["finished", "damaged"]
    assert "tiny/runs/4x/monosem.json: not valid JSON" in listed.err and listed.err.count("\n") == 1
    assert run_cli("runs", tmp_path / "store") == 1 and "damaged" in capfd.readouterr().out


@pytest.mark.parametrize("inline", [["--inline"], []])
def test_a_gpu_with_too_little_memory_is_told_before_anything_starts(tiny_job, tmp_path, monkeypatch, capfd, inline):
    monkeypatch.setattr(executor, "gpu_here", lambda: Gpu("NVIDIA L4", 2 * 10**9))
    assert run_cli("sweep", tiny_job, *inline) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "NVIDIA L4 has 1.9 free" in err and "train.batch_size" in err
    assert not (tmp_path / "store/sweeps").exists()


def test_a_gpu_with_room_is_no_obstacle(tiny_job, monkeypatch):
    monkeypatch.setattr(executor, "gpu_here", lambda: Gpu("NVIDIA H200", 140 * 10**9))
    assert run_cli("sweep", tiny_job, "--inline") == 0


def test_what_a_gpu_needs_grows_with_the_batch_and_is_near_what_was_measured():
    """5.06 GiB at 131,072 features, batches of 8,192, sparse steps (`tests/bench/RESULTS.md`): in use, not reserved."""
    sae = SaeConfig(d_in=512, d_sae=131_072, variant="relu")
    one = rank_memory(sae, 8192, GroupShape(), "bf16", 1 / 16, False, 21, gpu=True)
    assert 0.8 < one.on_device / (5.06 * GIB) <= 1.15
    assert rank_memory(sae, 16384, GroupShape(), "bf16", 1 / 16, False, 21, gpu=True).work == 2 * one.work
