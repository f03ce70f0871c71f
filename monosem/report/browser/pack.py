"""Data files of the site: scripts that hand over one value each, so that pages opened from disk can read them.

A file `data/<name>.js` holds `M.put("<name>", "<base64>")`: JSON, deflated (zlib). Whatever the value's text is, the
file is plain ASCII out of the base64 alphabet: nothing in it can end a string, a script or a line.
"""

import base64
import json
import math
import re
import zlib
from itertools import pairwise

import numpy as np

from monosem.store.store import Store

NAME = re.compile(r"[A-Za-z0-9_.=/-]+")
LEVEL = 4
"""zlib's: a quarter of the size of the JSON; higher levels cost more time than they save."""


class Site:
    """Where the files go. `bytes` counts what was written."""

    def __init__(self, store: Store, prefix: str = ""):
        self.store, self.prefix, self.bytes = store, prefix, 0

    def put(self, path: str, data: bytes) -> None:
        self.store.put(f"{self.prefix}{path}", data)
        self.bytes += len(data)

    def data(self, name: str, value: object) -> None:
        """Write `value`, anything that JSON can hold, as the data file called `name`."""
        self.put(f"data/{name}.js", packed(name, value))


def packed(name: str, value: object) -> bytes:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a data file")
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, check_circular=False)
    return b'M.put("%s","%s");\n' % (name.encode(), base64.b64encode(zlib.compress(text.encode(), LEVEL)))


def column(values: np.ndarray, dtype: str) -> str:
    """A column of numbers as base64 of little-endian `dtype` ("<f4", "<u4", "u1" ...)."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def rounded(x: np.ndarray | float, digits: int = 4) -> np.ndarray:
    """To so many significant digits, as the paper's published data; float64."""
    x = np.asarray(x, dtype=np.float64)
    size = np.abs(x)
    with np.errstate(divide="ignore"):
        power = np.where(size > 0, digits - 1 - np.floor(np.log10(size)), 0.0)
    power = np.clip(power, -300, 300)
    first = np.round(_times_ten_to(x, power))
    power = np.where(np.abs(first) >= 10.0**digits, power - 1, power)  # 9,999.5 has become 10,000, of a digit more
    return _times_ten_to(np.round(_times_ten_to(x, power)), -power)


def _times_ten_to(x: np.ndarray, power: np.ndarray) -> np.ndarray:
    """x 10^power, by way of whole powers of ten, which are exact up to 10^22."""
    return np.where(power < 0, x / 10.0 ** np.maximum(-power, 0), x * 10.0 ** np.maximum(power, 0))


def plain(x: float | None, digits: int = 4) -> float | None:
    """One number, rounded; None where it was not measured or is not finite."""
    return None if x is None or not math.isfinite(x) else float(f"{x:.{digits}g}")


def listed(values: np.ndarray) -> list[float | None]:
    """Rounded numbers for JSON; None for what is not finite."""
    numbers = values.tolist()
    return numbers if bool(np.isfinite(values).all()) else [x if math.isfinite(x) else None for x in numbers]


def sparse(values: np.ndarray, starts: np.ndarray) -> list[list]:
    """For each stretch [starts[i], starts[i + 1]) of `values`: its non-zero entries as [place, value, place, ...].

    values   rounded already
    """
    at = np.flatnonzero(values)
    row = np.searchsorted(starts, at, side="right") - 1
    flat: list = [None] * (2 * len(at))
    flat[0::2] = (at - starts[row]).tolist()
    flat[1::2] = values[at].tolist()
    ends = (2 * np.searchsorted(at, starts)).tolist()
    return [flat[a:b] for a, b in pairwise(ends)]
