"""A cluster in words: `8xH200`, `2x(16 CPU, 24 GiB)`, or several joined by `+`.

    N x KIND                N GPUs of a kind that has a datasheet here, eight to a node
    N x (C CPU, M GiB)      N nodes of C cores and M of memory
    N x (G KIND, C CPU, M GiB, B Gbit)    N nodes in full; what is not told is not known, and not checked
"""

import difflib
import math
import os
import re
from dataclasses import dataclass

from monosem.errors import InputError
from monosem.plan.devices import DATASHEET

GPUS_PER_NODE = 8
MOST = 1_000_000
EXAMPLE = "write 8xH200 or 2x(16 CPU, 24 GiB)"
SIZES = {"GB": 10**9, "TB": 10**12, "GIB": 2**30, "TIB": 2**40}
_GROUP = re.compile(r"\s*(\d{1,9})\s*x\s*(?:\(([^()]*)\)|([A-Za-z][A-Za-z0-9]*))\s*", re.IGNORECASE)
_PART = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*([A-Za-z][A-Za-z0-9]*)\s*")


@dataclass(frozen=True)
class Node:
    """kind: of its GPUs, None without any; memory of the node in bytes, cores, network in bytes/s: 0 if not told."""

    kind: str | None = None
    gpus: int = 0
    cores: int = 0
    memory: int = 0
    network: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """text: as it was described; nodes: every one of them, of one kind."""

    text: str
    nodes: tuple[Node, ...]

    @property
    def kind(self) -> str | None:
        return self.nodes[0].kind

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes)

    @property
    def cores(self) -> int:
        return sum(node.cores for node in self.nodes)


def this_machine() -> Cluster:
    """The machine that this runs on, by its cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(f"this machine ({cores} CPU, {memory / 2**30:.1f} GiB)", (Node(cores=cores, memory=memory),))


def parse_cluster(text: str) -> Cluster:
    """InputError, one line, for anything that is not a cluster."""
    nodes: list[Node] = []
    for part in text.split("+"):
        nodes += _group(text, part)
    if len({node.kind for node in nodes}) > 1:
        raise InputError(f"--cluster {text[:80]!r}: GPUs of one kind only, or none at all; plan the kinds one by one")
    return Cluster(text.strip(), tuple(nodes))


def _group(text: str, part: str) -> list[Node]:
    match = _GROUP.fullmatch(part)
    if not match:
        raise InputError(f"--cluster {text[:80]!r}: {part.strip()[:40]!r} is not understood; {EXAMPLE}")
    n, inside, kind = int(match[1]), match[2], match[3]
    if not 1 <= n <= MOST:
        raise InputError(f"--cluster {text[:80]!r}: {n:,} is not between 1 and {MOST:,}")
    if inside is not None:
        return [_node(text, inside)] * n
    kind = _kind(text, kind)
    full, rest = divmod(n, GPUS_PER_NODE)
    return [Node(kind, GPUS_PER_NODE)] * full + ([Node(kind, rest)] if rest else [])


def _node(text: str, inside: str) -> Node:
    found: dict[str, float] = {}
    kind = None
    for item in inside.split(","):
        match = _PART.fullmatch(item)
        if not match:
            raise InputError(f"--cluster {text[:80]!r}: {item.strip()[:40]!r} is not understood; {EXAMPLE}")
        value, word = float(match[1]), match[2].upper()
        if word in SIZES:
            name, value = "memory", value * SIZES[word]
        elif word == "GBIT":
            name, value = "network", value * 1e9 / 8
        elif word in ("CPU", "CPUS"):
            name = "cores"
        else:
            name, kind = "gpus", _kind(text, match[2])
        if name in found:
            raise InputError(f"--cluster {text[:80]!r}: {item.strip()!r}: told twice")
        if not 0 < value <= 1e18 or not math.isfinite(value) or (name in ("cores", "gpus") and value % 1):
            raise InputError(f"--cluster {text[:80]!r}: {item.strip()!r}: must be a whole number above 0")
        found[name] = value
    if kind is None and not {"cores", "memory"} <= found.keys():
        raise InputError(f"--cluster {text[:80]!r}: a node without GPUs needs its CPU and GiB; {EXAMPLE}")
    return Node(
        kind, int(found.get("gpus", 0)), int(found.get("cores", 0)), int(found.get("memory", 0)),
        found.get("network", 0.0),
    )  # fmt: skip


def _kind(text: str, word: str) -> str:
    known = {name.upper(): name for name in DATASHEET}
    if word.upper() in known:
        return known[word.upper()]
    near = difflib.get_close_matches(word.upper(), known, 1, cutoff=0.5)
    hint = f"; did you mean {known[near[0]]}?" if near else ""
    raise InputError(f"--cluster {text[:80]!r}: {word!r} is no known GPU ({', '.join(DATASHEET)}){hint}")
