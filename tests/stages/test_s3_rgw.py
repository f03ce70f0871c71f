"""A whole sweep on a real S3 server ends with the local one's bits, also when it dies on the way."""

import torch

import monosem
from monosem.store.store import open_store
from tests.conftest import digests, dying_after, run_cli


def test_sweep_kill_resume_and_pull(tiny_job, tmp_path, rgw, s3_url, capfd):
    assert run_cli("sweep", tiny_job, "--inline") == 0
    with dying_after(25):
        run_cli("sweep", tiny_job, f"store={s3_url}", "--inline")
    assert open_store(s3_url).list("sweeps/tiny/runs/4x/checkpoints/log"), "nothing to resume from"
    assert run_cli("sweep", tiny_job, f"store={s3_url}", "--inline") == 0
    assert digests(s3_url) == digests(tmp_path / "store") and len(digests(s3_url)) == 2
    assert run_cli("pull", f"{s3_url}/sweeps/tiny/runs/4x", tmp_path / "mine") == 0
    x = torch.rand(3, 40)
    remote = monosem.load(f"{s3_url}/sweeps/tiny/runs/4x")
    assert torch.equal(remote.encode(x), monosem.load(str(tmp_path / "mine")).encode(x))
    captured = capfd.readouterr()
    assert rgw.environment["AWS_SECRET_ACCESS_KEY"] not in captured.out + captured.err


def test_a_bucket_that_is_not_there_is_an_input_error(tiny_job, s3_url, capfd):
    assert run_cli("sweep", tiny_job, "store=s3://no-such-bucket/x", "--inline") == 2
    assert "not writable" in capfd.readouterr().err
