"""`monosem pull`: copy a finished dictionary out of a store, checked on the way, in the layout that is asked for."""

import os
from pathlib import Path

from monosem.errors import InputError, IntegrityError
from monosem.stages.listing import finished_manifest
from monosem.store import layout
from monosem.store.dictionary import load
from monosem.store.formats import FORMATS
from monosem.store.plain import sha256, unpack_json
from monosem.store.store import LocalStore, Store, open_store

FEATURE_FORMATS = ("neuronpedia", "saedashboard")
"""Layouts of what a dictionary's features mean, not of the dictionary."""
OWN = ("monosem", "saelens")
"""monosem's layout is SAELens' with lineage and digests beside it."""


def pull_dictionary(uri: str, directory: str, kind: str = "monosem") -> str:
    """Copy the dictionary at `uri` into `directory` (new or empty). Returns the directory."""
    source, manifest_data = open_store(uri), finished_manifest(uri)
    manifest = unpack_json(manifest_data, f"{uri}/{layout.FINISHED}")
    target = _empty(directory)
    if kind in OWN:
        files = _checked(source, manifest, uri) | {layout.FINISHED: manifest_data}
    else:
        host = manifest.get("host", {})
        metadata = {"model_name": host.get("model_name", ""), "hook_name": host.get("hook_name", "")}
        files = FORMATS[kind].write(load(uri), metadata)
    local = LocalStore(str(target))
    for name, data in files.items():
        local.put(name, data)
    return str(target)


def pull_features(
    uri: str,
    directory: str,
    kind: str,
    model: str | None = None,
    set_name: str | None = None,
    creator: str | None = None,
) -> str:
    """Write a finished run's features as another tool reads them into `directory` (new or empty). Returns it.

    model, set_name   what that tool calls the host and the dictionary; None: by the run's record
    creator           Neuronpedia's id of the account that shall own them; None: DEFAULT_CREATOR_ID of the environment,
                      as its own exporter has it, or the account that its databases are seeded with
    """
    from monosem.features.export import dashboard_files, names_of, neuronpedia_files
    from monosem.features.read import FeatureTables

    tables, target = FeatureTables(uri), _empty(directory)
    record = unpack_json(open_store(uri).get(layout.FINISHED), f"{uri}/{layout.FINISHED}")
    write = {"saedashboard": dashboard_files, "neuronpedia": neuronpedia_files}[kind]
    local = LocalStore(str(target))
    names = names_of(record, model, set_name, creator or os.environ.get("DEFAULT_CREATOR_ID"))
    for name, data in write(tables, names, record["corpus"]["source"]):
        local.put(name, data)
    return str(target)


def _empty(directory: str) -> Path:
    target = Path(directory).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{directory}: exists and is not an empty directory; nothing was overwritten")
    return target


def _checked(source: Store, manifest: dict, uri: str) -> dict[str, bytes]:
    """The dictionary's files, each with the digest that the manifest has of it."""
    files = {name: source.get(name) for name in manifest["files"]}
    for name, data in files.items():
        if sha256(data) != manifest["files"][name]:
            raise IntegrityError(f"{uri}: {name} does not match its digest in {layout.FINISHED}")
    return files
