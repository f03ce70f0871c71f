"""Bytes of a file in bounded pieces, decompressed on the way; lines that are never longer than a limit.

Decompression is pyarrow's: gzip and zstd, several members in a row, checksums checked. A file that ends early or
breaks off is an error, never a short file: row numbers must not differ between two readings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa

from monosem.errors import InputError
from monosem.text.quarantine import printable

CODECS = {".gz": "gzip", ".zst": "zstd"}
CHUNK = 2**20
LINE_BYTES = 32 * 2**20
"""Longest line of a jsonl file; a longer one is read past without being held."""


@contextmanager
def reading(source: str, path: str) -> Iterator[None]:
    """Turns every failure to read `path` into a one-line InputError. A damaged length may ask for any memory."""
    try:
        yield
    except (OSError, EOFError, MemoryError, UnicodeDecodeError, pa.lib.ArrowException) as error:
        raise InputError(
            f"corpus.source={source!r}: {printable(path)} cannot be read to its end: {one_line(error)}"
        ) from error


def one_line(error: Exception) -> str:
    """The error's message on one line of bounded length; its type where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return printable(text if len(text) <= 300 else text[:297] + "...")


@contextmanager
def open_stream(fs, path: str) -> Iterator[BinaryIO]:
    """`path` for reading bytes in order, decompressed by its suffix. Broken data is OSError while reading."""
    codec = next((name for suffix, name in CODECS.items() if path.endswith(suffix)), None)
    with fs.open(path, "rb") as raw:
        if codec is None:
            yield raw
            return
        if fs.size(path) == 0:  # the decompressor takes nothing at all for the end
            raise OSError("Truncated compressed stream: 0 bytes")
        yield pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec)


def read_at_most(stream: BinaryIO, limit: int) -> bytes | None:
    """The rest of the stream, or None if that is more than `limit` bytes; then no more is read."""
    parts, size = [], 0
    while chunk := stream.read(CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            return None
    return b"".join(parts)


def bounded_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Every line without its newline; None for one longer than LINE_BYTES, which is read past piece by piece."""
    parts: list[bytes] = []
    size = 0
    while chunk := stream.read(CHUNK):
        for number, piece in enumerate(chunk.split(b"\n")):
            if number:  # a newline stood before this piece
                yield b"".join(parts) if size <= LINE_BYTES else None
                parts, size = [], 0
            size += len(piece)
            if size <= LINE_BYTES:
                parts.append(piece)
            else:
                parts.clear()
    if size:
        yield b"".join(parts) if size <= LINE_BYTES else None
