"""Marks of the blind rubric: from the page's CSV and the key that says which item is a feature and which a neuron.

Bricken et al. 2023: of each interval the points for confidence (0-3), consistency of the strongest tokens (0-5), of the
positive logits (0-3), a gap between consistent and inconsistent logits (0-1, only where the former is not perfect) and
specificity (0-3): 14 at most; above 8 is "quite interpretable". Their medians: features 12, neurons 0.
"""

import csv
import difflib
import io
from collections.abc import Iterator, Mapping

import numpy as np

from monosem.errors import InputError
from monosem.features.schema import GROUPS, RUBRIC, RUBRIC_COLUMNS

GOOD = 8
INTERPRETATION = "interpretation"
Answers = dict[tuple[str, str], dict[str, int]]
"""By (item, interval): points by question."""


def read_answers(text: str, source: str, key: Mapping) -> Answers:
    """The answers of an exported CSV. InputError, naming line and field, for whatever does not fit the key."""
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    if tuple(rows.fieldnames or ()) != RUBRIC_COLUMNS:
        raise InputError(f"{source}: columns {rows.fieldnames}; must be {','.join(RUBRIC_COLUMNS)}")
    found: Answers = {}
    for row in rows:
        where = f"{source}: line {rows.line_num}"
        if row["key"] != key["key"]:
            raise InputError(f"{where}: key={row['key']!r}: the key file is of {key['key']!r}")
        _one_of("item", row["item"], key["items"], where)
        if row["question"] == INTERPRETATION:
            continue
        _one_of("question", row["question"], (*RUBRIC, INTERPRETATION), where)
        _one_of("interval", row["interval"], GROUPS, where)
        points = found.setdefault((row["item"], row["interval"]), {})
        if row["question"] in points:
            raise InputError(f"{where}: question={row['question']!r}: answered before")
        most = RUBRIC[row["question"]]
        if row["answer"] not in [str(n) for n in range(most + 1)]:
            raise InputError(f"{where}: answer={row['answer']!r}: {row['question']} takes 0 to {most}")
        points[row["question"]] = int(row["answer"])
    return found


def _one_of(field: str, value: str, allowed, where: str) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), list(allowed), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = f", one of {', '.join(allowed)}" if len(allowed) <= len(GROUPS) else ""
        raise InputError(f"{where}: {field}={value!r}: unknown{known}{hint}")


def total(points: Mapping[str, int]) -> int | None:
    """Points of an interval, 0 to 14; None if it is not answered in full."""
    needed = [q for q in RUBRIC if q != "gap" or points.get("logits", 0) < RUBRIC["logits"]]
    return sum(points[q] for q in needed) if all(q in points for q in needed) else None


def score(answers: Answers, key: Mapping) -> dict:
    """{kind: {intervals, items, median, mean, good, by_interval, by_question}} and how many intervals lack answers.

    good: share of intervals above GOOD points; by_interval: median; by_question: mean
    """
    marks = [(key["items"][item]["kind"], item, interval, total(p), p) for (item, interval), p in answers.items()]
    whole = [mark for mark in marks if mark[3] is not None]
    kinds = {kind: _of_kind([m for m in whole if m[0] == kind]) for kind in sorted({m[0] for m in whole})}
    return {"key": key["key"], "unfinished": len(marks) - len(whole), "kinds": kinds}


def _of_kind(marks: list[tuple]) -> dict:
    points = np.array([m[3] for m in marks])
    return {
        "intervals": len(marks),
        "items": len({m[1] for m in marks}),
        "median": float(np.median(points)),
        "mean": float(points.mean()),
        "good": float((points > GOOD).mean()),
        "by_interval": dict(_medians(marks)),
        "by_question": {q: float(np.mean([m[4][q] for m in marks if q in m[4]] or [0])) for q in RUBRIC},
    }


def _medians(marks: list[tuple]) -> Iterator[tuple[str, float]]:
    for group in GROUPS:
        points = [m[3] for m in marks if m[2] == group]
        if points:
            yield group, float(np.median(points))
