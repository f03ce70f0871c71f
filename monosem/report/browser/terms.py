"""The search index over all dictionaries of a site: from a word or token to the features it belongs to.

A posting is (run, feature, how, activation, share, strength). How it belongs, best first:

    0  a kind of text, or a domain of the corpus, that the feature is active on
    1  the word that an example's token is part of, or that token as it is
    2  a token among the feature's positive logits (`activation` is the effect then)
    3  another word in the text of the strongest examples

`activation` is the largest at which the feature was seen on it, `share` that of the strongest examples, `strength` that
activation as a share of the feature's largest, by which features of several dictionaries can be compared (of a logit:
its effect). Of a feature the best way is kept, and a kind beside it; of a run that has more than its part of MOST, the
strongest. Terms are sorted as JavaScript compares strings and cut into files of about FILE_POSTINGS postings.
"""

from array import array
from collections.abc import Iterator

import numpy as np

from monosem.report.browser.examples import Examples
from monosem.report.browser.pack import Site, plain, rounded
from monosem.report.browser.tables import Table
from monosem.report.browser.words import LONGEST_TERM, Vocabulary, Window, normal

KIND, ON, PREDICTS, NEAR = range(4)

MOST, LEAST = {KIND: 2000, ON: 400, PREDICTS: 400, NEAR: 400}, 50
"""Postings kept of a term for each way it belongs, shared among the site's runs; and of each run at least."""

FILE_POSTINGS = 6000

GROUPS_READ = 7
"""Groups of examples whose own words are looked at: the strongest and six intervals, down to about half the maximum."""

DOMAIN_SHARE, DOMAIN_LIFT = 0.5, 2.0
"""A feature is of a domain if that has this share of its tokens, and this many times the share it has of all."""


