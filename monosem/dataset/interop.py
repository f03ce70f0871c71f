"""Activation datasets from other tools' files, and to Hugging Face's `datasets`."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from monosem.dataset.blocks import BlockReader
from monosem.dataset.codec import decode, lists
from monosem.dataset.foreign import Foreign, find_foreign
from monosem.dataset.manifest import Dataset
from monosem.dataset.writer import DatasetWriter, Plan
from monosem.errors import InputError
from monosem.store.store import Store

Report = Callable[[int], None]


def import_dataset(
    source: str,
    store: Store,
    prefix: str,
    key: str | None = None,
    codec: str = "raw",
    shard_rows: int = 65536,
    report: Report = lambda rows: None,
) -> Dataset:
    """Rows of foreign files (see `monosem.dataset.foreign`) as a dataset at `prefix` of `store`, in their order.

    A row that has a NaN or an infinity is masked: all NaN. The order names the files' digest, so that the same call
    goes on after a stop, and other files in the same place are an InputError. `report` is called with rows written.
    """
    return import_foreign(find_foreign(source, key), store, prefix, codec, shard_rows, report)


def import_foreign(
    foreign: Foreign, store: Store, prefix: str, codec: str, shard_rows: int, report: Report = lambda rows: None
) -> Dataset:
    """`import_dataset` of files that were found already: their number of rows is known."""
    origin = {
        "digest": foreign.digest(),
        "files": len(foreign.files),
        "kind": foreign.kind[1:],
        "column": foreign.key,
        "dtype": foreign.dtype,
    }
    plan = Plan(foreign.width, foreign.rows, 0, codec, shard_rows, {"kind": "file", "imported": origin})
    writer, at = DatasetWriter(store, prefix, plan), 0
    for rows in foreign.chunks():
        if writer.next_row == writer.end_row:
            break
        fresh = rows[max(0, writer.next_row - at) :]  # what an earlier run has written is passed over
        at += len(rows)
        writer.add(_masked(fresh))
        report(writer.next_row)
    return writer.finish()


def _masked(rows: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(rows).all(axis=1)
    if not bad.any():
        return rows
    rows = np.array(rows)
    rows[bad] = np.nan
    return rows


def export_huggingface(dataset: Dataset, directory: str, report: Report = lambda rows: None) -> str:
    """A new directory that `datasets.load_from_disk` opens: `x` float32 [width], and `row` int64 where there is one.

    One file per file of the dataset, block by block; the directory appears under its name when it is whole. Returns
    its path. A directory that is there and not empty, or a missing `datasets`, is an InputError.
    """
    try:
        from datasets import DatasetInfo, Features, List, Value
    except ImportError as error:
        raise InputError(f"export needs the package `datasets`: pip install 'monosem[hf]' ({error})") from None
    target = Path(directory).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{directory}: exists and is not an empty directory; nothing was overwritten")
    m = dataset.manifest
    features = Features({"x": List(Value("float32"), length=m.width)} | ({"row": Value("int64")} if m.has_rows else {}))
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    names = _write_files(dataset, partial, features.arrow_schema, report)
    DatasetInfo(description=f"monosem activation dataset {m.digest}", features=features).write_to_directory(partial)
    (partial / "state.json").write_text(json.dumps(_state(names, m.digest), indent=1))
    partial.replace(target)
    return str(target)


def _write_files(dataset: Dataset, directory: Path, schema: pa.Schema, report: Report) -> list[str]:
    shards, names, rows = dataset.manifest.shards, [], 0
    reader = BlockReader(dataset)
    for number in range(len(shards)):
        names.append(f"data-{number:05d}-of-{len(shards):05d}.arrow")
        with pa.ipc.new_stream(str(directory / names[-1]), schema) as stream:
            for batch in _batches(reader, number, schema):
                stream.write_batch(batch)
                rows += len(batch)
                report(rows)
    return names


def _batches(reader: BlockReader, number: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for k in range(len(reader.manifest.shards[number].blocks)):
        stored = reader.record_batch((number, k))
        columns = [lists(decode(stored, reader.manifest.codec)).cast(schema.field("x").type)]
        columns += [stored.column("row")] if reader.manifest.has_rows else []
        yield pa.record_batch(columns, schema=schema)


def _state(names: list[str], digest: str) -> dict:
    """What `datasets` keeps beside its files."""
    return {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": digest[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
