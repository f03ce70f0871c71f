"""A whole sweep on a real S3 server ends with the local one's bits, also when it dies on the way."""

import pytest
import torch

import monosem
from monosem.learn.run import Run
from monosem.store.store import open_store
from tests.conftest import digests, run_cli


class Killed(BaseException):
    """Stands for the death of the process: nothing may catch it."""


def test_sweep_kill_resume_and_pull(tiny_job, tmp_path, rgw, s3_url, monkeypatch, capfd):
    assert run_cli("sweep", tiny_job, "--inline") == 0
    original = Run.train_step

    def die(self, x, digest):
        original(self, x, digest)
        if self.step == 25:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", die)
        with pytest.raises(Killed):
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
