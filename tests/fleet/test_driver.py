"""What the driver does about its cluster and its store, without a cluster: a store that is away is one for real."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from monosem.config.job import SweepJob
from monosem.fleet import control, room, supervisor
from monosem.fleet.control import Control
from monosem.fleet.policy import PackHistory, Shape
from monosem.fleet.room import Room
from monosem.fleet.supervisor import Supervisor
from monosem.store import layout
from monosem.store.store import open_store


@pytest.fixture
def cluster(monkeypatch):
    """What ray.cluster_resources() says: change it."""
    have = {"CPU": 64.0}
    monkeypatch.setattr(room, "ray", SimpleNamespace(cluster_resources=lambda: dict(have)))
    return have


def of(**learner: int) -> SimpleNamespace:
    job = SweepJob(name="s")
    job = replace(job, stream=replace(job.stream, workers=4), learner=replace(job.learner, **learner))
    return SimpleNamespace(job=job)


def test_a_wish_for_workers_hides_no_change_of_the_cluster(cluster):
    """Nodes went just before: groups and replicas are told of in the same line as the workers."""
    there = Room(of(replicas=4), 2, 0)
    assert there.look() is None and there.shape == Shape(4, 2, 4)
    cluster["CPU"] = 4.0
    there.want_workers(3)
    line = there.look()
    assert line is not None and "of 3 model workers" in line and "of 2 learner groups" in line
    assert there.shape.groups * there.shape.replicas < 8 and there.shape.workers <= 3
    assert there.look() is None


def test_a_wish_alone_is_looked_at_at_once(cluster):
    there = Room(of(replicas=4), 2, 0)
    there.want_workers(7)
    assert "7 of 7 model workers" in there.look() and there.shape == Shape(7, 2, 4)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """The driver's side of a sweep's control, which looks whenever it is asked."""
    monkeypatch.setattr(control, "POLL_S", 0.0)
    return Control(open_store(str(tmp_path)), "s", 2)


def block(tmp_path, path: str):
    """No object can be read, written or deleted where a directory is."""
    at = tmp_path / path
    at.unlink(missing_ok=True)
    at.mkdir()
    return at


def test_the_end_of_a_sweep_stands_whatever_the_store_does(driver, tmp_path, capsys):
    block(tmp_path, layout.control("s"))
    driver.store.put(layout.wanted("s"), b"{}")
    driver.close()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "cannot delete" in err
    assert not driver.store.exists(layout.wanted("s")), "what can be deleted is"


def test_what_could_not_be_published_is_published_later(driver, tmp_path, capsys):
    there = block(tmp_path, layout.control("s"))
    assert [driver.publish(3) for _ in range(3)] == [False] * 3
    assert capsys.readouterr().err.count("\n") == 1
    there.rmdir()
    assert driver.publish(3) and b"3" in driver.store.get(layout.control("s"))
    assert capsys.readouterr().err == ""


def test_a_wish_waits_for_a_store_that_is_away_with_one_line(driver, tmp_path, capsys):
    there = block(tmp_path, layout.wanted("s"))
    assert [driver.wish() for _ in range(3)] == [None] * 3
    assert capsys.readouterr().err.count("\n") == 1
    there.rmdir()
    assert driver.wish() is None
    driver.store.put(layout.wanted("s"), b'{"workers": 5}')
    assert driver.wish() == 5 and driver.wish() is None and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "wish",
    [b"", b"[1]", b"{}", b'{"workers": "two"}', b'{"workers": true}', b'{"workers": 2.5}', b'{"workers": null}',
     b'{"workers": 0}', b'{"workers": 5000}'],
)  # fmt: skip
def test_a_malformed_wish_is_refused_with_a_line(driver, capsys, wish):
    driver.store.put(layout.wanted("s"), wish)
    assert driver.wish() is None and not driver.store.exists(layout.wanted("s"))
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "refused" in err and "wanted.json" in err
    assert driver.wish() is None and capsys.readouterr().err == ""


@pytest.fixture
def watching(tmp_path, monkeypatch) -> Supervisor:
    """A supervisor of the store alone: what it would start is noted in `started`."""
    it = Supervisor.__new__(Supervisor)
    it.store, it.spec = open_store(str(tmp_path)), SimpleNamespace(job=SweepJob(name="s"))
    it.shards, it.groups, it.readers, it.histories, it.keepers, it.watched = {}, {}, {}, {}, {}, {}
    it.dead, it.given_up, it.waves, it.store_away = {}, {}, [], False
    it.stream_deaths, it.room, it.started = 0, SimpleNamespace(shape=Shape(1, 1, 1)), []
    monkeypatch.setattr(it, "_start_learner", lambda pack, history: it.started.append((pack, history.step)))
    monkeypatch.setattr(it, "_start_keeper", lambda hook_point: it.keepers.update({8: hook_point}))
    monkeypatch.setattr(supervisor.ray, "kill", lambda actor: None)
    return it


def test_a_learner_that_dies_while_the_store_is_away_is_replaced_when_it_is_back(watching, tmp_path, capsys):
    pack = [SimpleNamespace(name="1x")]
    group = SimpleNamespace(pack=pack, names=["reader-7.0"], calls=["call"], end=lambda: None)
    watching.groups[7], watching.readers[7], watching.histories[7] = group, [], PackHistory()
    watching.watched = {"call": ("learner", 7), "other": ("shard", 0)}
    log = tmp_path / layout.run("s", "1x") / "checkpoints/log"
    log.parent.mkdir(parents=True)
    os.symlink("log", log)  # a circle: it cannot be listed
    watching._on_death("learner", 7, RuntimeError("gone"))
    for _ in range(3):
        watching._replace_dead()
    assert watching.started == [] and watching.watched == {"other": ("shard", 0)}
    assert "learner 7 died" in (err := capsys.readouterr().err) and err.count("cannot list") == 1
    log.unlink()
    watching.store.put(f"{layout.run('s', '1x')}/checkpoints/log/{40:012d}.json", b"{}")
    watching._replace_dead()
    watching._replace_dead()
    assert watching.started == [(pack, 40)] and not watching.dead and not watching.groups


def test_a_keeper_that_was_replaced_is_counted_no_more(watching):
    watching.keepers[7], watching.readers[7] = "mlp.post", [object()]
    watching._on_death("keeper", 7, RuntimeError("gone"))
    assert watching.keepers == {8: "mlp.post"}
