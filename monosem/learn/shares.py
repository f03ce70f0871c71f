"""A checkpoint's shares, written by one mesh, put together for another.

A share has what belongs to some features, and the first of all has besides it what belongs to none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from monosem.errors import IntegrityError
from monosem.sae.model import FEATURE_AXIS

Share = tuple[int, int, dict[str, Tensor]]
"""Features [first, end) and the tensors."""


def axis_of(name: str) -> int | None:
    """The axis of a checkpoint's tensor along which features lie; None if it has none."""
    if name == "last_fired":
        return 0
    parameter = name.split(".")[1] if name.startswith("adam.") else name
    return FEATURE_AXIS.get(parameter)


def assembled(shares: Sequence[Share], first: int, end: int) -> dict[str, Tensor]:
    """What belongs to features [first, end), and to none. IntegrityError if the shares have a gap there."""
    found = {name: t for name, t in shares[0][2].items() if axis_of(name) is None}
    pieces: dict[str, list[Tensor]] = {}
    place = first
    for lo, hi, tensors in sorted(shares, key=lambda share: share[:2]):
        begin, stop = max(lo, first), min(hi, end)
        if begin >= stop:
            continue
        if begin != place:
            raise IntegrityError(f"a checkpoint has no features {place:,} to {begin:,}")
        for name, t in tensors.items():
            if (axis := axis_of(name)) is not None:
                pieces.setdefault(name, []).append(t.narrow(axis, begin - lo, stop - begin))
        place = stop
    if place != end:
        raise IntegrityError(f"a checkpoint has no features {place:,} to {end:,}")
    return found | {name: torch.cat(parts, dim=axis_of(name)) for name, parts in pieces.items()}
