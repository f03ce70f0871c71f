"""Checkpoints as a log: immutable objects named by their content, and create-only records.

    <prefix>/objects/<sha256>.safetensors      tensors: all of them, or the shares of several ranks
    <prefix>/log/<step>.json                   {"step", "shares": [{"object", "bytes", "features"} ...], "meta"}

The record is the commit: a checkpoint exists once its record does. That is written last and only if it is not there
yet, so a kill at any moment leaves the previous checkpoint whole, and a second writer of the same run is noticed
instead of mixed in. Everything read back is checked against its digest.
"""

import sys
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
    """shares: (first feature, end, tensors) each; of a checkpoint that was written whole the one, (0, 0, tensors)."""

    step: int
    shares: list[tuple[int, int, dict[str, Tensor]]]
    meta: dict

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of a checkpoint that was written whole."""
        [(_, _, tensors)] = self.shares
        return tensors


class CheckpointLog:
    def __init__(self, store: Store, prefix: str):
        self.store, self.prefix = store, prefix

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        names = self.store.list(f"{self.prefix}/log")
        return sorted(int(n.removesuffix(".json")) for n in names if n.endswith(".json"))

    def last(self, features: tuple[int, int] | None = None, alone: bool = True) -> Checkpoint | None:
        """The newest checkpoint: the shares of some features and the first share, or (None) all shares.

        One that is damaged gives way to the one before it, and stderr says so, unless others read it too (not `alone`)
        and have to go on from the same. IntegrityError if there is none that is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._read(step, features)
            except (IntegrityError, FileNotFoundError) as error:
                if not alone or step == steps[0]:
                    raise
                sys.stderr.write(f"note: {error}; going on from the checkpoint before it\n")
        return None

    def put(self, tensors: dict[str, Tensor], features: tuple[int, int] = (0, 0)) -> dict:
        """Write one share's tensors; they count once `record` has named what this returns."""
        data = pack_tensors(tensors)
        digest = sha256(data)
        self.store.put(self._object(digest), data)
        return {"object": digest, "bytes": len(data), "features": list(features)}

    def record(self, step: int, shares: list[dict], meta: dict) -> None:
        """Make (shares, meta) the checkpoint of `step`. Recording the same again is fine."""
        record = pack_json({"step": step, "shares": shares, "meta": meta})
        if not self.store.create(self._record(step), record) and self.store.get(self._record(step)) != record:
            raise StoreError(
                f"{self.store.url}: {self._record(step)} was written by another process with other bytes; "
                "is this sweep running twice?"
            )
        self._prune()

    def commit(self, step: int, tensors: dict[str, Tensor], meta: dict) -> None:
        """A checkpoint of one share."""
        self.record(step, [self.put(tensors)], meta)

    def clear(self) -> None:
        """Remove every checkpoint (after the final result has been committed elsewhere)."""
        for step in self.steps():
            self.store.delete(self._record(step))
        for name in self.store.list(f"{self.prefix}/objects"):
            self.store.delete(f"{self.prefix}/objects/{name}")

    def _read(self, step: int, features: tuple[int, int] | None) -> Checkpoint:
        record = unpack_json(self.store.get(self._record(step)), self._record(step))
        shares = []
        for number, share in enumerate(_shares(record)):
            lo, hi = share["features"]
            if features is None or number == 0 or (lo < features[1] and features[0] < hi):
                shares.append((lo, hi, self._tensors(share["object"])))
        return Checkpoint(step, shares, record["meta"])

    def _tensors(self, digest: str) -> dict[str, Tensor]:
        data = self.store.get(self._object(digest))
        if sha256(data) != digest:
            raise IntegrityError(f"{self.store.url}: {self._object(digest)} does not match its digest")
        return unpack_tensors(data, self._object(digest))

    def _prune(self) -> None:
        """Old records go, and with them the objects that no other record names."""
        records = {}
        for step in self.steps():
            record = unpack_json(self.store.get(self._record(step)), self._record(step))
            records[step] = {share["object"] for share in _shares(record)}
        old = sorted(records)[:-KEEP]
        kept = set().union(*(objects for step, objects in records.items() if step not in old))
        for step in old:
            self.store.delete(self._record(step))
            for digest in records[step] - kept:
                self.store.delete(self._object(digest))

    def _record(self, step: int) -> str:
        return f"{self.prefix}/log/{step:012d}.json"

    def _object(self, digest: str) -> str:
        return f"{self.prefix}/objects/{digest}.safetensors"


def _shares(record: dict) -> list[dict]:
    """The shares of a record; checkpoints before version 0.2 had one object, and named it alone."""
    return record.get("shares") or [{"object": record["object"], "bytes": record["bytes"], "features": [0, 0]}]
