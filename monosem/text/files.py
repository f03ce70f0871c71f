"""Documents from files: txt, jsonl and parquet, by path or glob, local or on S3.

    .txt       the whole file is one document
    .jsonl     one JSON object per line
    .parquet   one document per row

A document that cannot be used (invalid UTF-8, not JSON, no text in its column, empty) is passed over and
counted by reason in `Quarantine`; it never stops the job.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import fsspec

from monosem.errors import InputError
from monosem.text.documents import Document

SUFFIXES = (".txt", ".jsonl", ".parquet")


@dataclass
class Quarantine:
    """How many documents were passed over, by reason, and the first few of them by name."""

    reasons: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, key: str, reason: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{key}: {reason}")


def find_files(source: str) -> tuple[object, list[str]]:
    """(filesystem, sorted paths) matching `source`: a file, a directory or a glob. None is an InputError."""
    try:
        fs, path = fsspec.core.url_to_fs(source)
        if any(c in path for c in "*?["):
            found = fs.glob(path)
        elif fs.isdir(path):
            found = list(fs.find(path))
        else:
            found = [path] if fs.exists(path) else []
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"corpus.source={source!r}: cannot be read: {error}") from error
    if not found:
        raise InputError(f"corpus.source={source!r}: no such file (use builtin, a path, a directory or a glob)")
    usable = sorted(p for p in found if p.endswith(SUFFIXES))
    if not usable:
        raise InputError(f"corpus.source={source!r}: {len(found)} files, none ends in {', '.join(SUFFIXES)}")
    return fs, usable


def identity(source: str) -> list[list]:
    """What the files are now, without reading them: [path, size, version] of each."""
    fs, paths = find_files(source)
    rows = []
    for path in paths:
        info = fs.info(path)
        version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created")
        rows.append([path, info.get("size"), str(version)])
    return rows


def documents(source: str, text_column: str, domain_column: str, quarantine: Quarantine) -> Iterator[Document]:
    """Every usable document, in order of path and position."""
    fs, paths = find_files(source)
    for path in paths:
        if path.endswith(".txt"):
            rows = _txt(fs, path)
        elif path.endswith(".jsonl"):
            rows = _jsonl(fs, path, text_column, domain_column)
        else:
            rows = _parquet(fs, path, text_column, domain_column, source)
        for number, (text, domain) in enumerate(rows):
            key = f"{path}#{number}"
            reason = _unusable(text)
            if reason:
                quarantine.add(key, reason)
            else:
                yield Document(key, domain if isinstance(domain, str) else "", text)


def _unusable(text: object) -> str | None:
    if isinstance(text, Exception):
        return f"{type(text).__name__}"
    if not isinstance(text, str):
        return "no text in the column"
    if not text.strip():
        return "empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "lone surrogate"
    return None


def _decode(data: bytes) -> object:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return error


def _txt(fs, path: str) -> Iterator[tuple[object, object]]:
    yield _decode(fs.cat_file(path)), ""


def _jsonl(fs, path: str, text_column: str, domain_column: str) -> Iterator[tuple[object, object]]:
    with fs.open(path, "rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield error, ""
                continue
            if isinstance(row, dict):
                yield row.get(text_column), row.get(domain_column)
            else:
                yield None, ""


def _parquet(fs, path: str, text_column: str, domain_column: str, source: str) -> Iterator[tuple[object, object]]:
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        file = pq.ParquetFile(fs.open(path, "rb"))
    except (ArrowException, OSError) as error:
        raise InputError(f"corpus.source={source!r}: {path} is not a parquet file: {error}") from error
    names = file.schema_arrow.names
    if text_column not in names:
        raise InputError(f"corpus.text_column={text_column!r}: {path} has the columns {', '.join(names)}")
    columns = [text_column] + ([domain_column] if domain_column in names else [])
    for batch in file.iter_batches(batch_size=256, columns=columns):
        texts = batch.column(0).to_pylist()
        domains = batch.column(1).to_pylist() if len(columns) == 2 else [""] * len(texts)
        yield from zip(texts, domains, strict=True)
