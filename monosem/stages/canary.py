"""The canary: one work item that shows whether a process makes the bits that a stream began with.

Its digest is kept beside the sweep (or the harvest's dataset) when its stream first runs. Whoever makes rows later
(another worker, another machine, the same one after an upgrade) makes that item first, and is not let in if it comes
out differently: the dictionaries would be of two kinds of numbers.
"""

import platform

import torch

from monosem.errors import IntegrityError
from monosem.host.model import HostModel
from monosem.store.plain import pack_json, unpack_json
from monosem.store.store import Store
from monosem.stream.harvest import CANARY, Harvester, item_digest


def numerics(model: HostModel) -> dict:
    """What bits depend on besides the arithmetic: device, libraries, kernels."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else platform.machine(),
        "kernels": f"sm_{''.join(map(str, torch.cuda.get_device_capability()))}"
        if gpu
        else torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def sing(harvester: Harvester) -> dict:
    """Make the canary item: {"item", "digest", "numerics"}."""
    return {
        "item": CANARY,
        "digest": item_digest(harvester.item(CANARY)),
        "numerics": numerics(harvester.model),
    }


def check(store: Store, path: str, song: dict) -> None:
    """Compare a canary with the first one, at `path`, or keep it as that. A difference is an IntegrityError."""
    if store.create(path, pack_json(song)):
        return
    first = unpack_json(store.get(path), path)
    if first["digest"] != song["digest"]:
        mine, theirs = song["numerics"], first["numerics"]
        changed = [f"{key} {mine[key]} (was {theirs.get(key)})" for key in mine if mine[key] != theirs.get(key)]
        raise IntegrityError(
            f"{store.url}/{path}: this process does not make the rows that the stream began with: "
            f"{', '.join(changed) or 'device, kernels and torch are the same, so its hardware may be failing'}"
        )
