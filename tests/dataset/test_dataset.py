"""Datasets at rest: what is written is what is read, in any pieces; damage and gaps are noticed."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from monosem.dataset import blocks as blocks_module
from monosem.dataset import manifest as manifest_module
from monosem.dataset import rows as rows_module
from monosem.dataset import writer as writer_module
from monosem.dataset.codec import decode, encode, measure
from monosem.dataset.manifest import open_dataset, read_manifest
from monosem.dataset.rows import DatasetRows
from monosem.dataset.writer import DatasetWriter, Plan
from monosem.errors import InputError, IntegrityError
from monosem.store.plain import pack_json
from monosem.store.store import open_store

WIDTH = 70  # two groups of int8 scales, the second not full


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for module in (manifest_module, writer_module, rows_module, blocks_module):
        if hasattr(module, "BLOCK_ROWS"):
            monkeypatch.setattr(module, "BLOCK_ROWS", 16)


def some_rows(n: int = 200, masked: tuple[int, ...] = (3, 77)) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((n, WIDTH)).astype(np.float32)
    rows[list(masked)] = np.nan
    return rows


def plan(n: int, codec: str = "raw", first: int = 0, shard_rows: int = 50) -> Plan:
    return Plan(WIDTH, n, first, codec, shard_rows, {"kind": "file"})


def write(store, rows: np.ndarray, codec: str = "raw", first: int = 0, pieces: int = 33):
    writer = DatasetWriter(store, "d", plan(len(rows), codec, first))
    for at in range(0, len(rows), pieces):
        writer.add(rows[at : at + pieces])
    return writer.finish()


@pytest.mark.parametrize("url", ["{tmp}", "memory://dataset-{name}"])
@pytest.mark.parametrize("codec", ["raw", "zstd", "bf16", "int8"])
def test_rows_come_back_in_any_pieces(tmp_path, codec, url):
    rows = some_rows()
    store = open_store(url.format(tmp=tmp_path, name=codec))
    dataset = write(store, rows, codec, first=1000)
    m = dataset.manifest
    assert (m.rows, m.first_row, m.masked, len(m.shards)) == (200, 1000, 2, 4)
    reader = DatasetRows(open_dataset(store.url, "d"))
    whole = reader.rows(1000, 1200).numpy()
    expected = np.concatenate([decode_one(rows[i : i + 1], codec) for i in range(200)])
    assert np.array_equal(whole, expected, equal_nan=True)
    if codec in ("raw", "zstd"):
        assert np.array_equal(whole, rows, equal_nan=True) and m.error == {"exact": True, "fvu": 0.0, "largest": 0.0}
    for lo, hi in [(1000, 1001), (1015, 1017), (1049, 1051), (1190, 1200), (1003, 1180), (1000, 1016)]:
        assert np.array_equal(reader.rows(lo, hi).numpy(), whole[lo - 1000 : hi - 1000], equal_nan=True)
    for lo, hi in [(999, 1001), (1190, 1201)]:
        with pytest.raises(ValueError, match="outside"):
            reader.rows(lo, hi)


def decode_one(rows: np.ndarray, codec: str) -> np.ndarray:
    import pyarrow as pa

    return np.array(decode(pa.record_batch(encode(rows, codec)), codec))


@settings(deadline=None, max_examples=100)
@given(hnp.arrays(np.float32, (4, WIDTH), elements=st.floats(-8192, 8192, width=32)))
def test_int8_errs_by_half_a_step_at_most(rows):
    restored = decode_one(rows, "int8")
    for group in (slice(0, 64), slice(64, WIDTH)):
        step = np.abs(rows[:, group]).max(axis=1, keepdims=True) / 127
        assert (np.abs(restored[:, group] - rows[:, group]) <= step * 0.5001 + 1e-30).all()


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float32, (3, WIDTH), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_bf16_is_torchs_rounding_and_whole_for_halves(rows):
    halves = torch.from_numpy(rows).bfloat16().float().numpy()
    assert np.array_equal(decode_one(rows, "bf16"), halves)
    assert np.array_equal(decode_one(halves, "bf16"), halves)


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST, SMALLEST = float(np.finfo(np.float32).max), 2.0**-149


@pytest.mark.parametrize("codec", ["bf16", "int8"])
@settings(deadline=None, max_examples=150)
@given(hnp.arrays(np.float32, (2, WIDTH), elements=FINITE | st.sampled_from([LARGEST, -LARGEST, 190 * SMALLEST])))
def test_finite_values_stay_finite_and_keep_their_sign(codec, rows):
    restored = decode_one(rows, codec)
    assert np.isfinite(restored).all() and (restored * np.sign(rows) >= 0).all()
    assert np.isfinite(list(measure(rows, restored).summary().values())).all()


@pytest.mark.parametrize("codec", ["bf16", "int8"])
@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 190 * SMALLEST, -3 * SMALLEST])
def test_the_largest_and_smallest_values_are_written(tmp_path, codec, value):
    rows = np.full((3, WIDTH), value, dtype=np.float32)
    made = write(open_store(str(tmp_path)), rows, codec)
    restored = DatasetRows(made).rows(0, 3).numpy()
    assert (np.sign(restored) * np.sign(value) >= 0).all() and np.abs(restored - rows).max() <= made.manifest.error["largest"]
    assert np.allclose(restored, rows, rtol=2**-8, atol=2.0**-133)  # the smallest bfloat16


def test_the_error_is_the_one_by_hand():
    rows = some_rows(300)
    restored = decode_one(rows, "int8")
    whole = measure(rows, restored).summary()
    parts = measure(rows[:100], restored[:100]) + measure(rows[100:], restored[100:])
    kept = ~np.isnan(rows[:, 0])
    x, y = rows[kept].astype(np.float64), restored[kept].astype(np.float64)
    fvu = ((x - y) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert whole["fvu"] == pytest.approx(fvu) == pytest.approx(parts.summary()["fvu"])
    assert whole["largest"] == np.abs(x - y).max() and whole["exact"] is False


@pytest.mark.parametrize("codec", ["raw", "zstd", "int8"])
@pytest.mark.parametrize("where", [0.3, 0.5, 0.9])
def test_a_flipped_bit_is_noticed(tmp_path, codec, where):
    """In the values of any block; what is not part of a row's values (padding, metadata) cannot change a row."""
    rows = np.tile(np.random.default_rng(1).standard_normal((200, WIDTH)).astype(np.float32), 1)
    write(open_store(str(tmp_path)), rows, codec)
    path = sorted((tmp_path / "d/shards").glob("*.arrow"))[1]
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 4
    path.write_bytes(data)
    try:
        got = DatasetRows(open_dataset(str(tmp_path), "d")).rows(0, 200).numpy()
    except IntegrityError:
        return
    assert np.array_equal(got, np.concatenate([decode_one(rows[i : i + 1], codec) for i in range(200)]))


