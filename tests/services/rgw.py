"""A real S3 server: Ceph's RADOS gateway with one monitor and one object daemon, on loopback ports.

Unlike a mock it checks signatures, answers a lost create race its own way, and keeps its objects
on disk, so that it can be killed in the middle of a write and started again.
"""

import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")
BUCKET = "bucket"
ACCESS_KEY, SECRET = "rgw-test-key", "rgw-test-secret"

SETTINGS = """[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
mon initial members = a
mon data = {root}/mon
mon data avail warn = 0
mon data avail crit = 0
mon allow pool size one = true
mon max pg per osd = 1000
paxos propose interval = 0.05
paxos min wait = 0.01
objecter tick interval = 0.5
ms bind msgr2 = false
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
keyring = {root}/keyring
osd data = {root}/osd
osd objectstore = bluestore
osd memory target = 939524096
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
bluestore block create = true
bluestore block size = 10737418240
rgw data = {root}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
run dir = {root}
log file = {root}/$name.log
pid file =
admin socket =
"""
"""The block file is sparse; a socket's path is limited to 108 characters, so there are no admin sockets."""

OWN_SETTINGS = "--no-mon-config"
"""Of every daemon: take the cluster's id from the file. If its settings are fetched from the monitor instead, the id
comes later, and on a busy machine the first order goes out without: `wrong fsid`, EPERM, the end of the daemon."""


class Gateway:
    """The three daemons, their directory and the bucket.

    environment     what a client process needs: `env=os.environ | gateway.environment`
    url             of the bucket; tests take the fixture `s3_url`, a root of their own below it
    """

    url = f"s3://{BUCKET}"

    def __init__(self, root: Path):
        self.root = root
        mon_port, self.port = free_ports(2)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.daemons: dict[str, subprocess.Popen] = {}
        self.fsid, self.monitor = str(uuid.uuid4()), f"[v1:127.0.0.1:{mon_port}]"
        self.settings = root / "ceph.conf"
        self.settings.write_text(SETTINGS.format(fsid=self.fsid, mon_port=mon_port, port=self.port, root=root))
        for name in ("mon", "osd", "rgw"):
            (root / name).mkdir()

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """From an empty directory to a bucket that takes writes."""
        self._start_monitor()
        self._make_osd()
        self._start_data_daemons()
        self._wait("the object daemon", self._is_osd_up)
        self._run("radosgw-admin", OWN_SETTINGS, "-n", "client.admin", "user", "create", "--uid=test", "--display-name=test",
                  f"--access-key={ACCESS_KEY}", f"--secret={SECRET}")  # fmt: skip
        self._wait("a bucket", lambda: self._ask("create_bucket", Bucket=BUCKET))
        self._wait("a write", self._write)

    def kill(self) -> None:
        """SIGKILL the object daemon and the gateway; what they had not yet made durable is lost."""
        for name in ("radosgw", "osd"):
            daemon = self.daemons.pop(name)
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()

    def restart(self) -> None:
        """Start again what `kill` killed; returns after a write went through."""
        self._start_data_daemons()
        self._wait("a write", self._write)

    def stop(self) -> None:
        """Kill whatever runs; the directory is of no more use."""
        for daemon in self.daemons.values():
            daemon.kill()
        for daemon in self.daemons.values():
            daemon.wait()
        self.daemons.clear()

    # -- how -----------------------------------------------------------------------------------

    def _start_monitor(self) -> None:
        keyring, monitors = self.root / "keyring", self.root / "monmap"
        allowed = [word for service in ("mon", "osd", "mgr") for word in ("--cap", service, "allow *")]
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *allowed)
        self._run("monmaptool", "--create", "--addv", "a", self.monitor, "--fsid", self.fsid, monitors)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
        self._spawn("mon", "ceph-mon", "-f", "-i", "a")

    def _make_osd(self) -> None:
        """A young monitor refuses orders for a while, so the first is repeated until it is taken."""
        osd = str(uuid.uuid4())
        order = ("ceph", "--connect-timeout", "5", "osd", "new", osd, "0")
        self._wait("the monitor", lambda: self._try(*order))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--mkkey", "--osd-uuid", osd)

    def _is_osd_up(self) -> str | None:
        """Asked before anything that would wait for it for ever."""
        command = ["ceph", "--connect-timeout", "5", "osd", "stat", "-c", self.settings]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        return None if " 1 up" in told else f"osd stat: {told}"

    def _start_data_daemons(self) -> None:
        self._spawn("osd", "ceph-osd", OWN_SETTINGS, "-f", "-i", "0")
        self._spawn("radosgw", "radosgw", OWN_SETTINGS, "-f", "-n", "client.admin")

    def _spawn(self, name: str, *command: str) -> None:
        """A daemon that the kernel kills when pytest dies, however it dies."""
        with open(self.root / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command, "-c", self.settings],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def _run(self, *command: object) -> None:
        trouble = self._try(*command)
        if trouble:
            raise RuntimeError(trouble)

    def _try(self, *command: object) -> str | None:
        """What went wrong, or None."""
        more = [] if command[0] in ("ceph-authtool", "monmaptool") else ["-c", self.settings]
        done = subprocess.run([*map(str, command), *more], capture_output=True, text=True, timeout=120)
        return f"{' '.join(map(str, command))}: {done.returncode}: {done.stderr[-500:]}" if done.returncode else None

    def _write(self) -> str | None:
        return self._ask("put_object", Bucket=BUCKET, Key="ready", Body=b"yes")

    def _ask(self, call: str, **arguments) -> str | None:
        """What went wrong, or None. Two seconds, no retries: a request that comes before its daemon may hang."""
        try:
            getattr(self._client, call)(**arguments)
        except (BotoCoreError, ClientError) as error:
            return f"{call}: {error}"
        return None

    @functools.cached_property
    def _client(self):
        quick = {"connect_timeout": 2, "read_timeout": 2, "retries": {"total_max_attempts": 1}}
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(**quick, request_checksum_calculation="when_required"),
        )

    def _wait(self, what: str, attempt: Callable[[], str | None], seconds: float = 90) -> None:
        """Repeat `attempt` until it returns None; a dead daemon or the clock ends it with the reason."""
        deadline = time.monotonic() + seconds
        while trouble := attempt():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead:
                raise RuntimeError(f"{dead[0]} ended: {(self.root / f'{dead[0]}.out').read_text()[-500:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {what} in {seconds:.0f} s: {trouble}")
            time.sleep(0.1)


def free_ports(n: int) -> list[int]:
    """`n` different loopback ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def require_programs() -> None:
    """Skip, or with MONOSEM_REQUIRE_RGW=1 fail, if a program of Ceph is missing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        reason = f"no {', '.join(missing)}: install the packages radosgw, ceph-mon and ceph-osd"
        if os.environ.get("MONOSEM_REQUIRE_RGW") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def rgw() -> Iterator[Gateway]:
    """One gateway for all tests; about 15 seconds to start, 600 MB of memory."""
    require_programs()
    with tempfile.TemporaryDirectory(prefix="rgw-") as root:
        gateway = Gateway(Path(root))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def s3_url(rgw: Gateway, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root of this test's own in the gateway's bucket; the environment holds endpoint and keys."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in rgw.environment.items():
        monkeypatch.setenv(name, value)
    return f"{rgw.url}/root-{uuid.uuid4().hex}"
