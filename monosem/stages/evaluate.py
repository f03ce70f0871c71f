"""`monosem evaluate`: measure a finished dictionary again, on the held-out text it was evaluated on."""

from monosem.config.job import EvalConfig, HostConfig
from monosem.errors import InputError
from monosem.evals.evaluate import Evaluator
from monosem.host.stored import Host, load_host
from monosem.stages.listing import finished_manifest
from monosem.stages.prepare import special_tokens
from monosem.store import layout
from monosem.store.dictionary import load
from monosem.store.plain import unpack_json
from monosem.store.store import open_store
from monosem.text import index
from monosem.text.selection import Skipped


def evaluate_uri(uri: str) -> dict:
    """Metrics of the dictionary at `uri`, a run's directory inside its store."""
    uri = uri.rstrip("/")
    record = unpack_json(finished_manifest(uri), uri)
    root = uri.removesuffix("/" + layout.run(record["sweep"], record["run"]))
    if root == uri:
        raise InputError(
            f"{uri}: evaluate needs the run inside its store (.../{layout.run(record['sweep'], record['run'])})"
        )
    try:
        corpus = index.load(open_store(root), record["corpus"]["key"])
    except FileNotFoundError:
        raise InputError(f"{uri}: its corpus {record['corpus']['key']} is not in {root}") from None
    host = load_host(host_config(record))
    if host.digest != record["host"]["digest"]:
        raise InputError(f"{uri}: host {record['host']['model']} is not the one it was trained on")
    config = EvalConfig(**record["config"]["evaluate"])
    points = record["host"]["hook_name"], record["host"].get("target")
    evaluator = Evaluator(host.model, corpus.heldout, points[0], config, points[1], skipped_of(record, host))
    return evaluator.measure(load(uri)).metrics


def host_config(record: dict) -> HostConfig:
    """The host as it was trained on: a hub model by its commit."""
    wanted = record["config"]["host"]
    return HostConfig(**{key: wanted[key] for key in ("model", "revision", "precision", "device_map") if key in wanted})


def skipped_of(record: dict, host: Host) -> Skipped:
    """The positions that a run's dictionary was not made for."""
    stream = record["config"]["stream"]
    return Skipped(stream["skip_positions"], frozenset(special_tokens(stream["skip_special"], host)))
