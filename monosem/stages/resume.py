"""`monosem resume STORE/SWEEP`: the job of a sweep as its store remembers it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from monosem.config.job import SweepJob
from monosem.config.load import load_job
from monosem.errors import InputError
from monosem.store import layout
from monosem.store.plain import unpack_json
from monosem.store.store import open_store


def stored_job(uri: str, overrides: Sequence[str] = ()) -> SweepJob:
    """The job recorded in the sweep's manifest, with the store it was found in, and `overrides` of it."""
    root, _, name = uri.rstrip("/").rpartition("/")
    if not root or not name:
        raise InputError(f"{uri!r}: write STORE/SWEEP, for example ./monosem-store/quickstart")
    root = root.removesuffix("/sweeps")
    path = layout.manifest(name)
    try:
        job = unpack_json(open_store(root).get(path), path)["job"]
    except FileNotFoundError:
        raise InputError(f"{uri}: no sweep {name!r} in {root}") from None
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "job.yaml"
        file.write_text(OmegaConf.to_yaml(OmegaConf.create(job | {"store": root})))
        return load_job(SweepJob, str(file), list(overrides), called=f"{uri}'s job")
