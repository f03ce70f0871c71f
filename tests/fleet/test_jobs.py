"""submit, status, logs and stop against a real Ray head with token authentication."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monosem.config.job import SweepJob
from monosem.config.load import load_job, to_plain
from monosem.fleet.jobs import _absolute
from monosem.stages.listing import all_rows
from monosem.store.store import open_store
from tests.conftest import digests, run_cli
from tests.fleet.nodes import free_ports
from tests.fleet.processes import kill_tree, wait_until

LONG = ("train.steps=400", "train.resample_steps=[60,120]", "train.checkpoint_every=20")

LONGER = ("train.steps=2500", *LONG[1:])
"""Long enough that the job is still running when a command that takes seconds to start reaches it."""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head on loopback: (dashboard URL, environment of its clients)."""
    gcs, dashboard, client = free_ports(3)
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = Path(sys.executable).parent / "ray"
    command = [ray, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={gcs}",
               f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}",
               "--object-store-memory=300000000", f"--temp-dir={tmp_path_factory.mktemp('r', numbered=False)}"]  # fmt: skip
    log = open(tmp_path_factory.mktemp("log") / "head.log", "w+")
    process = subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{dashboard}"

    def listens() -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", dashboard)) == 0

    try:
        wait_until(listens)
        time.sleep(2)
        yield url, environment
    finally:
        kill_tree(process.pid)
        process.wait()
        log.close()


def cli(head, verb: str, *arguments: object) -> subprocess.CompletedProcess:
    url, environment = head
    command = [sys.executable, "-m", "monosem", verb, *map(str, arguments), "--address", url]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_submit_and_wait_ends_with_the_inline_bits(head, tiny_job, tmp_path):
    assert run_cli("sweep", tiny_job, *LONG, f"store={tmp_path / 'inline'}", "--inline") == 0
    done = cli(head, "submit", tiny_job, *LONG, f"store={tmp_path / 'store'}", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout and "4x" in done.stdout
    assert digests(tmp_path / "store") == digests(tmp_path / "inline")


def test_stop_leaves_a_resumable_sweep(head, tiny_job, tmp_path):
    assert run_cli("sweep", tiny_job, *LONGER, f"store={tmp_path / 'inline'}", "--inline") == 0
    store = tmp_path / "store"
    done = cli(head, "submit", tiny_job, *LONGER, f"store={store}")
    job_id = done.stdout.split()[1].rstrip(":")
    wait_until(lambda: bool(list(store.rglob("checkpoints/log/*.json"))))
    state = json.loads(cli(head, "status", job_id, "--json").stdout)
    assert state["job"] == job_id and state["state"] == "running"
    stopped = cli(head, "stop", job_id)
    assert stopped.returncode == 0 and "resume" in stopped.stdout
    assert json.loads(cli(head, "status", job_id, "--json").stdout)["state"] in ("stopped", "failed")
    text = cli(head, "logs", job_id, "-f").stdout
    assert "runs to train" in text and "the same command resumes" in text
    rows = all_rows(open_store(str(store)))
    assert {row["state"] for row in rows} == {"unfinished"} and 0 < rows[0]["step"] < 2500
    assert cli(head, "submit", tiny_job, *LONGER, f"store={store}", "--wait").returncode == 0
    assert digests(store) == digests(tmp_path / "inline")


def test_wrong_input_and_unknown_jobs(head, tiny_job):
    assert cli(head, "submit", tiny_job, "train.lr=-1").returncode == 2
    failed = cli(head, "submit", tiny_job, "host.hook_point=nope", "--wait")
    assert failed.returncode == 2 and "must be one of" in failed.stdout
    unknown = cli(head, "status", "monosem-nope")
    assert unknown.returncode == 2 and "not known to this cluster" in unknown.stderr


def test_without_the_token_nothing_is_let_in(head, tiny_job):
    url, _ = head
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | {"HOME": "/nonexistent"}
    command = [sys.executable, "-m", "monosem", "submit", str(tiny_job), "--address", url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_paths_of_a_submitted_job_are_those_of_where_it_was_submitted(tiny_job, monkeypatch, tmp_path):
    """The job runs in a directory of Ray's own, which goes away."""
    monkeypatch.chdir(tmp_path)
    overrides = ["store=s", "corpus.source=hf:org/ds", "host.model=hf:org/m", "stream.tee=rows", "stream.from=s3://b/x",
                 "features.compare=[s/sweeps/a/runs/1x,s3://b/y]"]  # fmt: skip
    found = _absolute(to_plain(load_job(SweepJob, str(tiny_job), overrides)))
    assert found["store"] == f"{tmp_path}/s" and found["stream"]["tee"] == f"{tmp_path}/rows"
    assert (found["corpus"]["source"], found["host"]["model"]) == ("hf:org/ds", "hf:org/m")
    assert found["stream"]["from"] == "s3://b/x"
    assert found["features"]["compare"] == [f"{tmp_path}/s/sweeps/a/runs/1x", "s3://b/y"]
    assert _absolute(to_plain(load_job(SweepJob, str(tiny_job), [])))["stream"]["tee"] is None
