"""A Ray cluster of two nodes on this machine's loopback, for tests: two raylets, each with its own object store."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleet.processes import kill_tree, wait_until


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Nodes:
    """address: of the GCS; environment: of its clients; processes: `ray start --block` of head and second node."""

    def __init__(self, directory: Path, cpus: int = 2):
        self.directory, self.cpus = directory, cpus
        self.environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen] = []
        self.log = open(directory / "nodes.log", "w+")

    def start(self) -> None:
        self._ray("--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.directory}/r")
        self.wait_for(1)
        self.add()
        self.wait_for(2)

    def add(self) -> None:
        self._ray(f"--address={self.address}")

    def wait_for(self, nodes: int) -> None:
        """Until that many nodes are alive."""
        code = (
            f"import ray; ray.init(address='{self.address}', logging_level='error', log_to_driver=False); "
            "print('nodes', sum(n['Alive'] for n in ray.nodes()))"
        )

        def there() -> bool:
            ended = [p.args for p in self.processes if p.poll() is not None]
            assert not ended, Path(self.log.name).read_text()
            try:
                done = subprocess.run(
                    [sys.executable, "-c", code], env=self.environment, capture_output=True, text=True, timeout=60
                )
            except subprocess.TimeoutExpired:
                return False
            return f"nodes {nodes}" in done.stdout

        wait_until(there, seconds=240)

    def kill(self, node: int) -> None:
        """SIGKILL everything on a node at once, as when a machine is lost."""
        kill_tree(self.processes[node].pid)
        self.processes[node].wait()

    def stop(self) -> None:
        for process in self.processes:
            kill_tree(process.pid)
            process.wait()
        self.log.close()

    def _ray(self, *arguments: str) -> None:
        ray = Path(sys.executable).parent / "ray"
        command = [ray, "start", "--block", "--node-ip-address=127.0.0.1", f"--num-cpus={self.cpus}",
                   "--object-store-memory=250000000", *arguments]  # fmt: skip
        self.processes.append(
            subprocess.Popen(list(map(str, command)), env=self.environment, stdout=self.log, stderr=self.log)
        )


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """In a folder with a short name: a socket's path may have 107 bytes, and Ray adds 60 of its own."""
    with tempfile.TemporaryDirectory(prefix="ms", ignore_cleanup_errors=True) as directory:
        nodes = Nodes(Path(directory))
        try:
            nodes.start()
            yield nodes
        finally:
            nodes.stop()
            time.sleep(0.2)
