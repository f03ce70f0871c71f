"""The files of one run: index, rows for lists, features for pages; and its postings for the search.

    data/<sweep>/<run>/index.js         columns over all features
    data/<sweep>/<run>/rows-<k>.js      names and one example of each, ROWS_PER_FILE features a file
    data/<sweep>/<run>/features-<k>.js  everything, FEATURES_PER_FILE features a file
    data/<sweep>/<run>/texts.js  text-<k>.js  rubric.js  and rubric-key.json beside them

Memory: one slice of the tables, one file of rows and one of features, and the columns.
"""

from collections.abc import Callable

import numpy as np

from monosem.report.browser.detail import record
from monosem.report.browser.examples import Examples, Texts
from monosem.report.browser.pack import Site, column
from monosem.report.browser.related import Related
from monosem.report.browser.rows import kinds, row, top_tokens
from monosem.report.browser.rubric import Sample
from monosem.report.browser.tables import FeatureTables, Table
from monosem.report.browser.terms import DOMAIN_LIFT, DOMAIN_SHARE, TermIndex, feature_terms
from monosem.report.browser.words import Vocabulary

ROWS_PER_FILE, FEATURES_PER_FILE = 512, 32


class RunWriter:
    """Writes the index, rows and features of the run with this number; fills `index` with its terms, and `sample` if
    there is one."""

    def __init__(self, site: Site, name: str, number: int, vocabulary: Vocabulary, related: Related, index: TermIndex):
        self.site, self.name, self.number = site, name, number
        self.vocabulary, self.related, self.index = vocabulary, related, index
        self.columns: dict[str, list] = {"density": [], "max": [], "importance": [], "ultralow": []}
        self.rows, self.row_texts = [], Texts(vocabulary.texts)
        self.features, self.feature_texts = [], Texts(vocabulary.texts)
        self.written = {"rows": 0, "features": 0}
        self.sample: Sample | None = None

    def write(self, tables: FeatureTables, tick: Callable[[int], None]) -> None:
        """All features, but for the index. `tick` is told how many, slice by slice."""
        base = self._domain_base(tables)
        names = tables.manifest.get("domains", [])
        for features, table in tables.slices():
            examples = Examples.of(table, features["feature"])
            for i in range(features.length):
                self._feature(features, examples, i, self._domains(features, i, names, base))
            for key, source in (("density", "density"), ("max", "max_activation"), ("importance", "importance")):
                self.columns[key].append(features[source])
            self.columns["ultralow"].append(np.asarray([x is True or x == 1 for x in features["ultralow"]]))
            tick(features.length)
        self._flush("rows", 1)
        self._flush("features", 1)

    def _feature(self, features: Table, examples: Examples, i: int, domains: dict[str, float]) -> None:
        number = int(features["feature"][i])
        tops = top_tokens(examples, i)
        found = kinds(examples, i, self.vocabulary)
        self.rows.append(row(features, examples, i, self.row_texts, tops, found))
        self.features.append(record(features, examples, i, self.feature_texts, self.related.of(self.name, number)))
        if self.sample is not None:
            self.sample.see(features, examples, i, self.vocabulary.texts)
        if len(examples.rows(i)):
            terms = feature_terms(features, examples, i, self.vocabulary, found, domains)
            self.index.add(self.number, number, float(features["max_activation"][i]), terms)
        self._flush("rows", ROWS_PER_FILE)
        self._flush("features", FEATURES_PER_FILE)

    def _flush(self, what: str, at_least: int) -> None:
        entries = getattr(self, what)
        if len(entries) < at_least:
            return
        texts = "row_texts" if what == "rows" else "feature_texts"
        self.site.data(f"{self.name}/{what}-{self.written[what]}", {what: entries, "texts": getattr(self, texts).texts})
        self.written[what] += 1
        setattr(self, what, [])
        setattr(self, texts, Texts(self.vocabulary.texts))

    def write_index(self, order: np.ndarray | None) -> None:
        """The columns; `order` [features]: place of each along the map's one dimension."""
        joined = {key: np.concatenate(parts) if parts else np.zeros(0) for key, parts in self.columns.items()}
        value = {key: column(joined[key], "<f4") for key in ("density", "max", "importance")}
        value["ultralow"] = column(joined["ultralow"], "u1")
        value["order"] = None if order is None else column(order, "<u4")
        self.site.data(f"{self.name}/index", value)

    def _domain_base(self, tables: FeatureTables) -> np.ndarray:
        """Share of each domain in all activations of the run: what a feature without a preference would have."""
        n = len(tables.manifest.get("domains", []))
        total = np.zeros(n)
        for features in tables.column("features", "domain_counts") if n > 1 else ():
            counts = features["domain_counts"]
            total += counts.values.reshape(-1, n).sum(axis=0) if len(counts.values) else 0
        return total / max(1.0, total.sum())

    def _domains(self, features: Table, i: int, names: list[str], base: np.ndarray) -> dict[str, float]:
        counts = features["domain_counts"][i]
        if counts is None or len(names) < 2 or not counts.sum():
            return {}
        share = counts / counts.sum()
        own = np.flatnonzero((share >= DOMAIN_SHARE) & (share > DOMAIN_LIFT * base))
        return {names[d]: float(share[d]) for d in own}
