"""Checkpoints as a log: immutable objects named by their content, and create-only records.

    <prefix>/objects/<sha256>.safetensors      tensors: all of them, or the shares of several ranks
    <prefix>/log/<step>.json                   {"step", "shares": [{"object", "bytes", "features"} ...], "meta"}

The record is the commit: a checkpoint exists once its record does. That is written last and only if it is not there
yet, so a kill at any moment leaves the previous checkpoint whole, and a second writer of the same run is noticed
instead of mixed in. Everything read back is checked against its digest.
"""

import re
import sys
from dataclasses import dataclass

from torch import Tensor

from monosem.errors import IntegrityError, StoreError
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store
from monosem.store.tensors import pack_tensors, unpack_tensors

KEEP = 2
"""Newest checkpoints that stay; one more than needed, for a reader that is just opening one."""
DIGEST = re.compile("[0-9a-f]{64}")


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
        and have to go on from the same. It is removed then: its step is reached again, and recorded again. An
        IntegrityError if there is none that is whole; nothing is removed then.
        """
        steps, damaged = self.steps(), []
        for step in reversed(steps):
            try:
                found = self._read(step, features)
            except (IntegrityError, FileNotFoundError) as error:
                if not alone or step == steps[0]:
                    raise
                sys.stderr.write(f"note: {error}; going on from the checkpoint before it\n")
                damaged.append(step)
                continue
            for late in damaged:
                self._discard(late)
            return found
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
        shares, meta = self._recorded(step)
        wanted = []
        for number, (digest, lo, hi) in enumerate(shares):
            if features is None or number == 0 or (lo < features[1] and features[0] < hi):
                wanted.append((lo, hi, self._tensors(digest)))
        return Checkpoint(step, wanted, meta)

    def _recorded(self, step: int) -> tuple[list[tuple[str, int, int]], dict]:
        """The shares that a record names, (object, first feature, end) each, and its meta."""
        path = self._record(step)
        return _fields(unpack_json(self.store.get(path), path), f"{self.store.url}: {path}")

    def _tensors(self, digest: str) -> dict[str, Tensor]:
        data = self.store.get(self._object(digest))
        if sha256(data) != digest:
            raise IntegrityError(f"{self.store.url}: {self._object(digest)} does not match its digest")
        return unpack_tensors(data, self._object(digest))

    def _objects(self, step: int) -> set[str] | None:
        """The objects that a record names; None if it cannot be read."""
        try:
            return {digest for digest, _, _ in self._recorded(step)[0]}
        except (IntegrityError, FileNotFoundError):
            return None

    def _discard(self, step: int) -> None:
        """Remove a damaged checkpoint: its record, and those of its objects that are not what they are named by."""
        for digest in self._objects(step) or ():
            try:
                self._tensors(digest)
            except FileNotFoundError:
                continue
            except IntegrityError:
                self.store.delete(self._object(digest))
        self.store.delete(self._record(step))

    def _prune(self) -> None:
        """Old records go, and with them the objects that no other record names. One that cannot be read counts for
        nothing, and goes with those that are older than it."""
        named = {step: self._objects(step) for step in self.steps()}
        whole = sorted(step for step, objects in named.items() if objects is not None)
        old = [step for step in named if whole and step < whole[-KEEP:][0]]
        kept = set().union(*(objects or () for step, objects in named.items() if step not in old))
        for step in old:
            self.store.delete(self._record(step))
            for digest in (named[step] or set()) - kept:
                self.store.delete(self._object(digest))

    def _record(self, step: int) -> str:
        return f"{self.prefix}/log/{step:012d}.json"

    def _object(self, digest: str) -> str:
        return f"{self.prefix}/objects/{digest}.safetensors"


def _fields(record: dict, what: str) -> tuple[list[tuple[str, int, int]], dict]:
    """What a record holds, or IntegrityError; checkpoints before version 0.2 had one object, and named it alone."""
    try:
        named = record.get("shares") or [{"object": record["object"], "features": [0, 0]}]
        shares = [(share["object"], *map(int, share["features"])) for share in named]
        meta = record["meta"]
        if not isinstance(meta, dict) or not all(len(s) == 3 and DIGEST.fullmatch(s[0]) for s in shares):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise IntegrityError(f"{what}: not the record of a checkpoint") from None
    return shares, meta
