"""Token ids of documents, one after another, cut into contexts of one length: the buffer behind `tokens.pack`."""

from array import array

import numpy as np

from monosem.errors import InputError

FLUSH_TOKENS = 2**20
"""Tokens held as Python numbers before they are packed; bounds memory, changes nothing else."""
MAX_DOMAINS = 65_536


class Packer:
    """Collects one side of a corpus. `size` counts its tokens, without the begin tokens of contexts."""

    def __init__(self, context_length: int, dtype: np.dtype, begin: int | None):
        self.context_length, self.dtype, self.begin = context_length, dtype, begin
        self.text_from = 0 if begin is None else 1
        self.size = 0
        self.pending: list[int] = []
        self.packed = bytearray()
        self.starts = array("q")
        self.labels = array("i")
        self.keys = bytearray()
        self.key_ends = array("q", [0])
        self.domains: dict[str, int] = {}

    def add(self, key: str, domain: str, ids: list[int]) -> None:
        """The next document: its token ids with the end token."""
        self.starts.append(self.size)
        self.labels.append(self.domains.setdefault(domain, len(self.domains)))
        if len(self.domains) > MAX_DOMAINS:
            raise InputError(
                f"corpus.domain_column: more than {MAX_DOMAINS:,} different labels; name a column of groups"
            )
        self.keys += key.encode("utf-8", "surrogatepass")  # names of files need not be valid Unicode
        self.key_ends.append(len(self.keys))
        self.pending += ids
        self.size += len(ids)
        if len(self.pending) >= FLUSH_TOKENS:
            self._flush()

    def _flush(self) -> None:
        width = self.context_length - self.text_from
        n = len(self.pending) // width
        rows = np.array(self.pending[: n * width], self.dtype).reshape(n, width)
        if self.begin is not None:
            rows = np.hstack([np.full((n, 1), self.begin, self.dtype), rows])
        self.packed += rows.tobytes()
        del self.pending[: n * width]

    def finish(self) -> dict[str, np.ndarray]:
        """Arrays by their name in TokenIndex. The unfinished tail is dropped, its documents stay listed."""
        self._flush()
        width = self.context_length - self.text_from
        starts = np.array(self.starts, dtype=np.int64)
        return {
            "tokens_NT": np.frombuffer(self.packed, self.dtype).reshape(-1, self.context_length),
            "doc_starts": starts // width * self.context_length + starts % width + self.text_from,
            "doc_domains": np.array(self.labels, dtype=np.int32),
            "doc_keys_bytes": np.frombuffer(self.keys, np.uint8),
            "doc_keys_offsets": np.array(self.key_ends, dtype=np.int64),
        }
