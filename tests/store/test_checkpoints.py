import pytest
import torch

from monosem.errors import IntegrityError, StoreError
from monosem.store.checkpoints import KEEP, CheckpointLog
from monosem.store.plain import pack_json
from monosem.store.store import open_store


def tensors(n: int) -> dict:
    return {"w": torch.full((4,), float(n)), "n": torch.tensor(n)}


@pytest.fixture
def log(tmp_path):
    return CheckpointLog(open_store(str(tmp_path)), "run/checkpoints")


def test_the_newest_comes_back_and_old_ones_go(log):
    assert log.last() is None
    for step in (5, 10, 15, 20):
        log.commit(step, tensors(step), {"note": step})
    last = log.last()
    assert last.step == 20 and last.meta == {"note": 20} and torch.equal(last.tensors["w"], tensors(20)["w"])
    assert len(log.steps()) == KEEP == len(log.store.list("run/checkpoints/objects"))


def test_committing_the_same_again_is_fine_other_bytes_are_not(log):
    log.commit(5, tensors(5), {})
    log.commit(5, tensors(5), {})
    with pytest.raises(StoreError, match="running twice"):
        log.commit(5, tensors(6), {})
    assert torch.equal(log.last().tensors["w"], tensors(5)["w"])


def test_an_object_without_a_record_does_not_exist(log):
    log.commit(5, tensors(5), {})
    log.store.put("run/checkpoints/objects/abc.safetensors", b"half a write")
    assert log.last().step == 5


def test_every_flipped_bit_is_noticed(log, tmp_path):
    log.commit(5, tensors(5), {})
    file = next((tmp_path / "run/checkpoints/objects").iterdir())
    good = file.read_bytes()
    for at in range(0, len(good), 7):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(IntegrityError):
            log.last()


def test_clear(log):
    log.commit(5, tensors(5), {})
    log.clear()
    assert log.last() is None and log.store.list("run/checkpoints/objects") == []


def test_shares_are_read_as_far_as_they_are_wanted(log):
    shares = [log.put(tensors(n), (10 * n, 10 * n + 10)) for n in range(3)]
    assert log.last() is None, "shares without a record are no checkpoint"
    log.record(7, shares, {})
    assert [(lo, hi) for lo, hi, _ in log.last().shares] == [(0, 10), (10, 20), (20, 30)]
    some = log.last((25, 30)).shares
    assert [(lo, hi) for lo, hi, _ in some] == [(0, 10), (20, 30)], "the first has what belongs to no feature"
    assert torch.equal(some[1][2]["w"], tensors(2)["w"])


def test_an_object_that_a_kept_record_names_stays(log):
    """A share that did not change from one checkpoint to the next is one object."""
    for step in (1, 2, 3):
        log.record(step, [log.put(tensors(0), (0, 1)), log.put(tensors(step), (1, 2))], {})
    assert [float(t["w"][0]) for _, _, t in log.last().shares] == [0.0, 3.0]


def test_a_checkpoint_of_an_earlier_version_is_read(log):
    share = log.put(tensors(4))
    log.store.create("run/checkpoints/log/000000000004.json", pack_json({"step": 4, "object": share["object"], "bytes": 1, "meta": {}}))
    assert torch.equal(log.last().tensors["w"], tensors(4)["w"])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


RECORD, OBJECT = "log/000000000010.json", "objects/*"
DAMAGES = {
    "a bit of an object": (OBJECT, flip),
    "an object is gone": (OBJECT, lambda path: path.unlink()),
    "a record of no JSON": (RECORD, lambda path: path.write_bytes(b'{"step": 1')),
    "a record without its keys": (RECORD, lambda path: path.write_bytes(b"{}")),
    "a record of other types": (RECORD, lambda path: path.write_bytes(b'{"shares": [7], "meta": {}}')),
    "a record without shares' keys": (RECORD, lambda path: path.write_bytes(b'{"shares": [{}], "meta": {}}')),
    "a record that points elsewhere": (
        RECORD, lambda path: path.write_bytes(b'{"shares": [{"object": "../x", "features": [0, 0]}], "meta": {}}')
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_past_a_damaged_checkpoint(log, tmp_path, capsys, damage):
    """If nobody else reads it: ranks have to go on from the same one. Its step comes again, perhaps with other bytes in
    the record, such as the topologies so far."""
    where, harm = DAMAGES[damage]
    log.commit(5, tensors(5), {})
    before = set((tmp_path / "run/checkpoints/objects").iterdir())
    log.commit(10, tensors(10), {})
    [path] = set((tmp_path / "run/checkpoints").glob(where)) - before
    harm(path)
    with pytest.raises((IntegrityError, FileNotFoundError)):
        log.last(alone=False)
    assert log.steps() == [5, 10], "others have still to see that it is damaged"
    assert log.last().step == 5 and log.steps() == [5]
    assert "going on from the checkpoint before it" in capsys.readouterr().err
    log.commit(10, tensors(10), {"feature_shards": [1, 2]})
    assert log.last().step == 10 and torch.equal(log.last().tensors["w"], tensors(10)["w"])
    for step in (15, 20):
        log.commit(step, tensors(step), {})
    assert log.steps() == [15, 20] and len(log.store.list("run/checkpoints/objects")) == KEEP


def test_an_old_record_that_cannot_be_read_does_not_stop_the_run(log, tmp_path):
    for step in (5, 10):
        log.commit(step, tensors(step), {})
    (tmp_path / "run/checkpoints/log/000000000005.json").write_bytes(b"{}")
    for step in (15, 20, 25):
        log.commit(step, tensors(step), {})
    assert log.steps() == [20, 25] and log.last().step == 25


def test_nothing_is_removed_where_no_checkpoint_is_whole(log, tmp_path):
    for step in (5, 10):
        log.commit(step, tensors(step), {})
    for path in (tmp_path / "run/checkpoints/objects").iterdir():
        flip(path)
    with pytest.raises(IntegrityError):
        log.last()
    assert log.steps() == [5, 10] and len(log.store.list("run/checkpoints/objects")) == 2
