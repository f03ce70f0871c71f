"""`monosem doctor`: what runs a job is found to be there, and what is missing is named with what mends it."""

import json
from importlib import metadata

import pytest

from monosem.stages import doctor
from tests.conftest import run_cli


def findings(capfd, *arguments: object, code: int = 0) -> dict[str, dict]:
    assert run_cli("doctor", *arguments, "--json") == code
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("monosem:")]
    assert len(lines) == (code != 0) and "Traceback" not in captured.err
    return {found["about"]: found for found in json.loads(captured.out)}


def test_a_machine_that_runs_the_tests_can_run_a_job(tiny_job, tmp_path, capfd):
    found = findings(capfd, tiny_job, f"store={tmp_path / 'store'}")
    wanted = {"packages", "machine", "store", "host and runs", "text", "W&B", "memory", "disk", "shared memory"}
    assert wanted <= found.keys() and all(one["ok"] is not False for one in found.values())
    assert metadata.version("torch") in found["packages"]["said"] and "mlp.post (40 wide)" in found["host and runs"]["said"]
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


def test_everything_that_is_missing_is_told_at_once(tiny_job, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    wrong = [f"store={tmp_path / 'file'}", "corpus.source=/nowhere/*.txt", "stream.shuffle_rows=10_000_000_000"]
    found = findings(capfd, tiny_job, *wrong, "--inline", code=2)
    assert {name for name, one in found.items() if one["ok"] is False} == {"store", "text", "memory"}
    assert "no such file" in found["text"]["said"] and "give another store=" in found["store"]["mend"]
    assert "stream.shuffle_rows" in found["memory"]["said"] and "this machine has" in found["memory"]["said"]


def test_a_host_that_is_not_there(tiny_job, tmp_path, capfd):
    found = findings(capfd, tiny_job, f"store={tmp_path}", "host.model=one-layer-x", code=2)
    assert found["host and runs"]["ok"] is False and "memory" not in found and found["text"]["ok"]


def test_what_is_not_looked_at_is_said(tiny_job, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    found = findings(capfd, tiny_job, f"store={tmp_path}")["GPU memory"]
    assert found["ok"] is None and "monosem plan" in found["mend"]


def test_a_store_alone(tmp_path, capfd):
    assert findings(capfd, f"store={tmp_path}")["store"]["ok"] is True
    assert findings(capfd, "store=gopher://x", code=2)["store"]["ok"] is False
    assert findings(capfd).keys() >= {"packages", "machine"}


@pytest.mark.parametrize("given", [["train.steps=3"], ["a.yaml", "b.yaml"]])
def test_what_is_no_job_and_no_store(given, capfd):
    assert run_cli("doctor", *given) == 2
    assert "write one JOB.yaml and its overrides, or store=URL alone" in capfd.readouterr().err


def test_a_store_that_lets_two_win_is_found(tmp_path, monkeypatch, capfd):
    """As some that call themselves S3 do."""
    monkeypatch.setattr("monosem.store.store.LocalStore.create", lambda self, path, data: self.put(path, data) or True)
    assert "two writers of one name" in findings(capfd, f"store={tmp_path}", code=2)["store"]["said"]


def test_another_version_of_a_library_is_found(monkeypatch, capfd):
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0.0+cpu" if name == "torch" else version(name))
    found = findings(capfd, code=2)["packages"]
    assert "torch 1.0.0+cpu (wanted 2.13.0)" in found["said"] and "make setup" in found["mend"]


def test_lines_of_80_columns(tiny_job, tmp_path, capfd):
    assert run_cli("doctor", tiny_job, f"store={tmp_path}", "--inline") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines and max(map(len, lines)) <= 80 and any(line.startswith("ok       store") for line in lines)
