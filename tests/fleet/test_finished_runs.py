"""A process that dies after some runs of its pack are finished: its successor trains none of those again."""

import pytest

from monosem.config.job import SweepJob
from monosem.config.load import load_job
from monosem.fleet.learners import LearnerActor
from monosem.learn.mesh import Seat
from monosem.learn.run import Run
from monosem.stages.executor import Status
from monosem.stages.listing import all_rows
from monosem.stages.prepare import prepare_sweep
from monosem.store.checkpoints import CheckpointLog
from monosem.store.store import open_store
from tests.conftest import Killed, digests, run_cli

Learner = LearnerActor.__ray_metadata__.modified_class


def work(spec) -> Status:
    return Learner(spec, list(spec.runs), "reader-1", {}, Seat()).work(None)


@pytest.fixture
def spec(tiny_job, tmp_path):
    """A sweep of two runs whose rows come from a dataset: no shard is needed, and no Ray."""
    assert run_cli("harvest", tiny_job, f"stream.tee={tmp_path / 'rows'}", "--inline", "name=rows") == 0
    more = f"stream.from={tmp_path / 'rows'}"
    assert run_cli("sweep", tiny_job, "--inline", more, f"store={tmp_path / 'alone'}") == 0
    job = load_job(SweepJob, str(tiny_job), [more])
    return prepare_sweep(job, open_store(job.store))


def test_what_is_finished_is_not_trained_again(spec, tmp_path, monkeypatch):
    finish, step, steps = Run.finish, Run.train_step, []

    def dying(self, *arguments):
        if self.name == "4x":
            raise Killed
        return finish(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", dying)
        with pytest.raises(Killed):
            work(spec)
    store = open_store(str(tmp_path / "store"))
    assert {row["run"]: row["state"] for row in all_rows(store)} == {"1x": "finished", "4x": "unfinished"}
    monkeypatch.setattr(Run, "train_step", lambda self, batch: (steps.append(self.name), step(self, batch)))
    for _ in range(2):  # and a third process finds nothing to do
        status = work(spec)
        assert status.steps == {"1x": 60, "4x": 60} and not status.errors and not steps
    assert digests(tmp_path / "store") == digests(tmp_path / "alone")


def test_what_a_predecessor_left_beside_a_finished_run_goes(spec, tmp_path, monkeypatch):
    """It was killed between monosem.json and the end of clearing up."""

    def dying(self):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CheckpointLog, "clear", dying)
        work(spec)
    runs = tmp_path / "store/sweeps/tiny/runs"
    [finished] = [path.parent for path in runs.rglob("monosem.json")]
    assert list(finished.rglob("log/*"))
    work(spec)
    assert not list(runs.rglob("log/*")) and not list(runs.rglob("curve/*")) and not list(runs.rglob("objects/*"))
    assert digests(tmp_path / "store") == digests(tmp_path / "alone")
