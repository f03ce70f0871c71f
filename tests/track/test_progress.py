"""What a phase says of its progress where the output is no terminal, by a clock that is set by hand."""

import pytest

from monosem.track import progress
from monosem.track.progress import LINE_EVERY_S, PhaseProgress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("before", [0, 400])
def test_the_rate_counts_from_when_work_moves(clock, capsys, before):
    """A resumed run has 400 of 1,000 rows; workers take 30 s to start; then come 10 rows a second."""
    with PhaseProgress("train", 1000, "rows") as phase:
        for _ in range(30):
            clock[0] += 1
            phase.update(before)
        said = f"train: {before}/1,000 rows ({before // 10}%)"
        assert {line.strip() for line in lines(capsys)} == {said}  # neither a rate nor a guess
        for second in range(1, int(LINE_EVERY_S) + 1):
            clock[0] += 1
            phase.update(before + 10 * second)
        (line,) = lines(capsys)
        assert line.strip() == f"train: {before + 100}/1,000 rows ({(before + 100) // 10}%)  10 rows/s  eta {90 - before // 10} s"
    assert lines(capsys) == [f"train: {before + 100} rows in 40.0 s  "]


def test_tasks_of_many_seconds_have_a_rate_too(clock, capsys):
    with PhaseProgress("merge", 4, "tasks") as phase:
        for done in (1, 2):
            clock[0] += 16
            phase.update(done)
    first, second, _ = lines(capsys)
    assert first.strip() == "merge: 1/4 tasks (25%)"
    assert second.strip() == "merge: 2/4 tasks (50%)  0.062 tasks/s  eta 32 s"
