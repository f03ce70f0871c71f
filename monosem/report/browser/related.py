"""Features of other runs that do the same as a feature, with words to know them by."""

from collections import defaultdict

import numpy as np
import pyarrow.compute as pc

from monosem.features import schema
from monosem.report.browser.pack import plain
from monosem.report.browser.tables import FeatureTables, Table, read_table
from monosem.report.browser.words import Vocabulary
from monosem.store.store import Store

WORDS, FROM = 3, 6
"""A feature is called by so many different tokens of so many of its strongest examples."""


def short_names(tables: FeatureTables, vocabulary: Vocabulary) -> list[list[str]]:
    """Of each feature: the different tokens of its strongest examples, strongest first; none if it is dead."""
    names: list[list[str]] = [[] for _ in range(tables.size)]
    for whole in tables.column("examples", "feature", "group", "rank", "centre", "tokens"):
        strongest = pc.and_(pc.equal(whole.table["group"], 0), pc.less(whole.table["rank"], FROM))
        table = Table(whole.table.filter(strongest))
        tokens = table["tokens"]
        own = tokens.values[tokens.starts[:-1] + table["centre"]] if table.length else np.zeros(0, dtype=np.int64)
        for feature, token in zip(table["feature"].tolist(), own.tolist(), strict=True):
            text, known = vocabulary.texts[token], names[feature]
            if len(known) < WORDS and text not in known:
                known.append(text)
    return names


class Related:
    """RELATED of the sweeps of a site. `names` [run name]: short names of its features."""

    def __init__(self):
        self.names: dict[str, list[list[str]]] = {}
        self.tables: dict[str, Table] = {}
        self.called: dict[str, dict[str, str]] = {}
        self.rows: dict[str, dict[int, list[int]]] = {}

    def read(self, store: Store, path: str, sweep: str, called: dict[str, str]) -> None:
        """Take in the table of `sweep` at `path`; a sweep of one run has none. `called`: what the site calls the sweeps
        of this store, by their names there."""
        if not store.exists(path):
            return
        table = read_table(store, path, schema.RELATED)
        self.tables[sweep], self.called[sweep] = table, called
        places: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, (run, feature) in enumerate(zip(table["run"], table["feature"].tolist(), strict=True)):
            places[f"{sweep}/{run}"][feature].append(place)
        self.rows |= places

    def of(self, name: str, feature: int) -> list[list]:
        """[sweep, run, feature, r, cosine, words] of each relative of a feature of the run `name` ("sweep/run"). Of a
        sweep that is not on the site: null, and the run with its sweep."""
        sweep = name.split("/")[0]
        return [self._entry(sweep, row) for row in self.rows.get(name, {}).get(feature, [])]

    def _entry(self, of: str, row: int) -> list:
        table, called = self.tables[of], self.called[of]
        stored, run, feature = table["other_sweep"][row], table["other_run"][row], int(table["other_feature"][row])
        sweep = called.get(stored)
        known = self.names.get(f"{sweep}/{run}", [])
        words = known[feature] if feature < len(known) else []
        run = run if sweep is not None else f"{stored}/{run}"
        return [sweep, run, feature, plain(table["r"][row]), plain(table["cosine"][row]), [w[:40] for w in words]]
