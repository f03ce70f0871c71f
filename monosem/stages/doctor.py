"""`monosem doctor`: whether this machine, a cluster and a store can run a job; what is missing, and how to mend it.

Looks and writes one small probe into the store, which it deletes; starts nothing.
"""

import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from monosem.config.job import SweepJob
from monosem.errors import MonosemError, StoreError
from monosem.plan.cluster import Cluster, this_machine
from monosem.plan.memory import storage_bytes
from monosem.stages.budget import GIB, check_memory, memory_plan
from monosem.stages.plan import Planned, outline_job
from monosem.store.store import LocalStore, open_store
from monosem.text.sources import open_source
from monosem.track.tracker import wandb_mode

PIN = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*])?==([^;\s]+)$")
"""A requirement of monosem itself: those of extras have a condition after a semicolon."""
EXTRAS = {
    "hf": ("transformers", "hosts and datasets of the Hugging Face hub cannot be read"),
    "map": ("umap-learn", "the feature browser has no map"),
}
SHM = "/dev/shm"


@dataclass(frozen=True)
class Finding:
    """ok: None where a job runs all the same; mend: what to do, empty where there is nothing."""

    about: str
    ok: bool | None
    said: str
    mend: str = ""


def examine(job: SweepJob | None, store: str | None, inline: bool, cluster: Cluster | None) -> Iterator[Finding]:
    """All findings, each as soon as it is known.

    job      None: of machine and store alone; store: None: none is looked at
    inline   a job would run in one process; cluster: or there, where None means a Ray of its own on this machine
    """
    yield _packages()
    for name, (package, without) in EXTRAS.items():
        if _version(package) is None:
            yield Finding(name, None, f"not installed: {without}", f"pip install 'monosem[{name}]'")
    yield _machine()
    if cluster is not None:
        yield Finding("cluster", True, cluster.text)
    url = job.store if job else store
    if url is not None:
        yield _tried("store", lambda: _store(url), "give another store=, or rights and credentials for this one")
    if job is not None:
        yield from _of_job(job, inline, cluster)


def _tried(about: str, look: Callable[[], str], mend: str = "") -> Finding:
    try:
        return Finding(about, True, look())
    except MonosemError as error:
        return Finding(about, False, str(error), mend)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Finding:
    """Of monosem's own requirements the versions that results are known for."""
    pins = [found.groups() for line in metadata.requires("monosem") or [] if (found := PIN.match(line))]
    wrong = [(name, wanted, _version(name)) for name, wanted in pins]
    wrong = [(name, wanted, have) for name, wanted, have in wrong if have is None or have.split("+")[0] != wanted]
    if wrong:
        said = ", ".join(f"{name} {have or 'is missing'} (wanted {wanted})" for name, wanted, have in wrong)
        return Finding("packages", False, said, "install monosem anew in an environment of its own: make setup")
    known = ", ".join(f"{name} {_version(name)}" for name in ("torch", "ray", "pyarrow"))
    return Finding("packages", True, f"monosem {_version('monosem')}, Python {platform.python_version()}, {known}")


def _machine() -> Finding:
    import torch

    [node] = this_machine().nodes
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    able = torch.cpu.get_capabilities()
    fast = able.get("amx_bf16") or able.get("avx512_bf16")
    said = f"{node.cores} cores, {node.memory / GIB:.1f} GiB, {', '.join(gpus) or 'no GPU: it trains on the CPU'}"
    return Finding("machine", True, said + ("; multiplies bfloat16 fast (train.precision=bf16)" if fast else ""))


