"""A process that makes other bits than the sweep began with is not let in."""

import torch

from monosem.host.transformer import OneLayerTransformer
from monosem.store.plain import pack_json, unpack_json
from tests.conftest import digests, dying_after, run_cli


def test_a_sweep_is_not_mixed_from_two_kinds_of_numbers(tiny_job, tmp_path, monkeypatch, capfd):
    with dying_after(25):
        run_cli("sweep", tiny_job, "--inline")
    with monkeypatch.context() as patch:
        capture = OneLayerTransformer.capture
        patch.setattr(
            OneLayerTransformer,
            "capture",
            lambda self, t, p: {name: x * (1 + 2**-23) for name, x in capture(self, t, p).items()},
        )
        assert run_cli("sweep", tiny_job, "--inline") == 1
    err = capfd.readouterr().err
    assert "does not make the rows that the stream began with" in err and "hardware may be failing" in err
    assert run_cli("sweep", tiny_job, "--inline") == 0
    assert run_cli("sweep", tiny_job, f"store={tmp_path / 'fresh'}", "--inline") == 0
    assert digests(tmp_path / "store") == digests(tmp_path / "fresh")


def test_the_message_says_what_changed(tiny_job, tmp_path, monkeypatch, capfd):
    with dying_after(25):
        run_cli("sweep", tiny_job, "--inline")
    path = tmp_path / "store/sweeps/tiny/canary.json"
    record = unpack_json(path.read_bytes(), "")
    assert record["numerics"]["torch"] == torch.__version__
    record["digest"], record["numerics"]["torch"] = "0" * 32, "1.0"
    path.write_bytes(pack_json(record))
    assert run_cli("sweep", tiny_job, "--inline") == 1
    assert f"torch {torch.__version__} (was 1.0)" in capfd.readouterr().err
