"""Finding and ending processes of this machine's /proc, for tests of what survives a death."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """pid -> command line of everything below `pid`."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])
    found, wanted = {}, {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted and child not in found}
        found |= {child: commands[child] for child in wanted}
    return found


def kill_one(pid: int, name: str, by: signal.Signals = signal.SIGKILL) -> int:
    """Signal the first descendant whose command line holds `name`; waits for one to be there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child, command in sorted(descendants(pid).items()):
            if name in command:
                os.kill(child, by)
                return child
        time.sleep(0.05)
    raise AssertionError(f"no process named {name} below {pid}")


@contextmanager
def held(pid: int, name: str) -> Iterator[None]:
    """The first descendant whose command line holds `name` stands still inside."""
    child = kill_one(pid, name, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(child, signal.SIGCONT)


def kill_tree(pid: int) -> None:
    for child in [pid, *descendants(pid)]:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until(done: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