def _store(url: str) -> str:
    """What a sweep does to a store, once: write, take a name that only one gets, list, delete."""
    store, probe = open_store(url), f"probes/{uuid.uuid4().hex}"
    first, second = store.create(f"{probe}/x", b"monosem"), store.create(f"{probe}/x", b"another")
    found = store.get(f"{probe}/x"), store.list(probe)
    store.delete_tree(probe)
    if not first or second:
        raise StoreError(f"store {url}: two writers of one name both think that they are the first")
    if found != (b"monosem", ["x"]) or store.exists(f"{probe}/x"):
        raise StoreError(f"store {url}: does not give back what was written, list it or delete it")
    room = ""
    if isinstance(store, LocalStore):
        room = f", {shutil.disk_usage(store.root).free / GIB:,.1f} GiB free"
    return f"{store.url}: writes, lists, deletes, one winner per name{room}"


# -- of a job --------------------------------------------------------------------------------------


def _of_job(job: SweepJob, inline: bool, cluster: Cluster | None) -> Iterator[Finding]:
    import torch

    planned: list[Planned] = []

    def host() -> str:
        planned.append(outline_job(job, inline, cluster or this_machine()))
        p = planned[0]
        points = ", ".join(f"{name} ({width} wide)" for name, width in p.shapes.widths.items())
        return f"{job.host.model}: {points}; {len(p.runs)} runs"

    yield _tried("host and runs", host)
    yield _tried("text", lambda: _text(job))
    yield _tracking(job)
    if planned and (cluster is None or not cluster.kind):
        yield _tried("memory", lambda: _memory(planned[0], inline, cluster))
    if cluster.kind if cluster else torch.cuda.is_available():
        yield Finding("GPU memory", None, "not looked at here", "monosem plan JOB.yaml --cluster or --address does")
    root = LocalStore(job.store).root if "://" not in job.store else None
    if planned and root is not None and root.is_dir():  # else the store is what is missing
        yield _disk(planned[0], root)
    if planned and not inline and cluster is None:
        yield from _shared_memory(planned[0])


def _text(job: SweepJob) -> str:
    open_source(job.corpus)
    return f"{job.corpus.source}: can be opened"


def _tracking(job: SweepJob) -> Finding:
    mode = wandb_mode(job.track)
    if mode == "online" and not os.environ.get("WANDB_API_KEY"):
        return Finding("W&B", None, "online, no key in the environment: `wandb login` must have left one",
                       "set WANDB_API_KEY, or track.wandb=offline")  # fmt: skip
    if mode == "offline":
        return Finding("W&B", None, "offline: curves stay in the store", "WANDB_API_KEY in the environment sends them")
    return Finding("W&B", True, "online, by the key in the environment" if mode == "online" else mode)


def _memory(planned: Planned, inline: bool, cluster: Cluster | None) -> str:
    needs = memory_plan(planned.shapes, planned.packs, inline, planned.job.stream.tee is not None, planned.mesh)
    have = sum(node.memory for node in (cluster or this_machine()).nodes)
    return check_memory(needs, have, in_waves=not inline).removeprefix("memory plan, GiB: ")


def _disk(planned: Planned, root: Path) -> Finding:
    """Checkpoints that are kept while it trains, and what is left at the end; not the text, nor the feature pass."""
    sizes = storage_bytes([run.sae for run in planned.runs])
    need, free = sizes["kept"] + sizes["finished"], shutil.disk_usage(root).free
    said = f"checkpoints and dictionaries take {need / GIB:,.2f} GiB, {free / GIB:,.1f} are free"
    return Finding("disk", need < free, said, "" if need < free else "make room, or give another store=")


def _shared_memory(planned: Planned) -> Iterator[Finding]:
    """Ray keeps the stream's rows in shared memory, and where that is too small in files in /tmp, which is slow."""
    if not os.path.isdir(SHM):
        return
    needs = memory_plan(planned.shapes, planned.packs, False, False, planned.mesh)
    need = sum(n.total for n in needs if n.name == "object store")
    size = shutil.disk_usage(SHM).total
    said = f"{SHM} has {size / GIB:,.2f} GiB, the object store wants {need / GIB:,.2f}"
    yield Finding("shared memory", True if need <= size else None, said,
                  "" if need <= size else "in a container: --shm-size; else lower stream.shuffle_rows")  # fmt: skip
