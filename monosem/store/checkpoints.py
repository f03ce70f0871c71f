"""Checkpoints as a log: immutable objects named by their content, and create-only records.

    <prefix>/objects/<sha256>.safetensors      the tensors
    <prefix>/log/<step>.json                   {"step", "object", "bytes", "meta"}: the commit

A checkpoint exists once its record does. The record is written last and only if it is not there
yet, so a kill at any moment leaves the previous checkpoint whole, and a second writer of the same
run is noticed instead of mixed in. Everything read back is checked against its digest.
"""

from dataclasses import dataclass

from torch import Tensor

from monosem.errors import IntegrityError, StoreError
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store
from monosem.store.tensors import pack_tensors, unpack_tensors

KEEP = 2
"""Newest checkpoints that stay; one more than needed, for a reader that is just opening one."""


@dataclass(frozen=True)
class Checkpoint:
    step: int
    tensors: dict[str, Tensor]
    meta: dict


class CheckpointLog:
    def __init__(self, store: Store, prefix: str):
        self.store, self.prefix = store, prefix

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        names = self.store.list(f"{self.prefix}/log")
        return sorted(int(n.removesuffix(".json")) for n in names if n.endswith(".json"))

    def last(self) -> Checkpoint | None:
        steps = self.steps()
        return self._read(steps[-1]) if steps else None

    def commit(self, step: int, tensors: dict[str, Tensor], meta: dict) -> None:
        """Make (tensors, meta) the checkpoint of `step`. Committing the same bytes again is fine."""
        data = pack_tensors(tensors)
        digest = sha256(data)
        self.store.put(self._object(digest), data)
        record = pack_json({"step": step, "object": digest, "bytes": len(data), "meta": meta})
        if not self.store.create(self._record(step), record) and self.store.get(self._record(step)) != record:
            raise StoreError(
                f"{self.store.url}: {self._record(step)} was written by another process with other bytes; "
                "is this sweep running twice?"
            )
        self._prune()

    def clear(self) -> None:
        """Remove every checkpoint (after the final result has been committed elsewhere)."""
        for step in self.steps():
            self.store.delete(self._record(step))
        for name in self.store.list(f"{self.prefix}/objects"):
            self.store.delete(f"{self.prefix}/objects/{name}")

    def _read(self, step: int) -> Checkpoint:
        record = unpack_json(self.store.get(self._record(step)), self._record(step))
        data = self.store.get(self._object(record["object"]))
        if sha256(data) != record["object"]:
            raise IntegrityError(f"{self.store.url}: {self._object(record['object'])} does not match its digest")
        return Checkpoint(step, unpack_tensors(data, self._object(record["object"])), record["meta"])

    def _prune(self) -> None:
        for step in self.steps()[:-KEEP]:
            record = unpack_json(self.store.get(self._record(step)), self._record(step))
            self.store.delete(self._record(step))
            self.store.delete(self._object(record["object"]))

    def _record(self, step: int) -> str:
        return f"{self.prefix}/log/{step:012d}.json"

    def _object(self, digest: str) -> str:
        return f"{self.prefix}/objects/{digest}.safetensors"
