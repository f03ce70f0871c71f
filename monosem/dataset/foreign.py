"""Activations as other tools keep them: Hugging Face datasets on disk, safetensors and NumPy files. Read in pieces.

    *.arrow         a directory that `datasets` saved, such as SAELens' cache: a column per hook point, each value
                    a list of rows (`Array2D(context, d_in)`) or one row; other columns (`token_ids`) are passed over
    *.safetensors   tensors [n, d] or [n, context, d] under the same name in every file: f16, bf16, f32, f64
    *.npy           arrays [n, d] or [n, context, d] of float16, float32 or float64

Only bytes are read: no pickle, no code of the files. pyarrow alone reads the Arrow files, so `datasets` need not be
installed. Values become float32.
"""

import difflib
import glob
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path

import numpy as np
import pyarrow as pa

from monosem.dataset.manifest import BLOCK_ROWS
from monosem.errors import InputError
from monosem.store.saved import STATE, is_whole_stream, named_files

KINDS = (".arrow", ".safetensors", ".npy")
DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
"""Of safetensors; the bits of bf16 are widened by hand, NumPy has no such type."""
HEADER_LIMIT = 100_000_000
HASHED = 1 << 22


@dataclass(frozen=True)
class Foreign:
    """Files of one kind, in order, and the column or key that is read."""

    files: tuple[Path, ...]
    kind: str
    key: str | None
    rows: int
    width: int
    dtype: str

    def chunks(self) -> Iterator[np.ndarray]:
        """All rows in order. float32 [n, width], a few thousand at a time."""
        for path in self.files:
            yield from _values(path, self.kind, self.key)

    def digest(self) -> str:
        """SHA-256 over names and contents of the files, in order."""
        whole = hashlib.sha256()
        for path in self.files:
            one = hashlib.sha256()
            with open(path, "rb") as file:
                while piece := file.read(HASHED):
                    one.update(piece)
            whole.update(f"{path.name} {one.hexdigest()}\n".encode())
        return whole.hexdigest()


def find_foreign(source: str, key: str | None) -> Foreign:
    """What is at `source` (a file, a directory or a pattern). `key`: a column or tensor; needed if there are several.

    Anything that is missing, of another shape or type, or ambiguous is an InputError.
    """
    files, kind = _files(source)
    key = _chosen(files[0], kind, key)
    rows, shapes = 0, set()
    for path in files:
        n, width, dtype = _shape(path, kind, key)
        rows += n
        shapes.add((width, dtype))
        if len(shapes) > 1:
            raise InputError(f"{path}: rows of {width} {dtype}, the files before hold others; import them one by one")
    if not rows:
        raise InputError(f"{source}: holds no rows")
    return Foreign(tuple(files), kind, key, rows, *shapes.pop())