class TermIndex:
    """Collects postings feature by feature; `files` gives them by term."""

    def __init__(self):
        self.terms: dict[str, int] = {}
        self.term, self.run, self.feature, self.how = array("I"), array("H"), array("I"), array("B")
        self.activation, self.share, self.strength = array("f"), array("f"), array("f")

    def add(self, run: int, feature: int, largest: float, found: dict[tuple[str, int], list[float]]) -> None:
        """`found`: (term, how) to [activation, share]; `largest`: the feature's largest activation."""
        for (term, how), (activation, share) in found.items():
            if any((term, better) in found for better in range(ON, how)):
                continue
            self.term.append(self.terms.setdefault(term, len(self.terms)))
            self.run.append(run)
            self.feature.append(feature)
            self.how.append(how)
            self.activation.append(activation)
            self.share.append(share)
            self.strength.append(activation if how == PREDICTS else activation / largest)

    def files(self) -> Iterator[dict]:
        """{terms, postings, cut} of each file; postings of a term flat, by how and strength; `cut`: term's place in the
        file, how, run and how many there are, flat, where not all are kept."""
        names = sorted(self.terms, key=lambda term: term.encode("utf-16-be", "surrogatepass"))
        order = np.empty(len(names), dtype=np.int64)
        order[[self.terms[name] for name in names]] = np.arange(len(names))
        term = order[np.asarray(self.term)]
        activation, share, strength = (np.asarray(c) for c in (self.activation, self.share, self.strength))
        by, cut = self._kept(term, -strength * np.sqrt(share))
        columns = [np.asarray(c)[by] for c in (self.run, self.feature, self.how)]
        numbers = [rounded(c[by], 3) for c in (activation, share, strength)]
        flat = np.stack([*columns, *numbers], axis=1)
        cuts = np.searchsorted(term[by], np.arange(len(names) + 1))
        first = 0
        while first < len(names):
            last = max(first + 1, int(np.searchsorted(cuts, cuts[first] + FILE_POSTINGS, side="right")) - 1)
            postings = [_ints(flat[cuts[t] : cuts[t + 1]]) for t in range(first, last)]
            here = cut[(cut[:, 0] >= first) & (cut[:, 0] < last)] - [first, 0, 0, 0]
            yield {"terms": names[first:last], "postings": postings, "cut": here.ravel().tolist()}
            first = last

    def _kept(self, term: np.ndarray, weakness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places of the postings that are kept, by term, how and weakness; [m, 4] int: term, how, run and number of
        those of which some are not)."""
        how, run = np.asarray(self.how), np.asarray(self.run).astype(np.int64)
        runs = int(run.max(initial=-1)) + 1
        most = np.asarray([max(LEAST, MOST[h] // max(1, runs)) for h in range(4)])
        by = np.lexsort((weakness, run, how, term))
        key = (term[by] * 4 + how[by]) * runs + run[by]
        keep = _places(key) < most[how[by]]
        groups, sizes = np.unique(key, return_counts=True)
        over = sizes > most[groups // max(1, runs) % 4]
        groups, sizes = groups[over], sizes[over]
        cut = np.stack([groups // max(1, 4 * runs), groups // max(1, runs) % 4, groups % max(1, runs), sizes], axis=1)
        by = by[keep]
        return by[np.lexsort((weakness[by], how[by], term[by]))], cut

    def counts(self, names: list[str], runs: list[int]) -> list[list]:
        """[name, features of that kind or domain in `runs`] for those names that have any, most first."""
        term = np.asarray(self.term)[(np.asarray(self.how) == KIND) & np.isin(np.asarray(self.run), runs)]
        kinds = np.bincount(term, minlength=len(self.terms))
        named = [name for name in names if normal(name) and normal(name) in self.terms]
        found = [[name, int(kinds[self.terms[normal(name)]])] for name in named]
        return sorted((entry for entry in found if entry[1]), key=lambda entry: -entry[1])


def _places(keys: np.ndarray) -> np.ndarray:
    """Of each entry of sorted `keys`: how many equal ones stand before it."""
    return np.arange(len(keys)) - np.searchsorted(keys, keys)


def _ints(rows: np.ndarray) -> list:
    return [x for r, f, h, *numbers in rows.tolist() for x in (int(r), int(f), int(h), *numbers)]


def write_terms(site: Site, index: TermIndex) -> list[str]:
    """The files search/0, search/1 ...; returns the first term of each."""
    first = []
    for number, file in enumerate(index.files()):
        site.data(f"search/{number}", file)
        first.append(file["terms"][0])
    return first


def feature_terms(
    features: Table, examples: Examples, i: int, vocabulary: Vocabulary, kinds: list, domains: dict[str, float]
) -> dict[tuple[str, int], list[float]]:
    """(term, how) to [activation, share] of the slice's feature i; `domains`: share of its tokens, by name."""
    found: dict[tuple[str, int], list[float]] = {}
    largest = float(features["max_activation"][i])
    for name, share in [*domains.items(), *kinds]:  # where a domain goes by the name of a kind, the kind's share stays
        if normal(name):  # documents may be without a domain
            found[normal(name), KIND] = [largest, share]
    tokens, values = features["top_logit_tokens"][i], features["top_logit_values"][i]
    for token, value in [] if tokens is None else zip(tokens.tolist(), values.tolist(), strict=True):
        _note(found, vocabulary.texts[token], PREDICTS, max(0.0, plain(value) or 0.0), 1.0)
    _example_terms(found, examples, i, vocabulary)
    return found


def _example_terms(found: dict, examples: Examples, i: int, vocabulary: Vocabulary) -> None:
    rows = examples.rows(i, GROUPS_READ)
    tops = max(1, len(examples.rows(i, 1)))
    tokens, groups = examples.table["tokens"], examples.table["group"]
    centres = examples.table["centre"]
    for row, activation in zip(rows, examples.centre_activations(rows).tolist(), strict=True):
        ids, j = tokens[row].tolist(), int(centres[row])
        window = vocabulary.window(ids)
        share = 1 / tops if groups[row] == 0 else 0.0
        own = set(_own_terms(window, j))
        own.add(normal(vocabulary.texts[ids[j]]))
        for term in own:
            _note(found, term, ON, activation, share, normed=True)
        if groups[row] == 0:
            for term in {normal(word) for word, a, b in window.words() if not window.is_in(j, a, b)}:
                if len(term) > 1:
                    _note(found, term, NEAR, activation, share, normed=True)


def _own_terms(window: Window, j: int) -> Iterator[str]:
    for word, a, b in window.words():
        if window.is_in(j, a, b):
            yield normal(word)


def _note(found: dict, text: str, how: int, activation: float, share: float, normed: bool = False) -> None:
    term = text if normed else normal(text)
    if not term or len(term) > LONGEST_TERM:
        return
    entry = found.get((term, how))
    if entry is None:
        found[term, how] = [activation, max(share, 0.01)]
    else:
        entry[0] = max(entry[0], activation)
        entry[1] = min(1.0, entry[1] + share)
