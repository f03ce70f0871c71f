"""One feature with everything its page shows, as a record for features-N."""

from monosem.report.browser.examples import Examples, Texts
from monosem.report.browser.pack import listed, plain
from monosem.report.browser.tables import Table

DOMAINS = 5
"""Domains that a page lists at most; the rest of its tokens are of others."""


def record(features: Table, examples: Examples, i: int, texts: Texts, related: list) -> dict:
    """Of the slice's feature i. `related`: [sweep, run, feature, r, cosine, words] each."""
    alive = features["max_activation"][i] > 0
    return {
        "density": plain(features["density"][i], 6),
        "n": int(features["n_active"][i]),
        "max": plain(features["max_activation"][i], 6),
        "mean": plain(features["mean_activation"][i]),
        "importance": plain(features["importance"][i]),
        "bias": plain(features["encoder_bias"][i]),
        "encoderCosine": plain(features["encoder_cosine"][i]) if features.valid("encoder_cosine")[i] else None,
        "ultralow": bool(features["ultralow"][i]) if features.valid("ultralow")[i] else False,
        "acts": _histogram(features, "act", i) if alive else None,
        "logits": _histogram(features, "logit", i),
        "up": texts.pairs(features["top_logit_tokens"][i], features.rounded("top_logit_values")[i]),
        "down": texts.pairs(features["bottom_logit_tokens"][i], features.rounded("bottom_logit_values")[i]),
        "neurons": _columns(features, i, "neuron_indices", "neuron_weights", "neuron_cosines", "neuron_l1_shares"),
        "correlated": _columns(
            features, i, "correlated_neuron_indices", "correlated_neuron_r", "correlated_neuron_cosines"
        ),
        "related": related,
        "domains": _domains(features, i),
        "groups": examples.by_group(i, texts),
    }


def _histogram(features: Table, name: str, i: int) -> dict | None:
    counts = features[f"{name}_hist_counts"][i]
    if counts is None:
        return None
    lo, hi = plain(features[f"{name}_hist_lo"][i]), plain(features[f"{name}_hist_hi"][i])
    return {"counts": counts.tolist(), "lo": lo, "hi": hi}


def _columns(features: Table, i: int, indices: str, *numbers: str) -> list | None:
    places = features[indices][i]
    if places is None:
        return None
    found = [features.rounded(name)[i] for name in numbers]  # of transcoders there are no cosines with what they read
    columns = [[None] * len(places) if values is None else listed(values) for values in found]
    return [list(entry) for entry in zip(places.tolist(), *columns, strict=True)]


def _domains(features: Table, i: int) -> list:
    """[[domain, tokens], ...] with the most tokens first."""
    counts = features["domain_counts"][i]
    found = [] if counts is None else [[d, int(n)] for d, n in enumerate(counts.tolist()) if n]
    return sorted(found, key=lambda entry: -entry[1])[:DOMAINS]
