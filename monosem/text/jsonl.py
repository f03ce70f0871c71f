"""One line of a jsonl file to a text and a domain, with limits on what a line may make of itself in memory.

Depth and number of values are limited here, not by the interpreter: its own limits depend on the version and on how
deep the caller stands, and which documents are good must depend on nothing but their bytes.
"""

import json

import numpy as np

from monosem.text.quarantine import INVALID_UTF8, NOT_JSON, NOT_OBJECT, TOO_DEEP, TOO_MANY_VALUES, Bad

MAX_DEPTH = 64
MAX_VALUES = 2**20
"""Values of one line: a short line of many empty lists takes thirty times its length in memory."""
SMALL = 2**20
"""A line of at most so many bytes cannot hold more than MAX_VALUES values."""
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_line(line: bytes, text_column: str, domain_column: str) -> tuple[object, object]:
    """(text, domain) as they stand in the line, or (Bad, "").

    Accepted beyond strict JSON, because writers do it: NaN and Infinity, a key given twice (the last one counts).
    """
    try:
        written = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Bad(INVALID_UTF8), ""
    reason = _shape_flaw(line)
    if reason:
        return Bad(reason), ""
    try:
        row = json.loads(written, parse_int=float)  # no number is used; int() refuses long ones
    except ValueError:
        return Bad(NOT_JSON), ""
    if not isinstance(row, dict):
        return Bad(NOT_OBJECT), ""
    return row.get(text_column), row.get(domain_column)


def _shape_flaw(line: bytes) -> str | None:
    if len(line) <= SMALL and line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return None
    outside = _outside_strings(line)
    opened = outside.count(b"[") + outside.count(b"{")
    if opened + outside.count(b",") > MAX_VALUES:
        return TOO_MANY_VALUES
    brackets = np.frombuffer(outside.translate(None, NOT_BRACKETS), np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return TOO_DEEP if opened > MAX_DEPTH and steps.cumsum().max() > MAX_DEPTH else None


def _outside_strings(line: bytes) -> bytes:
    """The line without its strings. Right up to the first place that is not JSON, which is as far as parsing gets."""
    quotes_only = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(quotes_only.split(b'"')[::2])
