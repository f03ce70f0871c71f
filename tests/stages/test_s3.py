"""A whole sweep on an S3 server ends with the local one's bits."""

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

import monosem
from tests.conftest import digests, dying_after, run_cli


@pytest.fixture
def s3(monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "plantedsecret99")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="sweeps-bucket")
    yield "s3://sweeps-bucket/root"
    server.stop()


def test_sweep_kill_resume_and_pull_on_s3(tiny_job, tmp_path, s3, capfd):
    assert run_cli("sweep", tiny_job, "--inline") == 0
    with dying_after(25):
        run_cli("sweep", tiny_job, f"store={s3}", "--inline")
    assert run_cli("sweep", tiny_job, f"store={s3}", "--inline") == 0
    assert digests(s3) == digests(tmp_path / "store")
    assert run_cli("pull", f"{s3}/sweeps/tiny/runs/4x", tmp_path / "mine") == 0
    x = torch.rand(3, 40)
    remote = monosem.load(f"{s3}/sweeps/tiny/runs/4x")
    assert torch.equal(remote.encode(x), monosem.load(str(tmp_path / "mine")).encode(x))
    captured = capfd.readouterr()
    assert "plantedsecret99" not in captured.out + captured.err


def test_a_bucket_that_is_not_there_is_an_input_error(tiny_job, s3, capfd):
    assert run_cli("sweep", tiny_job, "store=s3://no-such-bucket/x", "--inline") == 2
    assert "not writable" in capfd.readouterr().err
