"""Documents from files, by path, directory or glob, local or on S3.

    .txt       the whole file is one document
    .jsonl     one JSON object per line; blank lines are no documents
    .parquet   one document per row
    .arrow     one document per row (what `datasets` writes with save_to_disk: the files that state.json names, in
               that order, and not its caches)

.txt and .jsonl may be compressed: .gz or .zst. A document's key is `<path>#<number>`: the path below the
source's directory, and the line or row in the file, counted from 0, the unusable ones included. A byte-order mark
is no text.
"""

import re
from collections.abc import Iterator

import fsspec

from monosem.errors import InputError
from monosem.store.saved import STATE, named_files
from monosem.text.columns import arrow_rows, parquet_rows
from monosem.text.documents import Document
from monosem.text.jsonl import parse_line
from monosem.text.quarantine import DOCUMENT_BYTES, INVALID_UTF8, TOO_LARGE, Bad, Quarantine, accept, printable
from monosem.text.streams import CODECS, bounded_lines, one_line, open_stream, read_at_most, reading

LINE_BASED = (".txt", ".jsonl")
SUFFIXES = (
    *LINE_BASED,
    *(kind + packed for kind in LINE_BASED for packed in CODECS),
    ".parquet",
    ".arrow",
)


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
    except Exception as error:  # every kind of file system raises errors of its own kind
        raise InputError(f"corpus.source={source!r}: cannot be read: {one_line(error)}") from error
    if not found:
        raise InputError(
            f"corpus.source={source!r}: no such file (use builtin, a path, a directory, a glob or hf:dataset)"
        )
    splits = [p for p in found if p.rsplit("/", 1)[-1] == "dataset_dict.json"]
    if splits:
        raise InputError(f"corpus.source={source!r}: a saved dataset of several splits; name the directory of one")
    usable = _saved(fs, found, sorted(p for p in found if p.endswith(SUFFIXES) and not _is_cache(p)))
    if not usable:
        raise InputError(f"corpus.source={source!r}: {len(found)} files, none ends in {', '.join(SUFFIXES)}")
    return fs, usable


def _saved(fs, found: list[str], usable: list[str]) -> list[str]:
    """`usable`, where a directory is a saved dataset with only the Arrow files that its state.json names, in its order.

    A longer save before may have left other files there, whose rows would be read twice.
    """
    for state in (p for p in found if p.rsplit("/", 1)[-1] == STATE):
        directory = state[: -len(STATE)]
        here = {p for p in usable if p.endswith(".arrow") and p.rpartition("/")[0] + "/" == directory}
        if not here:
            continue  # a file of this name that has nothing to do with Arrow files
        names = [directory + name for name in named_files(fs.cat_file(state), printable(state))]
        if missing := [p for p in names if p not in here and not fs.exists(p)]:
            raise InputError(f"{printable(missing[0])}: is named by {STATE} and missing")
        kept, old = iter([p for p in names if p in here]), here - set(names)
        places = [p for p in usable if p not in old]
        usable = [next(kept) if p in here else p for p in places]
    return usable


def _root(fs, source: str) -> str:
    """The directory that documents are named from: a corpus keeps its split when it moves to another place."""
    _, path = fsspec.core.url_to_fs(source)
    fixed = re.split(r"[*?\[]", path, maxsplit=1)[0]
    if fixed == path and fs.isdir(path):
        return path.rstrip("/") + "/"
    return fixed[: fixed.rfind("/") + 1]


def _is_cache(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.endswith(".arrow") and name.startswith(("cache-", "tmp"))


def identity(source: str) -> list[list]:
    """What the files are now, without reading them: [path, size, version] of each."""
    return versions(*find_files(source))


def versions(fs, paths: list[str]) -> list[list]:
    """[path, size, version] of each; the version is an ETag or a time of change."""
    rows = []
    for path in paths:
        info = fs.info(path)
        version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created")
        rows.append([printable(path), info.get("size"), str(version)])
    return rows


def documents(source: str, text_column: str, domain_column: str, quarantine: Quarantine) -> Iterator[Document]:
    """Every usable document, in order of path and position; the others go to `quarantine`.

    A file that cannot be read to its end, or lacks the column, is an InputError when it is reached.
    """
    fs, paths = find_files(source)
    root = _root(fs, source)
    for path in paths:
        name = path.removeprefix(root)
        if path.endswith(".parquet"):
            rows = enumerate(parquet_rows(fs, path, text_column, domain_column, source))
        elif path.endswith(".arrow"):
            rows = enumerate(arrow_rows(fs, path, text_column, domain_column, source))
        elif path.endswith((".txt", *(".txt" + packed for packed in CODECS))):
            rows = _txt(fs, path, source)
        else:
            rows = _jsonl(fs, path, text_column, domain_column, source)
        for number, (text, domain) in rows:
            document = accept(f"{name}#{number}", text, domain, quarantine)
            if document:
                yield document


def _txt(fs, path: str, source: str) -> Iterator[tuple[int, tuple[object, object]]]:
    with reading(source, path), open_stream(fs, path) as stream:
        data = read_at_most(stream, DOCUMENT_BYTES)
    if data is None:
        yield 0, (Bad(TOO_LARGE), "")
        return
    try:
        yield 0, (data.decode("utf-8-sig"), "")
    except UnicodeDecodeError:
        yield 0, (Bad(INVALID_UTF8), "")


def _jsonl(
    fs, path: str, text_column: str, domain_column: str, source: str
) -> Iterator[tuple[int, tuple[object, object]]]:
    with reading(source, path), open_stream(fs, path) as stream:
        for number, line in enumerate(bounded_lines(stream)):
            if line is None:
                yield number, (Bad(TOO_LARGE), "")
            elif line.strip():
                yield number, parse_line(line, text_column, domain_column)
