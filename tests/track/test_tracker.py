"""W&B offline runs, read back from the files W&B itself wrote."""

import struct
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2 as pb

from monosem.config.job import TrackConfig
from monosem.track.tracker import NoTracker, open_tracker, wandb_mode
from tests.conftest import run_cli

BLOCK, HEADER = 32768, 7


def records(path: Path):
    """Records of a .wandb file: a header of 7 bytes, then LevelDB log framing in blocks of 32 KiB."""
    data, at, whole = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or last part
            yield pb.Record.FromString(whole)
            whole = b""


def read(path: Path) -> dict:
    found = {"history": [], "run": None, "summary": {}}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
        elif kind == "history":
            found["history"].append({(i.key or ".".join(i.nested_key)): i.value_json for i in record.history.item})
        elif kind == "summary":
            found["summary"] |= {(u.key or ".".join(u.nested_key)): u.value_json for u in record.summary.update}
    return found


def test_each_run_of_a_sweep_is_a_run_of_one_group(tiny_job, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2hunter2")
    assert run_cli("sweep", tiny_job, "track.wandb=offline", "--inline") == 0
    files = sorted((tmp_path / "store/sweeps/tiny").rglob("*.wandb"))
    runs = {r["run"].display_name: r for r in map(read, files)}
    assert set(runs) == {"1x", "4x"}
    for r in runs.values():
        assert (r["run"].project, r["run"].run_group) == ("monosem", "tiny")
        steps = [int(h["_step"]) for h in r["history"] if "loss" in h]
        assert steps == list(range(5, 61, 5))
        assert {"loss_recovered", "l0", "fvu"} <= set(r["summary"])
    for file in (tmp_path / "store").rglob("*"):
        assert not file.is_file() or b"hunter2hunter2" not in file.read_bytes()


@pytest.mark.parametrize("key, mode", [(None, "offline"), ("k" * 40, "online")])
def test_auto_follows_the_key(monkeypatch, key, mode):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert wandb_mode(TrackConfig()) == mode
    assert wandb_mode(TrackConfig(wandb="disabled")) == "disabled"


def test_disabled_tracks_nothing(tmp_path):
    tracker = open_tracker(TrackConfig(wandb="disabled"), "id", "name", {}, str(tmp_path))
    assert isinstance(tracker, NoTracker) and not list(tmp_path.iterdir())


def test_no_server_means_offline_and_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("monosem.track.tracker.INIT_TIMEOUT_S", 3)
    tracker = open_tracker(TrackConfig(), "some-id", "8x", {}, str(tmp_path))
    tracker.log({"loss": 1.0}, 1)
    tracker.finish({})
    assert "W&B online failed" in capfd.readouterr().err
    assert len(list(tmp_path.rglob("*.wandb"))) >= 1
