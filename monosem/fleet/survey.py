"""The nodes of a running Ray cluster, as `monosem plan --address` wants them."""

from monosem.errors import InputError
from monosem.fleet.cluster import connected, set_environment
from monosem.plan.cluster import Cluster, Node
from monosem.plan.devices import DATASHEET

ACCELERATOR = "accelerator_type:"


def survey(address: str) -> Cluster:
    """InputError if the cluster cannot be reached, or has GPUs that have no datasheet here."""
    set_environment(address)
    with connected(address, 0):
        import ray

        nodes = tuple(_node(n["Resources"]) for n in ray.nodes() if n["Alive"])
    if len({node.kind for node in nodes}) > 1:
        nodes = tuple(node for node in nodes if node.kind)  # a head without GPUs trains nothing
    return Cluster(f"the Ray cluster at {address} ({len(nodes)} nodes)", nodes)


def _node(resources: dict) -> Node:
    gpus = int(resources.get("GPU", 0))
    memory = int(resources.get("memory", 0) + resources.get("object_store_memory", 0))
    return Node(_kind(resources) if gpus else None, gpus, int(resources.get("CPU", 0)), memory)


def _kind(resources: dict) -> str:
    names = [name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)]
    for name in names:
        for known in DATASHEET:
            if name.upper().startswith(known):
                return known
    raise InputError(f"--address: no datasheet for GPUs of type {', '.join(names) or 'unknown'}; use --cluster")