def _files(source: str) -> tuple[list[Path], str]:
    if "://" in source:
        raise InputError(f"source={source!r}: only local files are imported; copy them here first")
    path = Path(source).expanduser()
    if (path / "dataset_dict.json").exists():
        parts = sorted(p.name for p in path.iterdir() if p.is_dir())
        raise InputError(f"source={source!r}: holds several datasets ({', '.join(parts)}); give the directory of one")
    if (path / STATE).exists():
        found = [path / name for name in named_files(_bytes(path / STATE), str(path / STATE))]
    elif path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in KINDS)
    else:
        found = [Path(p) for p in sorted(glob.glob(str(path)))]
    kinds = sorted({p.suffix for p in found})
    if len(kinds) != 1 or kinds[0] not in KINDS:
        what = f"holds {', '.join(kinds)} files" if kinds else "no such files"
        raise InputError(f"source={source!r}: {what}; give one kind of {', '.join(KINDS)}")
    missing = [p for p in found if not p.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: is named by state.json and missing")
    return found, kinds[0]


def _chosen(path: Path, kind: str, key: str | None) -> str | None:
    """The key to read: `key` if it is there, or the only one."""
    if kind == ".npy":
        if key is not None:
            raise InputError(f"column={key!r}: a .npy file holds one array, without a name; leave it out")
        return None
    names = _arrow_names(path) if kind == ".arrow" else _tensor_names(path)
    listed = ", ".join(names)
    if key is None and len(names) == 1:
        return names[0]
    if not names:
        raise InputError(f"{path}: holds no rows of floating point numbers")
    if key is None:
        raise InputError(f"{path}: column=None: holds several, name one of {listed}")
    if key not in names:
        near = difflib.get_close_matches(key, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{path}: column={key!r}: holds {listed}{hint}")
    return key


def _shape(path: Path, kind: str, key: str | None) -> tuple[int, int, str]:
    """(rows, width, dtype) of a file."""
    if kind == ".arrow":
        return _arrow_shape(path, key)
    array, dtype = _array(path, key) if kind == ".safetensors" else _npy(path)
    return array.size // array.shape[-1] if array.size else 0, array.shape[-1], dtype


def _values(path: Path, kind: str, key: str | None) -> Iterator[np.ndarray]:
    if kind == ".arrow":
        yield from _arrow_rows(path, key)
        return
    array, dtype = _array(path, key) if kind == ".safetensors" else _npy(path)
    flat = array.reshape(-1, array.shape[-1])
    for at in range(0, len(flat), BLOCK_ROWS):
        piece = flat[at : at + BLOCK_ROWS]
        if dtype == "bfloat16":
            yield (piece.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            yield _float32(piece)


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, and such a row is masked
        return values.astype(np.float32)


# -- NumPy and safetensors ---------------------------------------------------------------------


def _npy(path: Path) -> tuple[np.ndarray, str]:
    """The array, mapped, and its dtype."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a .npy file of numbers: {error}") from error
    if array.ndim not in (2, 3) or array.dtype.kind != "f" or array.dtype.itemsize > 8 or not array.shape[-1]:
        raise InputError(f"{path}: {array.dtype} {list(array.shape)}: rows are float16, 32 or 64 [n, d] or [n, ctx, d]")
    if not array.flags.c_contiguous:
        raise InputError(f"{path}: in Fortran order; save it again with numpy.ascontiguousarray")
    return array, array.dtype.name


def _header(path: Path) -> tuple[dict, int]:
    """The tensors' entries of a safetensors file, and where their bytes begin."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(HEADER_LIMIT, path.stat().st_size):
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
            raise ValueError("its header is not an object of objects")
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from error
    return {name: entry for name, entry in header.items() if name != "__metadata__"}, 8 + size


def _tensor_names(path: Path) -> list[str]:
    entries, _ = _header(path)
    return sorted(n for n, e in entries.items() if e.get("dtype") in DTYPES and len(e.get("shape") or ()) in (2, 3))


def _array(path: Path, key: str) -> tuple[np.ndarray, str]:
    entries, start = _header(path)
    entry = entries.get(key)
    if entry is None:
        raise InputError(f"{path}: has no tensor {key!r}, only {', '.join(sorted(entries))}")
    try:
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
        first, last = entry["data_offsets"]
        if len(shape) not in (2, 3) or not shape[-1] or last - first != dtype.itemsize * int(np.prod(shape)):
            raise ValueError(f"{entry['dtype']} {list(shape)} in {last - first} bytes")
        empty = 0 in shape
        array = np.empty(shape, dtype) if empty else np.memmap(path, dtype, "r", start + first, shape)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{path}: tensor {key!r} cannot be read: {error}") from error
    return array, "bfloat16" if entry["dtype"] == "BF16" else dtype.name


# -- Arrow -------------------------------------------------------------------------------------


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pa.memory_map(str(path)) as file:
            yield from pa.ipc.open_stream(file)
        _check_end(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not an Arrow stream as `datasets` saves it: {error}") from error


def _check_end(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(max(0, file.seek(0, SEEK_END) - 8))
        if not is_whole_stream(head, file.read(8)):
            raise OSError("its end marker is missing, so it was cut")


def _lists(column_type: pa.DataType) -> pa.DataType | None:
    """The type of the numbers in (lists of) lists; None if it is something else."""
    depth, inner = 0, getattr(column_type, "storage_type", column_type)
    while pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner):
        depth, inner = depth + 1, inner.value_type
    return inner if depth in (1, 2) and pa.types.is_floating(inner) else None


def _arrow_names(path: Path) -> list[str]:
    try:
        with pa.memory_map(str(path)) as file:
            schema = pa.ipc.open_stream(file).schema
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not an Arrow stream as `datasets` saves it: {error}") from error
    return sorted(field.name for field in schema if _lists(field.type) is not None)


def _arrow_column(batch: pa.RecordBatch, path: Path, key: str) -> tuple[pa.Array, int]:
    """The numbers of a column in one batch, and the width of its rows."""
    if key not in batch.schema.names or _lists(batch.schema.field(key).type) is None:
        raise InputError(f"{path}: has no column {key!r} of rows")
    column = batch.column(key)
    column = getattr(column, "storage", column)
    while True:
        inner = column.flatten()
        if column.null_count or inner.null_count:
            raise InputError(f"{path}: column={key!r}: holds empty entries (null)")
        if pa.types.is_floating(inner.type):
            break
        column = inner
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False)) if len(column) else np.zeros(0)
    if len(lengths) > 1 or 0 in lengths:
        raise InputError(f"{path}: column={key!r}: rows of several widths ({', '.join(map(str, lengths[:4]))})")
    return inner, int(lengths[0]) if len(lengths) else 0


def _arrow_shape(path: Path, key: str) -> tuple[int, int, str]:
    rows, widths, dtype = 0, set(), "float32"
    for batch in _batches(path):
        values, width = _arrow_column(batch, path, key)
        dtype = str(values.type.to_pandas_dtype().__name__)
        if width:
            rows += len(values) // width
            widths.add(width)
    if len(widths) > 1:
        raise InputError(f"{path}: column={key!r}: rows of several widths ({', '.join(map(str, sorted(widths)))})")
    return rows, widths.pop() if widths else 0, dtype


def _arrow_rows(path: Path, key: str) -> Iterator[np.ndarray]:
    for batch in _batches(path):
        values, width = _arrow_column(batch, path, key)
        if width:
            yield _float32(values.to_numpy(zero_copy_only=False).reshape(-1, width))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not readable: {error}") from error
