"""A document: one text with a name, a domain label and the split it belongs to."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `key` is unique in its corpus; `domain` is "" where the source gives none."""

    key: str
    domain: str
    text: str


def is_heldout(key: str, fraction: float) -> bool:
    """Whether the document named `key` is held out of training.

    A pure function of the name, so that the split never depends on order, time or how much
    of a corpus was read.
    """
    digest = hashlib.sha256(b"heldout:" + key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < int(fraction * 2**64)
