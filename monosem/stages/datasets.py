"""Datasets at rest: shuffle, import, export, describe."""

import re
from collections.abc import Callable

from monosem.config.job import CODECS
from monosem.dataset.foreign import find_foreign
from monosem.dataset.interop import export_huggingface, import_foreign
from monosem.dataset.manifest import open_dataset
from monosem.dataset.shuffle import Run, file_rows, run_shuffle, shuffle_plan
from monosem.errors import InputError
from monosem.stages.harvest import describe
from monosem.store.store import open_store
from monosem.track.progress import PhaseProgress

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

SHARD_ROWS = 65536
"""Rows per file of an imported dataset."""

Say = Callable[[str], None]


def parse_bytes(text: str, field: str) -> int:
    """A number of bytes: `1GiB`, `512 MiB`, `1.5GB` or plain `1000000`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = found and {name.lower(): size for name, size in UNITS.items()}.get((found[2] or "B").lower())
    if not unit:
        raise InputError(f"{field}={text!r}: a number of bytes is written like 1GiB (units: {', '.join(UNITS)})")
    return int(float(found[1]) * unit)


def shuffle_dataset(uri: str, out: str, seed: int, memory: str, tasks: int, codec: str, run: Run, say: Say) -> int:
    """Shuffle the dataset at `uri` into `out`, `tasks` at a time in `memory` altogether; goes on after a stop."""
    source, store = open_dataset(uri), open_store(out.rstrip("/"))
    _check_codec(codec)
    size, m = parse_bytes(memory, "memory"), source.manifest
    plan = shuffle_plan(m, size, tasks, file_rows(m), codec)
    buckets = " x ".join(map(str, plan.fan_outs)) or "1"
    say(
        f"shuffle {m.rows:,} rows x {m.width}: passes {plan.passes}, buckets {buckets}, at most "
        f"{plan.task_bytes * tasks / 2**20:,.0f} MiB in {tasks} tasks, {plan.disk_bytes / 1e9:,.1f} GB of disk"
    )
    with PhaseProgress("shuffle", m.rows * plan.passes, "rows") as progress:
        dataset = run_shuffle(source, store, "", seed, size, tasks, run, codec, progress.update)
    say(describe(dataset))
    return 0


def import_activations(source: str, out: str, key: str | None, codec: str, shard_rows: int, say: Say) -> int:
    """Make a dataset at `out` of foreign files: see `monosem.dataset.foreign`."""
    _check_codec(codec)
    if shard_rows < 1:
        raise InputError(f"shard_rows={shard_rows}: must be at least 1")
    foreign = find_foreign(source, key)
    with PhaseProgress("import", foreign.rows, "rows") as progress:
        dataset = import_foreign(foreign, open_store(out.rstrip("/")), "", codec, shard_rows, progress.update)
    say(describe(dataset))
    return 0


def export_dataset(uri: str, directory: str, say: Say) -> int:
    """Write the dataset at `uri` as a directory for `datasets.load_from_disk`."""
    dataset = open_dataset(uri)
    with PhaseProgress("export", dataset.manifest.rows, "rows") as progress:
        path = export_huggingface(dataset, directory, progress.update)
    say(f"exported: {path}  {dataset.manifest.rows:,} rows x {dataset.manifest.width}")
    return 0


def _check_codec(codec: str) -> None:
    if codec not in CODECS:
        raise InputError(f"codec={codec!r}: must be one of {', '.join(CODECS)}")
