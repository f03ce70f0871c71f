"""Sweeps on a test cluster: started from the command line, and what they leave."""

import subprocess
import sys
from pathlib import Path

from monosem.stages.listing import all_rows
from monosem.store.plain import unpack_json
from monosem.store.store import open_store
from tests.fleet.nodes import Nodes
from tests.fleet.processes import kill_tree


def start(nodes: Nodes, verb: str, *arguments: object, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "monosem", verb, *map(str, arguments), "--address", nodes.address]
    return subprocess.Popen(
        command, env=nodes.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_here(job: Path, *arguments: object) -> subprocess.Popen:
    """On a Ray of its own."""
    command = [sys.executable, "-m", "monosem", "sweep", str(job), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def newest_checkpoint(store: Path) -> int:
    """The step of the run that is furthest. (Only two checkpoints of each run stay, so their number tells little.)"""
    return max((int(record.stem) for record in store.rglob("checkpoints/log/*.json")), default=0)


def read_until(process: subprocess.Popen, text: str) -> str:
    """What it prints up to the line that holds `text`; fails if it ends before."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def finish(process: subprocess.Popen) -> str:
    try:
        out, _ = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        out = "still running after 400 s:\n" + process.communicate()[0]
    assert process.returncode == 0, out
    return out


def records(store: object) -> dict[str, tuple]:
    """What must not differ: tensors, the rows that were seen, and the masked ones."""
    found = {}
    for row in all_rows(open_store(str(store))):
        record = unpack_json(open_store(row["uri"]).get("monosem.json"), "")
        found[row["run"]] = (row["digest"], record["rows_digest"], record["masked_rows"])
    return found
