"""The memory that sweeps use, against the plan that they print: peaks of whole process trees, sampled from outside."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from monosem.stages.budget import GIB

EVERY_S = 0.1
SHARED_EVERY_S = 3.0
JOB = "jobs/quickstart.yaml"
SMALL = (
    "train.steps=300",
    "train.resample_steps=[100,200]",
    "train.resample_window=50",
    "corpus.max_tokens=1_000_000",
    "evaluate.rows=8192",  # batches of an evaluation are as large as ever
    "evaluate.contexts=16",
    "learner.threads=1",  # changes no peak, and two threads wait for each other on a machine that is shared
)
LARGE = ("train.batch_size=8192", "train.steps=60", "train.resample_steps=[20,40]", "sae.expansion_factor=[1,8]")
HOOKS = ("host.hook_point=[mlp.post,resid_mid]",)
CASES = {
    "sweep, inline": ("sweep", *SMALL, "--inline"),
    "batch 8192, inline": ("sweep", *SMALL, *LARGE, "--inline"),
    "two hook points, inline": ("sweep", *SMALL, *HOOKS, "--inline"),
    "harvest, inline": ("harvest", *SMALL, "dataset.rows=400000", "--inline"),
    "sweep, Ray": ("sweep", *SMALL),
    "batch 8192, Ray": ("sweep", *SMALL, *LARGE),
    "two hook points, Ray": ("sweep", *SMALL, *HOOKS),
    "harvest, Ray": ("harvest", *SMALL, "dataset.rows=400000"),
}


@dataclass
class Peak:
    """bytes: most that the tree held at a time; parts: by kind of process, at that time."""

    bytes: int = 0
    parts: dict[str, int] = field(default_factory=dict)


def tree_of(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def held_by(pid: int) -> tuple[str, int]:
    """(kind of process, proportional set size in bytes)."""
    try:
        pss = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().split()
    except OSError:
        return "", 0
    kind = words[0] if words and words[0].startswith("ray::") else Path(words[0]).name if words else ""
    return kind.split(".")[0], int(pss[1]) * 1024 if pss else 0


def resident(pid: int) -> int:
    """Resident set size in bytes: a look that costs the process nothing, unlike `held_by`."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


class Tree:
    """What a process and all that descend from it hold, looked at often.

    The resident set of each at every look, less what it shares. That is costly to learn (a process that is looked at
    waits) and changes little, but while a process loads its libraries: it is asked for now and then, and what was seen
    since the last time is told then.
    """

    def __init__(self, root: int):
        self.root, self.shared, self.kinds = root, {}, {}
        self.looks: list[dict[int, int]] = []
        self.learned = time.monotonic()

    def until_end(self, process: subprocess.Popen) -> Iterator[dict[int, tuple[str, int]]]:
        """(kind of process, bytes) by process, of every look until the process ends."""
        while process.poll() is None:
            self.looks.append({pid: resident(pid) for pid in tree_of(self.root)})
            if time.monotonic() - self.learned > SHARED_EVERY_S:
                yield from self._told()
            time.sleep(EVERY_S)
        yield from self._told()

    def _told(self) -> Iterator[dict[int, tuple[str, int]]]:
        for pid, size in self.looks[-1].items() if self.looks else ():
            kind, held = held_by(pid)
            if held:
                self.kinds[pid], self.shared[pid] = kind, max(0, min(size, resident(pid)) - held)
        for look in self.looks:
            yield {pid: (self.kinds.get(pid, ""), max(0, size - self.shared.get(pid, 0))) for pid, size in look.items()}
        self.looks, self.learned = [], time.monotonic()


def watch(process: subprocess.Popen) -> Peak:
    """Sample until the process ends."""
    peak = Peak()
    for look in Tree(process.pid).until_end(process):
        parts: dict[str, int] = {}
        for kind, size in look.values():
            parts[kind] = parts.get(kind, 0) + size
        if sum(parts.values()) > peak.bytes:
            peak = Peak(sum(parts.values()), parts)
    return peak


def planned(output: str) -> dict[str, float]:
    """GiB by part of the line `memory plan, GiB: ...`."""
    line = re.search(r"memory plan, GiB: (.*); [\d.,]+ of", output)
    if line is None:
        raise RuntimeError(f"no memory plan in: {output[-2000:]}")
    return {name: float(size) for name, size in re.findall(r"(?:, |^)(\D.*?|\d+ x .*?) (\d+\.\d\d)(?=,|$)", line[1])}


def measure(case: str, store: str) -> dict:
    """Run one case to its end. Peak and plan in GiB, and their parts."""
    verb, *arguments = CASES[case]
    name = re.sub(r"\W+", "-", case)
    command = [sys.executable, "-m", "monosem", verb, JOB, f"name={name}", f"store={store}", *arguments]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)
        peak = watch(process)
        out.seek(0)
        output = out.read()
    if process.returncode:
        raise RuntimeError(f"{case}: {output[-2000:]}")
    parts = planned(output)
    plan, held = sum(parts.values()), peak.bytes / GIB
    found = {kind: round(size / GIB, 3) for kind, size in peak.parts.items() if size > 2**23}
    return {"peak": held, "plan": plan, "ratio": held / plan, "planned": parts, "found": found}


def section(cases: list[str], store: str) -> dict[str, dict]:
    found = {}
    for case in cases:
        found[case] = measure(case, store)
        sys.stdout.write(f"  {case}: {found[case]}\n")
        sys.stdout.flush()
    return found
