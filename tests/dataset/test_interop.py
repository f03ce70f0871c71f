"""Datasets from other tools' files and back: `datasets` itself writes and reads them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monosem.dataset import foreign
from monosem.dataset.interop import export_huggingface, import_dataset
from monosem.dataset.manifest import open_dataset
from monosem.errors import InputError
from monosem.stages.datasets import parse_bytes
from monosem.store.store import LocalStore
from tests.conftest import run_cli
from tests.dataset.test_shuffle import WIDTH, Killed, content, read_plain, same_bits, shuffled, write_source

hf = pytest.importorskip("datasets")


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((60, 7)).astype(np.float32)


def bring(source, tmp_path, key=None, name="rows", **more):
    return import_dataset(str(source), LocalStore(str(tmp_path / name)), "", key, shard_rows=16, **more)


def saelens_cache(path, x: np.ndarray, dtype="float32", parts=1):
    """As SAELens caches activations: contexts of six rows, two hook points, token ids."""
    contexts = x.reshape(-1, 6, x.shape[1])
    array = hf.Array2D(shape=(6, x.shape[1]), dtype=dtype)
    features = hf.Features({"blocks.0.hook_mlp_out": array, "blocks.1.hook_resid": array, "token_ids": hf.Sequence(hf.Value("int32"), length=6)})
    columns = {
        "blocks.0.hook_mlp_out": list(contexts.astype(dtype)),
        "blocks.1.hook_resid": list(2 * contexts.astype(dtype)),
        "token_ids": [list(range(6))] * len(contexts),
    }
    hf.Dataset.from_dict(columns, features=features).save_to_disk(str(path), num_shards=parts)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_saelens_cache(x, tmp_path, dtype, parts):
    cache = saelens_cache(tmp_path / "cache", x, dtype, parts)
    made = bring(cache, tmp_path, "blocks.1.hook_resid")
    assert same_bits(read_plain(made), (2 * x.astype(dtype)).astype(np.float32))
    origin = made.manifest.order["imported"]
    assert origin["column"] == "blocks.1.hook_resid" and origin["files"] == parts and origin["dtype"] == dtype
    with pytest.raises(InputError, match=r"holds several, name one of blocks.0.hook_mlp_out, blocks.1.hook_resid$"):
        bring(cache, tmp_path)
    with pytest.raises(InputError, match=r"did you mean blocks.0.hook_mlp_out\?"):
        bring(cache, tmp_path, "blocks.0.mlp_out")


def test_a_cache_is_read_without_datasets(x, tmp_path):
    """By the command line, in a process in which `datasets` cannot be imported."""
    saelens_cache(tmp_path / "cache", x, parts=2)
    code = "import sys; sys.modules['datasets'] = None; from monosem.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "import", str(tmp_path / "cache"), str(tmp_path / "rows"), "--column"]
    done = subprocess.run([*command, "blocks.0.hook_mlp_out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert same_bits(read_plain(open_dataset(str(tmp_path / "rows"))), x)
    command = [sys.executable, "-c", code, "export", str(tmp_path / "rows"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'monosem[hf]'" in done.stderr


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("shape", [(60, 7), (10, 6, 7)])
def test_npy(x, tmp_path, monkeypatch, dtype, shape):
    monkeypatch.setattr(foreign, "BLOCK_ROWS", 25)
    np.save(tmp_path / "b.npy", x.reshape(shape).astype(dtype))
    np.save(tmp_path / "a.npy", 3 * x.reshape(shape).astype(dtype))
    made = bring(tmp_path, tmp_path)
    expected = np.concatenate([3 * x.astype(dtype), x.astype(dtype)]).astype(np.float32)
    assert same_bits(read_plain(made), expected)
    alone = bring(tmp_path / "b.npy", tmp_path, name="alone")
    assert same_bits(read_plain(alone), x.astype(dtype).astype(np.float32))
    assert same_bits(read_plain(bring(tmp_path / "*.npy", tmp_path, name="glob")), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors(x, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(foreign, "BLOCK_ROWS", 25)
    values = torch.from_numpy(x).to(dtype)
    save_file({"activation": values.reshape(10, 6, 7), "tokens": torch.zeros(10, 6, dtype=torch.int64)}, tmp_path / "c-0.safetensors")
    save_file({"activation": values.reshape(10, 6, 7), "mask": torch.zeros(3)}, tmp_path / "c-1.safetensors")
    made = bring(tmp_path, tmp_path)
    expected = values.float().numpy()
    assert same_bits(read_plain(made), np.concatenate([expected, expected]))
    save_file({"a": values, "b": values + 1}, tmp_path / "two.safetensors")
    with pytest.raises(InputError, match=r"two.safetensors: column=None: holds several, name one of a, b$"):
        bring(tmp_path / "two.safetensors", tmp_path, name="two")
    with pytest.raises(InputError, match=r"has no tensor 'activation', only a, b$"):
        bring(tmp_path, tmp_path, "activation", name="three")


def test_rows_that_are_not_finite_are_masked(x, tmp_path):
    wide = x.astype(np.float64)
    wide[3, 2], wide[5, 0], wide[50, 6] = np.nan, np.inf, 1e300  # the last is infinite as float32
    np.save(tmp_path / "x.npy", wide)
    made = bring(tmp_path / "x.npy", tmp_path)
    rows = read_plain(made)
    assert made.manifest.masked == 3 and np.isnan(rows[[3, 5, 50]]).all()
    kept = np.delete(np.arange(60), [3, 5, 50])
    assert same_bits(rows[kept], x[kept])


def test_an_import_that_was_stopped_goes_on(x, tmp_path):
    np.save(tmp_path / "a.npy", x[:25])
    np.save(tmp_path / "b.npy", x[25:])

    def die(rows):
        raise Killed

    with pytest.raises(Killed):
        bring(tmp_path / "*.npy", tmp_path, report=die)
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "rows/shards").glob("*.arrow")}
    assert len(kept) == 1
    made = bring(tmp_path / "*.npy", tmp_path)
    assert same_bits(read_plain(made), x)
    assert all((tmp_path / "rows/shards" / name).stat().st_mtime_ns == t for name, t in kept.items())
    assert bring(tmp_path / "*.npy", tmp_path).manifest == made.manifest
    np.save(tmp_path / "b.npy", 2 * x[25:])
    with pytest.raises(InputError, match="another activation dataset is there"):
        bring(tmp_path / "*.npy", tmp_path)


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def test_bad_sources_are_one_line_each(x, tmp_path, capfd):
    def refused(source, match, key=None):
        with pytest.raises(InputError, match=match) as caught:
            bring(source, tmp_path, key)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none", "no such files")
    refused("s3://bucket/x", "only local files")
    np.save(tmp_path / "pickled.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    refused(tmp_path / "pickled.npy", "not a .npy file of numbers")
    np.save(tmp_path / "ints.npy", np.zeros((3, 4), int))
    refused(tmp_path / "ints.npy", r"int64 \[3, 4\]: rows are float16, 32 or 64")
    np.save(tmp_path / "flat.npy", x[:, 0])
    refused(tmp_path / "flat.npy", "rows are float16")
    np.save(tmp_path / "fortran.npy", np.asfortranarray(x))
    refused(tmp_path / "fortran.npy", "Fortran order")
    np.save(tmp_path / "empty.npy", x[:0])
    refused(tmp_path / "empty.npy", "holds no rows")
    np.save(tmp_path / "good.npy", x)
    refused(tmp_path / "good.npy", "a .npy file holds one array", "x")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-5])
    refused(tmp_path / "cut.npy", "not a .npy file")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 40)
    refused(tmp_path / "bad.safetensors", "not a safetensors file")
    header = json.dumps({"a": {"dtype": "F32", "shape": [100, 4], "data_offsets": [0, 1600]}}).encode()
    (tmp_path / "short.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    refused(tmp_path / "short.safetensors", "tensor 'a' cannot be read")
    (tmp_path / "short.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.replace(b"1600", b"1604") + b"\0" * 1604)
    refused(tmp_path / "short.safetensors", r"tensor 'a' cannot be read: F32 \[100, 4\] in 1604 bytes")
    (tmp_path / "bad.arrow").write_bytes(b"no arrow")
    refused(tmp_path / "bad.arrow", "not an Arrow stream")
    refused(tmp_path, "holds .arrow, .npy, .safetensors files; give one kind")
    (tmp_path / "wide").mkdir()
    np.save(tmp_path / "wide/a.npy", x)
    np.save(tmp_path / "wide/b.npy", x[:, :3])
    refused(tmp_path / "wide", "rows of 3 float32, the files before hold others")
    hf.DatasetDict({"train": hf.Dataset.from_dict({"a": [1]})}).save_to_disk(str(tmp_path / "dict"))
    refused(tmp_path / "dict", r"holds several datasets \(train\)")
    hf.Dataset.from_dict({"text": ["a"], "n": [1.0]}).save_to_disk(str(tmp_path / "text"))
    refused(tmp_path / "text", "holds no rows of floating point numbers")
    hf.Dataset.from_dict({"x": [[1.0, 2.0], [1.0]]}).save_to_disk(str(tmp_path / "ragged"))
    refused(tmp_path / "ragged", r"column='x': rows of several widths \(1, 2\)")
    hf.Dataset.from_dict({"x": [[1.0, 2.0], None]}).save_to_disk(str(tmp_path / "null"))
    refused(tmp_path / "null", "holds empty entries")
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize("codec", ["raw", "zstd", "bf16", "int8"])
def test_export_is_opened_by_datasets(tmp_path, codec):
    source = write_source(LocalStore(str(tmp_path / "rows")), rows=100, codec=codec)
    path = export_huggingface(source, str(tmp_path / "out"))
    opened = hf.load_from_disk(path)
    assert opened.features["x"].length == WIDTH and opened.features["x"].feature.dtype == "float32"
    assert opened.column_names == ["x"] and len(opened) == 100
    assert same_bits(np.array(opened.with_format("numpy")["x"][:]), read_plain(source))
    back = bring(path, tmp_path, name="back")
    assert same_bits(read_plain(back)[~np.isnan(read_plain(source)[:, 0])], read_plain(source)[~np.isnan(read_plain(source)[:, 0])])


def test_export_keeps_the_column_row_and_overwrites_nothing(tmp_path, capfd):
    source = write_source(LocalStore(str(tmp_path / "rows")), rows=100)
    mixed = shuffled(source, tmp_path / "mixed")
    assert run_cli("export", tmp_path / "mixed", tmp_path / "out") == 0
    opened = hf.load_from_disk(str(tmp_path / "out")).with_format("numpy")
    row = np.array(opened["row"][:])
    assert row.dtype == np.int64 and same_bits(np.array(opened["x"][:]), content(100)[row])
    assert mixed.manifest.digest in opened.info.description
    assert run_cli("export", tmp_path / "mixed", tmp_path / "out") == 2
    assert "nothing was overwritten" in capfd.readouterr().err


def test_export_that_was_stopped_leaves_no_directory(tmp_path):
    source = write_source(LocalStore(str(tmp_path / "rows")), rows=100)

    def die(rows):
        raise Killed

    with pytest.raises(Killed):
        export_huggingface(source, str(tmp_path / "out"), die)
    assert not (tmp_path / "out").exists()
    assert len(hf.load_from_disk(export_huggingface(source, str(tmp_path / "out")))) == 100


def test_the_verbs(x, tmp_path, capfd):
    np.save(tmp_path / "x.npy", x)
    assert run_cli("import", tmp_path / "x.npy", tmp_path / "rows", "--codec", "zstd") == 0
    assert "import: 60 rows in" in capfd.readouterr().err
    assert run_cli("shuffle", tmp_path / "rows", tmp_path / "mixed", "--seed", 4, "--inline", "--memory", "512MiB") == 0
    out = capfd.readouterr().out
    assert "60 rows x 7, 1 files" in out and "passes 1" in out
    made = open_dataset(str(tmp_path / "mixed")).manifest
    assert made.rows == 60 and made.order["shuffled"]["seed"] == 4 and len(made.shards) == 1
    assert made.lineage["source"]["order"]["imported"]["files"] == 1
    for arguments, message in [
        (("shuffle", tmp_path / "rows", tmp_path / "n", "--memory", "much"), "memory='much': a number of bytes"),
        (("shuffle", tmp_path / "rows", tmp_path / "n", "--memory", "1MiB", "--inline"), "give more memory or fewer tasks"),
        (("shuffle", tmp_path / "rows", tmp_path / "n", "--codec", "zip"), "codec='zip': must be one of raw, zstd"),
        (("shuffle", tmp_path / "none", tmp_path / "n"), "no activation dataset there"),
        (("shuffle", tmp_path / "rows", tmp_path / "n", "--tasks", "0"), "tasks=0"),
        (("import", tmp_path / "x.npy", tmp_path / "n", "--codec", "zip"), "codec='zip'"),
    ]:  # fmt: skip
        assert run_cli(*arguments) == 2
        assert message in capfd.readouterr().err
    assert not (tmp_path / "n").exists()


def test_numbers_of_bytes():
    assert [parse_bytes(t, "memory") for t in ("1GiB", "1.5 MB", "512", "2kib")] == [2**30, 1_500_000, 512, 2048]
    for bad in ("", "GiB", "-1GB", "1 XB", "1e9"):
        with pytest.raises(InputError, match="memory="):
            parse_bytes(bad, "memory")
