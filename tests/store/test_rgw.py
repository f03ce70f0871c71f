"""The store against a real S3 server: races, refusals, silence, and deaths on either side of a write."""

import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager

import pytest
from s3fs import S3FileSystem

from monosem.errors import StoreError
from monosem.store import store as store_module
from monosem.store.store import open_store

BIG = 64 * 2**20


def noise(salt: int, n: int = BIG) -> bytes:
    return random.Random(salt).randbytes(n)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def fresh_clients():
    """fsspec keeps one client per endpoint with the keys it first saw; each test here makes its own."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


def impatient(monkeypatch: pytest.MonkeyPatch, read_timeout: float) -> None:
    """One attempt of botocore's with a short timeout, instead of eight of 30 seconds."""
    options = store_module._s3_options()
    options["config_kwargs"] |= {"read_timeout": read_timeout, "retries": {"total_max_attempts": 1}}
    monkeypatch.setattr(store_module, "_s3_options", lambda: options)


def test_put_get_exists_list_delete(s3_url):
    store = open_store(s3_url)
    assert store.list("a") == [] and not store.exists("a/x")
    for path, data in (("a/x", b"1"), ("a/b/y", b"2"), ("a/x", b"3")):
        store.put(path, data)
    assert store.get("a/x") == b"3" and store.exists("a/x")
    assert open_store(s3_url).list("a") == ["b", "x"]
    store.delete("a/x")
    store.delete("a/x")
    assert store.list("a") == ["b"] and not store.exists("a/x")
    with pytest.raises(FileNotFoundError):
        store.get("a/x")


@pytest.mark.parametrize("race", range(5))
def test_a_race_of_sixteen_creates_has_one_winner(s3_url, race):
    store, won, lost = open_store(s3_url), [], []
    ready = threading.Barrier(16)

    def create(i: int) -> None:
        ready.wait()
        (won if store.create("one", b"%d" % i) else lost).append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (len(won), len(lost)) == (1, 15) and store.get("one") == b"%d" % won[0]


def test_a_large_object_comes_back_whole(s3_url):
    data = noise(1)
    open_store(s3_url).put("big", data)
    assert sha(open_store(s3_url).get("big")) == sha(data)


@pytest.mark.parametrize(
    "call", [("get", "x"), ("put", "x", b""), ("create", "x", b""), ("list", "a"), ("delete", "x")]
)
def test_a_wrong_secret_is_one_line(s3_url, monkeypatch, call):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(StoreError, match="cannot") as caught:
        getattr(open_store(s3_url), call[0])(*call[1:])
    assert "\n" not in str(caught.value) and "another-secret" not in str(caught.value)


@pytest.fixture
def silent_port():
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("call", [("get", "x"), ("put", "x", b"data"), ("create", "x", b"data")])
def test_a_silent_server_is_an_error_in_the_end(silent_port, monkeypatch, call):
    """The real timeouts are 30 s and are tried again; what is tested is that no call waits without one."""
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent_port}")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    impatient(monkeypatch, read_timeout=0.3)
    store, caught = open_store("s3://bucket/x"), []

    def attempt() -> None:
        with pytest.raises(StoreError, match="cannot") as error:
            getattr(store, call[0])(*call[1:])
        caught.append(error.value)

    thread = threading.Thread(target=attempt, daemon=True)  # a hang must not hang the tests
    thread.start()
    thread.join(30)
    assert caught and "\n" not in str(caught[0])


# -- deaths in the middle of a write ---------------------------------------------------------------


@contextmanager
def tripwire(port: int, after: int, act: Callable[[], None]):
    """A forwarder to `port`; when a client has sent `after` bytes through it, `act` runs once. Yields its port."""
    sprung = threading.Lock()  # taken for good by the first

    def pump(source: socket.socket, target: socket.socket, counted: bool) -> None:
        seen = 0
        try:
            while data := source.recv(2**16):
                target.sendall(data)
                seen += len(data)
                if counted and seen >= after and sprung.acquire(blocking=False):
                    act()
        except OSError:
            pass  # one side is gone: so is the connection
        for end in (source, target):
            end.close()

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return  # the test is over
            try:
                upstream = socket.create_connection(("127.0.0.1", port))
            except OSError:
                client.close()
                continue
            threading.Thread(target=pump, args=(client, upstream, True), daemon=True).start()
            threading.Thread(target=pump, args=(upstream, client, False), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    assert sprung.locked(), "the client never sent that much"


PUT = """
import sys
from monosem.store.store import open_store
data = sys.stdin.buffer.read()
print("ready", flush=True)
open_store(sys.argv[1]).put("big", data)
print("done", flush=True)
"""


@pytest.mark.parametrize("there", [False, True], ids=["nothing-there", "old-there"])
def test_a_client_killed_in_the_middle_of_a_put_leaves_what_was_there(rgw, s3_url, there):
    old = noise(2, 2**20)
    if there:
        open_store(s3_url).put("big", old)
    processes: list[subprocess.Popen] = []
    with tripwire(rgw.port, BIG // 2, lambda: processes[0].kill()) as port:
        environment = os.environ | rgw.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        command = [sys.executable, "-c", PUT, s3_url]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment))
        out, _ = processes[0].communicate(noise(3), timeout=60)
    assert (processes[0].returncode, out) == (-9, b"ready\n")
    store = open_store(s3_url)
    assert store.list("") == (["big"] if there else [])
    if there:
        assert sha(store.get("big")) == sha(old)


@pytest.mark.parametrize("retries", [True, False])
def test_a_server_killed_in_the_middle_of_a_put(rgw, s3_url, monkeypatch, retries):
    """Every acknowledged object is whole afterwards; with its retries the client does not even notice."""
    earlier = {f"a/{i}": noise(10 + i, 2**20) for i in range(8)} | {"big": noise(4)}
    store, new, ends, dead = open_store(s3_url), noise(5), [], threading.Event()
    for path, data in earlier.items():
        store.put(path, data)

    def overwrite(url: str) -> None:
        try:
            open_store(url).put("big", new)
            ends.append("done")
        except StoreError as error:
            ends.append(error)

    def die() -> None:
        rgw.kill()
        dead.set()

    with tripwire(rgw.port, BIG // 2, die) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        if not retries:
            impatient(monkeypatch, read_timeout=30)
            monkeypatch.setattr(S3FileSystem, "retries", 1)
        thread = threading.Thread(target=overwrite, args=(s3_url,))
        thread.start()
        assert dead.wait(60)
        rgw.restart()
        thread.join(90)
    assert [type(end) for end in ends] == [str if retries else StoreError]
    expected = earlier | ({"big": new} if retries else {})
    assert {path: sha(store.get(path)) for path in expected} == {path: sha(data) for path, data in expected.items()}
    assert store.list("a") == sorted(str(i) for i in range(8))
