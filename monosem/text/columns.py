"""Parquet and Arrow files: text and domain of each row, whatever Arrow type the columns have.

Values are taken as bytes and decoded one by one, so that one invalid text costs one document. Offsets are validated
before use: pyarrow trusts them, and a wrong one would end the process.
"""

import difflib
from collections.abc import Iterator
from os import SEEK_END

import pyarrow as pa

from monosem.errors import InputError
from monosem.store.saved import is_whole_stream
from monosem.text.quarantine import DOCUMENT_BYTES, INVALID_UTF8, TOO_LARGE, Bad, printable
from monosem.text.streams import reading

BATCH_ROWS = 64
"""Rows of a parquet file held at a time."""
AS_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
    pa.binary(): pa.binary(),
    pa.large_binary(): pa.large_binary(),
    pa.binary_view(): pa.binary_view(),
}


def parquet_rows(fs, path: str, text_column: str, domain_column: str, source: str) -> Iterator[tuple[object, object]]:
    """(text, domain) of every row. A broken file or a missing column is an InputError."""
    import pyarrow.parquet as pq

    with reading(source, path), fs.open(path, "rb") as raw:
        file = pq.ParquetFile(raw)
        names = file.schema_arrow.names
        check_column(names, text_column, printable(path))
        columns = [name for name in (text_column, domain_column) if name in names]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            yield from batch_rows(batch, text_column, domain_column)


def arrow_rows(fs, path: str, text_column: str, domain_column: str, source: str) -> Iterator[tuple[object, object]]:
    """The same for an Arrow IPC file, stream or random-access format."""
    with reading(source, path), fs.open(path, "rb") as raw:
        head = raw.read(8)
        raw.seek(max(0, raw.seek(0, SEEK_END) - 8))
        tail = raw.read(8)
        raw.seek(0)
        if framed := head.startswith(b"ARROW1"):
            reader = pa.ipc.open_file(pa.PythonFile(raw, "r"))
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = reader = pa.ipc.open_stream(pa.PythonFile(raw, "r"))
        check_column(reader.schema.names, text_column, printable(path))
        for batch in batches:
            yield from batch_rows(batch, text_column, domain_column)
        if not framed and not is_whole_stream(head, tail):
            raise EOFError("the stream's end marker is missing, so it was cut")


def check_column(names: list[str], text_column: str, where: str) -> None:
    """InputError, with the nearest name, if `names` lacks the column of the text."""
    if text_column not in names:
        near = difflib.get_close_matches(text_column, names, 1)
        raise InputError(
            f"corpus.text_column={text_column!r}: {where} has the columns {', '.join(names)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )


def batch_rows(batch: pa.RecordBatch, text_column: str, domain_column: str) -> Iterator[tuple[object, object]]:
    """(text, domain) of every row of one batch: str, None or Bad; the domain is None where there is none."""
    texts = _column(batch, text_column)
    if texts is None:
        kind = batch.schema.types[batch.schema.names.index(text_column)]
        raise InputError(f"corpus.text_column={text_column!r}: the column holds {kind}, not text")
    domains = _column(batch, domain_column) if domain_column in batch.schema.names else None
    for row in range(len(texts)):
        domain = None if domains is None else _value(domains[row])
        # An unreadable label is left to be refused as a label: no valid one holds a NUL.
        yield _value(texts[row]), "\x00" if isinstance(domain, Bad) else domain


def _column(batch: pa.RecordBatch, name: str) -> pa.Array | None:
    """The column as an array of byte strings, checked; None if it holds something else."""
    column = batch.column(batch.schema.names.index(name))
    if pa.types.is_dictionary(column.type):
        column.indices.validate(full=True)
        values = _as_bytes(column.dictionary)
        return None if values is None else values.take(column.indices)
    return _as_bytes(column)


def _as_bytes(column: pa.Array) -> pa.Array | None:
    if pa.types.is_null(column.type):
        return column
    kind = AS_BYTES.get(column.type)
    if kind is None:
        return None
    # Before the type is trusted: validating a string array would also refuse the batch for one invalid text.
    column = column if column.type == kind else column.view(kind)
    column.validate(full=True)
    return column


def _value(scalar: pa.Scalar) -> str | Bad | None:
    if not scalar.is_valid:
        return None
    buffer = scalar.as_buffer()
    if buffer.size > DOCUMENT_BYTES:
        return Bad(TOO_LARGE)
    try:
        return buffer.to_pybytes().decode()
    except UnicodeDecodeError:
        return Bad(INVALID_UTF8)
