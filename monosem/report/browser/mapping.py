"""The map's file: places, clusters and what clusters are called; and the order of features along one dimension."""

from collections import Counter

import numpy as np

from monosem.report.browser.atlas import MOST_FEATURES, Atlas, AtlasProcess, that_fit
from monosem.report.browser.pack import Site, column, rounded
from monosem.report.browser.related import Related
from monosem.report.browser.sources import Run, Sweep
from monosem.store.dictionary import load

WORDS = 5
"""Tokens that a cluster is called by."""


class Map:
    """The map of as many runs as fit on one, of those whose decoders write to one hook point; a context, in which it is
    worked out beside everything else. `name`: of its file in the sweep's folder.

    Where not even the smallest fits, its most important features are mapped (`part`: how many).
    """

    def __init__(self, sweep: Sweep, runs: list[Run], name: str = "map"):
        self.sweep, self.name = sweep, name
        decoders = [load(f"{sweep.store.url}/{run.prefix}").W_dec.numpy() for run in runs]
        fitting = that_fit([len(decoder) for decoder in decoders])
        kept = fitting or [min(range(len(runs)), key=lambda i: len(decoders[i]))]
        self.runs = [runs[i] for i in kept]
        self.left = [run.name for i, run in enumerate(runs) if i not in kept]
        alive = [runs[i].tables.largest > 0 for i in kept]
        self.part = None
        if not fitting:
            alive = [alive[0] & _most_important(runs[kept[0]].tables.importance, MOST_FEATURES)]
            self.part = int(alive[0].sum())
        self.work = AtlasProcess([decoders[i] for i in kept], alive)

    def __enter__(self) -> "Map":
        self.work.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.work.__exit__(*error)

    def write(self, site: Site, related: Related, numbers: dict[str, int]) -> dict[str, np.ndarray]:
        """Its file, as soon as it is worked out. Returns the place of each feature along one dimension, by run; nothing
        if there are too few features for a map."""
        atlas = self.work.result()
        if atlas is None:
            return {}
        value = {
            "runs": [numbers[run.data_name] for run in self.runs],
            "left": self.left,
            "part": self.part,
            "x": column(atlas.plane[:, 0], "<f4"),
            "y": column(atlas.plane[:, 1], "<f4"),
            "run": column(atlas.run, "<u2"),
            "feature": column(atlas.feature, "<u4"),
            "cluster": column(atlas.cluster, "<i4"),
            "clusters": _clusters(atlas, [related.names[run.data_name] for run in self.runs]),
        }
        site.data(f"{self.sweep.name}/{self.name}", value)
        return {run.name: _order(atlas, place, run.tables.size) for place, run in enumerate(self.runs)}


    def facts(self) -> dict:
        """What pages know of it before they read it."""
        names = [run.name for run in self.runs]
        return {"name": self.name, "point": self.runs[0].point, "runs": names, "part": self.part}


def _most_important(importance: np.ndarray, n: int) -> np.ndarray:
    """bool [features]: which are the n most important; of equal ones the first."""
    chosen = np.zeros(len(importance), dtype=bool)
    chosen[np.argsort(-importance, kind="stable")[:n]] = True
    return chosen


def _order(atlas: Atlas, run: int, size: int) -> np.ndarray:
    """[size] place of each feature of one dictionary; those that are not on the map last."""
    order = np.full(size, len(atlas.order), dtype=np.int64)
    own = atlas.run == run
    order[atlas.feature[own]] = atlas.order[own]
    return order


def _clusters(atlas: Atlas, names: list[list[list[str]]]) -> list[list]:
    """[words, size, x, y] of each cluster; its words are the tokens most often among the strongest of its members."""
    found = []
    for c in range(atlas.cluster.max() + 1):
        members = np.flatnonzero(atlas.cluster == c)
        words = Counter(w[:30] for i in members.tolist() for w in names[atlas.run[i]][atlas.feature[i]])
        centre = rounded(np.median(atlas.plane[members], axis=0)).tolist()
        found.append([[w for w, _ in words.most_common(WORDS)], len(members), *centre])
    return found
