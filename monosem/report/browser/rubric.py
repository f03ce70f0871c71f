"""The blind exercise: features of a run and neurons, in random order and under opaque names (Bricken et al. 2023,
appendix on the human rubric). All intervals of each are shown, since who marks reads them all first; a few are marked.
Which is which is in rubric-key.json, which no page reads.
"""

import hashlib

import numpy as np

from monosem.features import schema
from monosem.report.browser.examples import Examples, Texts
from monosem.report.browser.pack import Site, plain
from monosem.report.browser.tables import FeatureTables, Table
from monosem.store.plain import pack_json

EACH, INTERVALS = 20, 3
"""Features, and neurons, of an exercise; intervals of each that are marked."""


class Sample:
    """Features of a run that are active anywhere, drawn uniformly, with what is shown of them; filled as the run is
    written, so that its tables are read once."""

    def __init__(self, name: str, tables: FeatureTables):
        self.name, self.kind = name, "neuron" if tables.manifest["kind"] == "neurons" else "feature"
        self.random = _random(name, tables.manifest["fingerprint"])
        alive = np.flatnonzero(tables.largest > 0)
        drawn = self.random.choice(alive, size=min(EACH, len(alive)), replace=False)
        self.items: dict[int, dict] = {number: {} for number in drawn.tolist()}

    def see(self, features: Table, examples: Examples, i: int, vocabulary: list[str]) -> None:
        """Keep what is shown of the slice's feature i, if it was drawn."""
        number = int(features["feature"][i])
        if number not in self.items:
            return
        texts = Texts(vocabulary)
        groups = examples.by_group(i, texts)
        kept = sorted(self.random.choice(len(groups), size=min(INTERVALS, len(groups)), replace=False).tolist())
        # What could tell the kind, or be looked up, is taken out: context, position and domain.
        blind = [[schema.GROUPS[group], [[*e[:7], -1, 0, -1] for e in shown]] for group, shown in groups]
        self.items[number] = {
            "up": texts.pairs(features["top_logit_tokens"][i], features.rounded("top_logit_values")[i]),
            "max": plain(features["max_activation"][i]),
            "groups": blind,
            "marked": [blind[g][0] for g in kept],
            "texts": texts.texts,
        }


def write_rubric(site: Site, run: Sample, neurons: Sample | None) -> None:
    """rubric.js and rubric-key.json of a run."""
    picks = [(s, feature) for s in (run, neurons) if s is not None for feature in s.items]
    key = f"{run.name} {hashlib.sha256(repr([(s.name, f) for s, f in picks]).encode()).hexdigest()[:12]}"
    shown, hidden = [], {}
    for place in _random(key, "order").permutation(len(picks)).tolist():
        sample, feature = picks[place]
        item = hashlib.sha256(f"{key} {sample.name} {feature}".encode()).hexdigest()[:10]
        hidden[item] = {"kind": sample.kind, "run": sample.name.split("/")[1], "feature": feature}
        shown.append({"item": item, **sample.items[feature]})
    site.data(f"{run.name}/rubric", {"key": key, "items": shown})
    site.put(f"data/{run.name}/rubric-key.json", pack_json({"key": key, "items": hidden}))


def _random(*seed: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(" ".join(seed).encode()).digest()[:8], "big"))
