"""The feed: the same batches whether they are read ahead or not, errors where they belong, time waited counted."""

import threading
import time

import pytest
import torch

from monosem.learn.feed import Feed, rows_digest

B, STEPS, READS = 8, 5, ("a", "b")


class Counted:
    """Rows whose values are their numbers; notes what was asked for and by which thread."""

    def __init__(self, computes: bool, log: list, patience: float = 0.0):
        self.computes, self.log, self.patience = computes, log, patience

    def rows(self, lo: int, hi: int) -> torch.Tensor:
        if hi > B * STEPS:
            raise IndexError(hi)
        self.log.append((lo, hi, threading.current_thread()))
        time.sleep(self.patience)
        return torch.arange(lo, hi, dtype=torch.float32)[:, None]


def feed_of(computes: bool, **more: float) -> tuple[Feed, list]:
    log: list = []
    return Feed({name: Counted(computes, log, **more) for name in READS}, B, STEPS, "cpu"), log


@pytest.mark.parametrize("computes", [False, True])
def test_every_batch_is_the_rows_of_its_step(computes):
    feed, log = feed_of(computes)
    for n in range(STEPS):
        batch = feed.batch(n, READS)
        for rows, digest, copy in zip(batch.rows, batch.digests, batch.on_device(), strict=True):
            assert rows[:, 0].tolist() == list(range(n * B, (n + 1) * B))
            assert digest == rows_digest(rows) and copy is rows
    feed.close()
    assert [(lo, hi) for lo, hi, _ in log] == [(n * B, (n + 1) * B) for n in range(STEPS) for _ in READS]


def test_the_next_batch_is_read_while_this_one_is_worked_on():
    feed, log = feed_of(computes=False)
    feed.batch(0, READS)
    feed.coming[1, READS].result(timeout=10)
    assert len(log) == 4 and threading.current_thread() not in {thread for *_, thread in log}
    feed.close()


def test_a_source_that_computes_is_asked_by_the_caller_and_only_for_what_is_wanted():
    feed, log = feed_of(computes=True)
    feed.batch(0, READS)
    assert len(log) == 2 and {thread for *_, thread in log} == {threading.current_thread()}


@pytest.mark.parametrize("computes", [False, True])
def test_steps_out_of_order_and_rows_between_get_what_they_asked_for(computes):
    """As runs do that stand at different steps after a restart, and a resampling that was restored."""
    feed, _ = feed_of(computes)
    for n in (3, 1, 2, 3, 0):
        assert feed.batch(n, ("a",)).rows[0][0, 0] == n * B
        assert feed.rows("b", n, n + 2)[:, 0].tolist() == [n, n + 1]
    feed.close()


@pytest.mark.parametrize("computes", [False, True])
def test_an_error_of_the_source_comes_out_where_its_batch_is_asked_for(computes):
    feed, _ = feed_of(computes)
    feed.batch(STEPS - 1, READS)  # nothing past the last step is read ahead
    with pytest.raises(IndexError):
        feed.batch(STEPS, READS)
    feed.close()


def test_time_waited_is_counted():
    feed, _ = feed_of(computes=False, patience=0.1)
    feed.batch(0, ("a",))
    assert feed.wait_s >= 0.1
    feed.close()