def test_a_file_that_is_cut_is_noticed(tmp_path):
    write(open_store(str(tmp_path)), some_rows())
    path = sorted((tmp_path / "d/shards").glob("*.arrow"))[2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="000000000000100"):
        DatasetRows(open_dataset(str(tmp_path), "d")).rows(0, 200)


@pytest.mark.parametrize("key, value", [("rows", 199), ("codec", "bf16"), ("width", 71), ("version", 2), ("shards", [])])
def test_a_manifest_that_was_changed_is_noticed(tmp_path, key, value):
    write(open_store(str(tmp_path)), some_rows())
    path = tmp_path / "d/manifest.json"
    path.write_bytes(pack_json(json.loads(path.read_bytes()) | {key: value}))
    with pytest.raises(IntegrityError):
        open_dataset(str(tmp_path), "d")


@pytest.mark.parametrize("record", [{}, {"format": "monosem-activations", "version": 1}])
def test_a_manifest_from_a_stranger(record):
    with pytest.raises(IntegrityError):
        read_manifest(record, "here")


def test_an_unfinished_dataset_says_so(tmp_path):
    store = open_store(str(tmp_path))
    DatasetWriter(store, "d", plan(200)).add(some_rows()[:120])
    with pytest.raises(InputError, match="not finished"):
        open_dataset(str(tmp_path), "d")
    with pytest.raises(InputError, match="no activation dataset"):
        open_dataset(str(tmp_path), "e")


@pytest.mark.parametrize("stop", [0, 10, 49, 50, 51, 120, 199, 200])
def test_a_stopped_writer_goes_on_with_the_first_missing_file(tmp_path, stop):
    rows = some_rows()
    undisturbed = write(open_store(str(tmp_path / "a")), rows).manifest
    store = open_store(str(tmp_path / "b"))
    DatasetWriter(store, "d", plan(200)).add(rows[:stop])
    again = DatasetWriter(store, "d", plan(200))
    assert again.next_row == stop // 50 * 50
    again.add(rows[again.next_row :])
    assert again.finish().manifest == undisturbed
    assert not list((tmp_path / "b/d/shards").glob("*.json"))
    assert DatasetWriter(store, "d", plan(200)).next_row == 200


def test_records_that_a_kill_left_beside_a_manifest_go(tmp_path, monkeypatch):
    """The manifest is written, the process dies before the shards' own records are deleted."""
    store = open_store(str(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(store), "delete", lambda self, path: (_ for _ in ()).throw(KeyboardInterrupt))
        write(store, some_rows())
    assert list(tmp_path.glob("d/shards/*.json")) and (tmp_path / "d/manifest.json").exists()
    before = (tmp_path / "d/manifest.json").read_bytes()
    write(store, some_rows())
    assert not list(tmp_path.glob("d/shards/*.json")) and (tmp_path / "d/manifest.json").read_bytes() == before
    assert np.array_equal(DatasetRows(open_dataset(str(tmp_path), "d")).rows(0, 200), some_rows(), equal_nan=True)


def test_two_datasets_do_not_share_a_place(tmp_path):
    store = open_store(str(tmp_path))
    DatasetWriter(store, "d", plan(200))
    with pytest.raises(InputError, match="another activation dataset"):
        DatasetWriter(store, "d", plan(201))


def test_finish_too_early_is_an_error(tmp_path):
    writer = DatasetWriter(open_store(str(tmp_path)), "d", plan(200))
    writer.add(some_rows()[:150])
    with pytest.raises(ValueError, match="still missing"):
        writer.finish()
