"""`monosem pull`: copy a finished dictionary out of a store, checked on the way."""

from pathlib import Path

from monosem.errors import InputError, IntegrityError
from monosem.store import layout
from monosem.store.plain import sha256, unpack_json
from monosem.store.store import LocalStore, open_store


def pull_dictionary(uri: str, directory: str) -> str:
    """Copy the dictionary at `uri` into `directory` (new or empty). Returns the directory."""
    source = open_store(uri)
    try:
        manifest_data = source.get(layout.FINISHED)
    except FileNotFoundError:
        raise InputError(f"{uri}: no finished dictionary there ({layout.FINISHED} is missing)") from None
    manifest = unpack_json(manifest_data, f"{uri}/{layout.FINISHED}")
    target = Path(directory).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{directory}: exists and is not an empty directory; nothing was overwritten")
    local = LocalStore(str(target))
    for name, digest in manifest["files"].items():
        data = source.get(name)
        if sha256(data) != digest:
            raise IntegrityError(f"{uri}: {name} does not match its digest in {layout.FINISHED}")
        local.put(name, data)
    local.put(layout.FINISHED, manifest_data)
    return str(target)
