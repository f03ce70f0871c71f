"""How rows are written to a file: as they are, or rounded by an amount that is measured.

    raw, zstd   x: fixed_size_list<float32>[width]          every bit; zstd also compresses the file's buffers
    bf16        x: fixed_size_list<uint16>[width]           the upper half of each float32, rounded to nearest even,
                                                            and to the largest finite one where that is infinite
    int8        x: fixed_size_list<int8>[width]             with one scale per row and 64 values:
                scale: fixed_size_list<float32>[width/64]   x = int8 * scale, scale = largest |x| / 127

A masked row (NaN) stays one. A column `row` (int64) may stand beside them: where each row came from.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

SCALED = 64
"""Values that share one int8 scale."""


@dataclass(frozen=True)
class CodecError:
    """What rounding did, as sums over rows, so that the errors of files add up.

    rows     rows that are not masked
    error    sum of squared differences
    total    sum, square: over all values, of x by column (float64 [width]) and of x*x
    changed  values whose bits are not restored
    largest  largest absolute difference
    """

    rows: int
    error: float
    sums: tuple[float, ...]
    squares: float
    changed: int
    largest: float

    def __add__(self, other: "CodecError") -> "CodecError":
        return CodecError(
            self.rows + other.rows,
            self.error + other.error,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            self.squares + other.squares,
            self.changed + other.changed,
            max(self.largest, other.largest),
        )

    def summary(self) -> dict:
        """fvu: squared error over variance; largest: of a value; exact: every bit is restored."""
        variance = self.squares - sum(s * s for s in self.sums) / max(1, self.rows)
        return {
            "fvu": self.error / variance if variance > 0 else 0.0,
            "largest": self.largest,
            "exact": self.changed == 0,
        }


def encode(rows: np.ndarray, codec: str) -> dict[str, pa.Array]:
    """Columns for float32 rows [n, width]."""
    if codec in ("raw", "zstd"):
        return {"x": lists(rows)}
    if codec == "bf16":
        return {"x": lists(_upper_halves(rows))}
    groups = _groups(rows)
    scale = np.abs(groups).max(axis=2) / np.float32(127)
    with np.errstate(invalid="ignore", over="ignore"):
        # near the largest float, 127 steps of a scale that was rounded up would be infinite
        scale = np.where(np.isinf(scale * np.float32(127)), np.nextafter(scale, np.float32(0)), scale)
        quotient = groups / np.where(scale > 0, scale, np.float32(1))[:, :, None]
        # where the largest is subnormal, so coarse is the scale that a quotient may be beyond 127
        whole = np.clip(np.rint(np.nan_to_num(quotient)), -127, 127).astype(np.int8)
    return {"x": lists(whole.reshape(len(rows), -1)[:, : rows.shape[1]]), "scale": lists(scale)}


def decode(batch: pa.RecordBatch, codec: str) -> np.ndarray:
    """float32 rows [n, width] of a record batch; a view for raw and zstd, new memory otherwise."""
    x = _matrix(batch.column("x"))
    if codec in ("raw", "zstd"):
        return x
    if codec == "bf16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    scale = np.repeat(_matrix(batch.column("scale")), SCALED, axis=1)[:, : x.shape[1]]
    return x.astype(np.float32) * scale


def measure(rows: np.ndarray, restored: np.ndarray) -> CodecError:
    """What became of `rows` in `restored`, both float32 [n, width]."""
    kept = ~np.isnan(rows[:, 0])
    x, y = rows[kept].astype(np.float64), restored[kept].astype(np.float64)
    difference = np.abs(x - y)
    changed = int((rows.view(np.uint32) != np.ascontiguousarray(restored).view(np.uint32))[kept].sum())
    return CodecError(
        rows=int(kept.sum()),
        error=float(np.square(difference).sum()),
        sums=tuple(x.sum(axis=0).tolist()),
        squares=float(np.square(x).sum()),
        changed=changed,
        largest=float(difference.max(initial=0.0)),
    )


def _upper_halves(rows: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, ties to even; NaN stays NaN. uint16 of the same shape.

    Written out, because the conversion of a library differs in its NaN from machine to machine.
    """
    bits = np.ascontiguousarray(rows).view(np.uint32)
    halves = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    too_large = ((halves & 0x7FFF) == 0x7F80) & np.isfinite(rows)
    halves[too_large] -= np.uint16(1)
    halves[np.isnan(rows)] = 0x7FC0
    return halves


def _groups(rows: np.ndarray) -> np.ndarray:
    """Rows padded with zeros to [n, groups, SCALED]."""
    n, width = rows.shape
    groups = -(-width // SCALED)
    padded = np.zeros((n, groups * SCALED), dtype=np.float32)
    padded[:, :width] = rows
    return padded.reshape(n, groups, SCALED)


def lists(values: np.ndarray) -> pa.FixedSizeListArray:
    """Rows [n, width] as an Arrow column, without a copy if they are contiguous."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)
