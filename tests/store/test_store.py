"""One contract over a local directory, memory and S3 (moto's server)."""

import os
import resource
import signal
import stat
import threading
import uuid
from types import SimpleNamespace

import boto3
import pytest
from moto.server import ThreadedMotoServer

from monosem.errors import InputError, StoreError
from monosem.store.store import open_store


@pytest.fixture(scope="module")
def s3_url():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket/root"
    patch.undo()
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}")
    return open_store(f"{request.getfixturevalue('s3_url')}-{uuid.uuid4().hex}")


def test_put_get_exists_list_delete(store):
    assert store.list("a") == [] and not store.exists("a/x")
    store.put("a/x", b"1")
    store.put("a/b/y", b"2")
    store.put("a/x", b"3")
    assert store.get("a/x") == b"3" and store.exists("a/x")
    assert store.list("a") == ["b", "x"]
    store.delete("a/x")
    store.delete("a/x")
    assert store.list("a") == ["b"]
    with pytest.raises(FileNotFoundError):
        store.get("a/x")


def test_a_store_may_be_all_of_memory():
    """`memory://` by itself, as a test or a notebook names it."""
    store = open_store("memory://")
    assert store.url == "memory://"
    name = uuid.uuid4().hex
    store.put(f"{name}/b/x", b"1")
    assert store.get(f"{name}/b/x") == b"1" and store.list(name) == ["b"] and store.exists(f"{name}/b/x")
    store.delete_tree(name)
    assert not store.exists(f"{name}/b/x")


def test_create_is_for_one_only(store):
    assert store.create("log/1", b"first") is True
    assert store.create("log/1", b"second") is False
    assert store.get("log/1") == b"first"


def test_create_races_have_one_winner(tmp_path, s3_url):
    for url in (str(tmp_path), f"{s3_url}-race"):
        store, wins = open_store(url), []
        threads = [
            threading.Thread(target=lambda i=i, s=store, w=wins: w.append(i) if s.create("one", b"%d" % i) else None)
            for i in range(8)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(wins) == 1 and store.get("one") == b"%d" % wins[0]


@pytest.mark.parametrize("path", ["../x", "a/../b", "/etc/passwd", "a//b", "", ".hidden", "a b", "x" * 200, "a\x00b"])
def test_paths_that_could_leave_the_root(store, path):
    if path:
        with pytest.raises(InputError):
            store.get(path)


def test_a_local_write_leaves_no_partial_file(tmp_path):
    store = open_store(str(tmp_path))
    store.put("a/x", b"old")
    (tmp_path / "a" / ".x.half").write_bytes(b"ne")  # what a kill in the middle of a write leaves
    assert store.get("a/x") == b"old" and store.list("a") == ["x"]


def test_an_unwritable_directory_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        open_store(str(tmp_path / "file")).put("a", b"")


def test_unknown_protocol():
    with pytest.raises(InputError, match="nope"):
        open_store("nope://x")


def test_a_file_where_a_directory_is_meant_holds_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    store = open_store(str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError):
        store.get("monosem.json")
    with pytest.raises(FileNotFoundError):
        store.get_range("monosem.json", 0, 1)
    with pytest.raises(StoreError, match="cannot read"):
        open_store(str(tmp_path)).get("")


def test_a_write_that_fails_leaves_nothing(tmp_path):
    store = open_store(str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for write in (store.put, store.create):
            with pytest.raises(StoreError, match=r"cannot (write|create) a/x"):
                write("a/x", b"y" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "a").iterdir()) == []


def test_whatever_a_file_system_refuses_is_a_store_error_and_leaves_nothing(tmp_path, monkeypatch):
    """A directory where an object should be, and a disk that fails when the rename is to be made safe."""
    store = open_store(str(tmp_path))
    store.put("a/x/y", b"1")
    with pytest.raises(StoreError, match="cannot write a/x: Is a directory"):
        store.put("a/x", b"2")
    with pytest.raises(StoreError, match="cannot delete a/x: Is a directory"):
        store.delete("a/x")
    store.delete("a/x/y/z")  # below a file there is nothing
    assert store.create("a/x", b"2") is False
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    sync = os.fsync

    def failing(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(5, "Input/output error")
        sync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError, match="cannot write b: Input/output error"):
        store.put("b", b"3")
    with pytest.raises(StoreError, match="cannot create c: Input/output error"):
        store.create("c", b"3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("conflicts, left", [(2, None), (9, StoreError)])
def test_two_creates_at_once_of_which_none_won_are_tried_again(monkeypatch, conflicts, left):
    """S3 answers 409 then; the client's error has its code as botocore's do."""

    class Conflict(OSError):
        response = {"ResponseMetadata": {"HTTPStatusCode": 409}}  # noqa: RUF012

    monkeypatch.setattr("monosem.store.store.CONFLICT_S", (0.0, 0.0, 0.0))
    store, asked = open_store("memory://conflicts"), []

    def pipe_file(at, data, **_):
        asked.append(at)
        if len(asked) <= conflicts:
            raise Conflict

    monkeypatch.setattr(store, "fs", SimpleNamespace(pipe_file=pipe_file, exists=lambda at: False))
    if left is None:
        assert store.create("x", b"1") and len(asked) == 3
    else:
        with pytest.raises(left, match="cannot create"):
            store.create("x", b"1")
