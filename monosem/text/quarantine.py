"""What makes a document unusable, and the list of those that were passed over.

A document that cannot be used is named, counted by reason and left out. It never stops the job, and never changes the
key of another document: keys are places in the source, given before anything is judged.
"""

import json
from collections import Counter
from dataclasses import dataclass, field

from monosem.text.documents import Document

DOCUMENT_BYTES = 16 * 2**20
"""Largest text of one document, in UTF-8. Tokenising takes about 150 times a text's size in memory."""
DOMAIN_CHARS = 1000
"""Longest domain label."""
LISTED_DOCUMENTS = 1_000_000
LISTED_BYTES = 128 * 2**20
"""The list of names stops at either of these; the counts go on."""
EXAMPLES = 20

INVALID_UTF8 = "invalid UTF-8"
EMPTY = "empty"
NUL = "NUL character"
SURROGATE = "lone surrogate"
TOO_LARGE = "too large"
NOT_JSON = "not JSON"
NOT_OBJECT = "not a JSON object"
TOO_DEEP = "JSON nested too deeply"
TOO_MANY_VALUES = "JSON of too many values"
NO_TEXT = "no text in the column"
BAD_DOMAIN = "unusable domain label"


@dataclass(frozen=True, slots=True)
class Bad:
    """Stands for the text of a document that could not even be read."""

    reason: str


@dataclass
class Quarantine:
    """How many documents were passed over, by reason; the first few by name; and all of them as a listing."""

    reasons: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    listed: int = 0
    _lines: bytearray = field(default_factory=bytearray, repr=False)

    def add(self, key: str, reason: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{printable(key)}: {reason}")
        if self.listed < LISTED_DOCUMENTS and len(self._lines) < LISTED_BYTES:
            self._lines += json.dumps({"key": key, "reason": reason}).encode() + b"\n"
            self.listed += 1

    def listing(self) -> bytes:
        """JSON lines `{"key": ..., "reason": ...}` in reading order, ASCII; at most LISTED_DOCUMENTS of them."""
        return bytes(self._lines)


def accept(key: str, text: object, domain: object, quarantine: Quarantine) -> Document | None:
    """The document, or None after putting it into quarantine. A domain that is no string counts as none."""
    label = domain if isinstance(domain, str) else ""
    reason = text.reason if isinstance(text, Bad) else flaw(text) or _domain_flaw(label)
    if reason:
        quarantine.add(key, reason)
        return None
    return Document(key, label, text)


def flaw(text: object) -> str | None:
    """Why `text` cannot be a document, or None if it can.

    A text with a NUL is refused: NULs come from binary files and broken conversions, hardly ever from text, and
    C programs that read the document later would see only a part of it.
    """
    if not isinstance(text, str):
        return NO_TEXT
    if not text.strip():
        return EMPTY
    if "\x00" in text:
        return NUL
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return SURROGATE
    return TOO_LARGE if size > DOCUMENT_BYTES else None


def _domain_flaw(label: str) -> str | None:
    bad = len(label) > DOMAIN_CHARS or "\x00" in label or printable(label) != label
    return BAD_DOMAIN if bad else None


def printable(text: str) -> str:
    """`text` with what UTF-8 cannot hold (file names may) written as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
