"""Activation datasets: rows of one hook point at rest, as Arrow IPC files and a manifest.

    <dataset>/begin.json                what it is going to be: written first, create-only
    <dataset>/shards/<first row>.arrow  record batches of BLOCK_ROWS rows
    <dataset>/shards/<first row>.json   that file's rows, bytes and digests: the commit of a shard
    <dataset>/manifest.json             everything, written last, create-only; the records of the shards go

Row i of the dataset is row `first_row + i` of its order: of a stream (`order.kind` "stream": the arithmetic that a
sweep's row positions follow), or of nothing but itself ("file": imported or shuffled rows). What is read back is
checked against its digest, block by block.
"""

from dataclasses import dataclass, field

import pyarrow as pa
import xxhash

from monosem.errors import InputError, IntegrityError
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store, open_store

FORMAT, VERSION = "monosem-activations", 1
BLOCK_ROWS = 8192
"""Rows of a record batch: what is read and checked at once."""
BEGIN, MANIFEST, SHARDS = "begin.json", "manifest.json", "shards"


@dataclass(frozen=True)
class Shard:
    """One file: `rows` rows from `first` on (counted in the dataset), and digests of the file and of its blocks."""

    first: int
    rows: int
    bytes: int
    sha256: str
    blocks: tuple[str, ...]

    @property
    def name(self) -> str:
        return shard_name(self.first)


@dataclass(frozen=True)
class Manifest:
    """What a dataset is.

    width      of a row
    rows       how many
    first_row  of its order
    codec      see `monosem.dataset.codec`
    dtype      of the rows as they were before encoding
    order      {"kind": "stream" | "file", ...}: what the rows' positions mean
    lineage    where the rows come from
    error      what the codec's rounding did: {"fvu", "largest", "exact"}
    masked     rows that are NaN
    has_rows   whether a column `row` says where each row came from
    shards     the files, in order
    """

    width: int
    rows: int
    first_row: int
    codec: str
    order: dict
    lineage: dict
    error: dict
    masked: int
    has_rows: bool
    shards: tuple[Shard, ...] = field(repr=False)
    dtype: str = "float32"

    @property
    def digest(self) -> str:
        """Names the dataset: SHA-256 over order, codec and the files' digests."""
        files = [[s.first, s.rows, s.sha256] for s in self.shards]
        return sha256(pack_json({"order": self.order, "codec": self.codec, "width": self.width, "files": files}))

    def as_json(self) -> dict:
        plain = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "shards"}
        shards = [{**s.__dict__, "blocks": list(s.blocks)} for s in self.shards]
        return {"format": FORMAT, "version": VERSION, "digest": self.digest, **plain, "shards": shards}


@dataclass(frozen=True)
class Dataset:
    """A finished dataset at `prefix` of `store`."""

    store: Store
    prefix: str
    manifest: Manifest

    @property
    def uri(self) -> str:
        return f"{self.store.url}/{self.prefix}" if self.prefix else self.store.url

    def path(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def shard_name(first: int) -> str:
    return f"{SHARDS}/{first:015d}.arrow"


def open_dataset(uri: str, prefix: str = "") -> Dataset:
    """The dataset at a path or URL (and `prefix` below it); one that is missing or unfinished is an InputError."""
    store = open_store(uri.rstrip("/"))
    path = f"{prefix}/{MANIFEST}" if prefix else MANIFEST
    try:
        record = unpack_json(store.get(path), f"{uri}/{path}")
    except FileNotFoundError:
        begun = store.exists(path.replace(MANIFEST, BEGIN))
        what = "the dataset there is not finished; run its harvest again" if begun else "no activation dataset there"
        raise InputError(f"{uri}: {what} (no {path})") from None
    return Dataset(store, prefix, read_manifest(record, f"{uri}/{path}"))


def read_manifest(record: dict, what: str) -> Manifest:
    """A manifest from its JSON; anything amiss is an IntegrityError."""
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise IntegrityError(
            f"{what}: format {record.get('format')!r} version {record.get('version')!r}, "
            f"this monosem reads {FORMAT} version {VERSION}"
        )
    try:
        shards = tuple(
            Shard(int(s["first"]), int(s["rows"]), int(s["bytes"]), s["sha256"], tuple(s["blocks"]))
            for s in record["shards"]
        )
        plain = {k: record[k] for k in Manifest.__dataclass_fields__ if k != "shards"}
        manifest = Manifest(**plain, shards=shards)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{what}: not a manifest: {error}") from error
    if manifest.digest != record.get("digest"):
        raise IntegrityError(f"{what}: does not match its own digest")
    at = 0
    for shard in shards:
        if shard.first != at:
            raise IntegrityError(f"{what}: rows from {at} on are missing")
        at += shard.rows
    if at != manifest.rows:
        raise IntegrityError(f"{what}: the files hold {at} rows, the manifest says {manifest.rows}")
    return manifest


def block_digest(batch: pa.RecordBatch) -> str:
    """XXH3-128 of the columns' values, in schema order."""
    digest = xxhash.xxh3_128()
    for column in batch.columns:
        values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        digest.update(values.to_numpy(zero_copy_only=True).data)
    return digest.hexdigest()
