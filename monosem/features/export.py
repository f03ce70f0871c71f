"""Feature tables in the forms that other tools read: SAEDashboard's batches and Neuronpedia's import directories.

SAEDashboard   `batch-<n>.json` as its Neuronpedia runner writes them: {model_id, layer, sae_set, sae_id_suffix,
               features}, values rounded to 3 decimals and activation groups as bins (top: bin_min and bin_contains -1)
Neuronpedia    <model>/<layer>-<set>/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl,
               features/batch-<n>.jsonl.gz, activations/batch-<n>.jsonl.gz, as its bulk import takes them
               (SAEDashboard's `neuronpedia_export` makes the same from batches). Times are fixed and ids are digests:
               the same tables give the same bytes

A batch without a living feature has no file: the import reads its columns off a file's first line.
Names of fields are theirs. Read from SAEDashboard and neuronpedia of 2026.
"""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from monosem.errors import InputError
from monosem.features import schema
from monosem.features.read import FeatureTables
from monosem.store.plain import sha256

BATCH = 256
"""Features of a file."""
CREATED = "2024-01-01T00:00:00"
"""The rows' creation time, which nobody reads and which must be there."""
BOT = "clkht01d40000jv08hvalcvly"
"""The account that every database of theirs is seeded with; rows need one that exists."""


@dataclass(frozen=True)
class Names:
    """What the other tool calls things.

    model, set       Neuronpedia's model id and source set name
    layer            number of the block
    creator          shown as the author; creator_id: of the account that owns the rows
    owner            who made the host
    layers, neurons  of the host, and of each of its MLPs; 0 where the run's record does not say
    """

    model: str
    set: str
    layer: int
    creator: str = "monosem"
    creator_id: str = BOT
    owner: str = "monosem"
    layers: int = 0
    neurons: int = 0

    @property
    def source(self) -> str:
        return f"{self.layer}-{self.set}"


def names_of(record: dict, model: str | None, set_name: str | None, creator_id: str | None = None) -> Names:
    """Names from a run's record, where none are given: letters, digits, '-' and '.' only. `creator_id` None: BOT."""
    host = record["host"]
    block = re.match(r"blocks\.(\d+)\.", host["alias"])
    kind = host["alias"].rsplit(".", 1)[-1].removeprefix("hook_").replace("_", "-")
    found = set_name or f"{record['sweep']}-{record['run']}-{kind}"
    hub, colon, path = host["model_name"].partition(":")
    one_layer = host["alias"].startswith("blocks.") and not host["hook_name"].startswith("blocks.")
    return Names(
        _plain(model or host["model_name"].rsplit("/", 1)[-1]),
        _plain(found),
        int(block[1]) if block else 0,
        creator_id=creator_id or BOT,
        owner=path.split("/")[0] if (hub, colon) == ("hf", ":") else Names.owner,
        layers=int(one_layer),  # hosts of our own have one block, which their hook points' names leave out
        neurons=record["d_in"] if host["alias"].endswith((".mlp.hook_post", ".mlp.hook_pre")) else 0,
    )


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")


def dashboard_files(tables: FeatureTables, names: Names, dataset: str) -> Iterator[tuple[str, bytes]]:
    """SAEDashboard's files, one after another: (name, bytes)."""
    for number, features in _batches(tables, dataset):
        batch = {"model_id": names.model, "layer": names.layer, "sae_set": names.set, "sae_id_suffix": None}
        yield f"batch-{number}.json", json.dumps(batch | {"features": features}, allow_nan=False).encode()


def neuronpedia_files(tables: FeatureTables, names: Names, dataset: str) -> Iterator[tuple[str, bytes]]:
    """Neuronpedia's files below <model>/<source>/, one after another: (name, bytes)."""
    root, m = f"{names.model}/{names.source}", tables.manifest
    for name, row in _descriptions(names, m, dataset).items():
        yield f"{root}/{name}.jsonl", _lines([row])
    for number, features in _batches(tables, dataset):
        rows = [_feature_row(f, names) for f in features]
        activations = [a for f in features for a in _activation_rows(f, names)]
        yield f"{root}/features/batch-{number}.jsonl.gz", _zipped(_lines(rows))
        yield f"{root}/activations/batch-{number}.jsonl.gz", _zipped(_lines(activations))


def _batches(tables: FeatureTables, dataset: str) -> Iterator[tuple[int, list[dict]]]:
    """(number, features in SAEDashboard's words) of BATCH features at a time; dead ones are left out, as it leaves
    them out, and so are batches that have no other."""
    if not tables.manifest["logits"]:
        raise InputError(f"{tables.uri}: no direct logit effects at {tables.manifest['write_point']}; they need them")
    bounds = np.searchsorted(tables.examples["feature"].to_numpy(), np.arange(tables.manifest["d_sae"] + 1))
    for number, lo in enumerate(range(0, tables.manifest["d_sae"], BATCH)):
        part = tables.features.slice(lo, BATCH).to_pylist()
        examples = tables.examples.slice(bounds[lo], bounds[lo + len(part)] - bounds[lo]).to_pylist()
        by_feature: dict[int, list[dict]] = {}
        for row in examples:
            by_feature.setdefault(row["feature"], []).append(row)
        alive = [row for row in part if not row["dead"]]
        if alive:
            yield number, [_feature(tables, row, by_feature[row["feature"]], dataset) for row in alive]


def _rounded(values: list[float] | None) -> list[float]:
    return [round(v, 3) for v in values or []]


def _feature(tables: FeatureTables, row: dict, examples: list[dict], dataset: str) -> dict:
    m, words = tables.manifest, tables.words
    weakest = [e["activations"][e["centre"]] for e in examples if e["group"] > schema.INTERVALS]
    return {
        "feature_index": row["feature"],
        "neuron_alignment_indices": row["neuron_indices"] or [],
        "neuron_alignment_values": _rounded(row["neuron_weights"]),
        "neuron_alignment_l1": _rounded(row["neuron_l1_shares"]),
        "correlated_neurons_indices": row["correlated_neuron_indices"] or [],
        "correlated_neurons_l1": _rounded(row["correlated_neuron_cosines"]),
        "correlated_neurons_pearson": _rounded(row["correlated_neuron_r"]),
        "correlated_features_indices": [],
        "correlated_features_l1": [],
        "correlated_features_pearson": [],
        "neg_str": [words[t] for t in row["bottom_logit_tokens"]],
        "neg_values": _rounded(row["bottom_logit_values"]),
        "pos_str": [words[t] for t in row["top_logit_tokens"]],
        "pos_values": _rounded(row["top_logit_values"]),
        "frac_nonzero": row["density"],
        "freq_hist_data_bar_heights": row["act_hist_counts"],
        "freq_hist_data_bar_values": _middles(row["act_hist_lo"], row["act_hist_hi"]),
        "logits_hist_data_bar_heights": row["logit_hist_counts"],
        "logits_hist_data_bar_values": _middles(row["logit_hist_lo"], row["logit_hist_hi"]),
        "n_prompts_total": m["contexts"],
        "n_tokens_in_prompt": m["context_length"],
        "dataset": dataset,
        "decoder_weights_dist": [],
        "activations": [_activation(tables, e, row, weakest) for e in examples],
    }


def _middles(lo: float, hi: float) -> list[float]:
    width = (hi - lo) / schema.BUCKETS
    return [round(lo + (i + 0.5) * width, 5) for i in range(schema.BUCKETS)]


def _activation(tables: FeatureTables, example: dict, row: dict, weakest: list[float]) -> dict:
    """An example with the bin it stands for, one for all examples of a group, since readers group by it. Intervals: an
    eleventh of the largest activation each. The last group, whose activations are `weakest`: those of the sample."""
    group, most = example["group"], row["max_activation"]
    if group == 0:
        ends, share = (-1, most), -1
    elif group <= schema.INTERVALS:
        k, step = group - 1, most / schema.INTERVALS
        ends = (max(0.0, (schema.INTERVALS - 1.5 - k) * step), (schema.INTERVALS - 0.5 - k) * step)
        share = _share(row, *ends)
    else:
        ends, share = (0.0, max(weakest)), len(weakest) / max(1, sum(row["act_hist_counts"]))
    return {
        "bin_min": round(ends[0], 5),
        "bin_max": round(ends[1], 5),
        "bin_contains": round(share, 5),
        "qualifying_token_index": example["centre"],
        "tokens": [tables.words[t] for t in example["tokens"]],
        "values": _rounded(example["activations"]),
        **({} if example["loss_effects"] is None else {"loss_values": _rounded(example["loss_effects"])}),
    }


def _share(row: dict, lo: float, hi: float) -> float:
    """Share of the sampled activations between two values, by the histogram's buckets."""
    middles = _middles(row["act_hist_lo"], row["act_hist_hi"])
    inside = sum(n for n, x in zip(row["act_hist_counts"], middles, strict=True) if lo <= x < hi)
    return inside / max(1, sum(row["act_hist_counts"]))


def _descriptions(names: Names, m: dict, dataset: str) -> dict[str, dict]:
    made = {"creatorId": names.creator_id, "createdAt": CREATED}
    release = f"{names.creator}-{m['sweep']}"
    return {
        "release": {
            "name": release, "description": f"Sweep {m['sweep']}", "descriptionShort": m["sweep"], "urls": [],
            "creatorName": names.creator, "creatorNameShort": names.creator, "visibility": "PUBLIC", **made,
        },
        "model": {
            "id": names.model, "instruct": False, "displayName": names.model, "displayNameShort": names.model,
            "layers": names.layers, "neuronsPerLayer": names.neurons, "owner": names.owner,
            "updatedAt": CREATED, "visibility": "PUBLIC", "inferenceEnabled": False, **made,
        },
        "sourceset": {
            "modelId": names.model, "name": names.set, "description": f"{m['run']} of {m['sweep']}",
            "creatorName": names.creator, "releaseName": release, "hasDashboards": True, "visibility": "PUBLIC", **made,
        },
        "source": {
            "id": names.source, "modelId": names.model, "setName": names.set, "hasDashboards": True,
            "dataset": dataset, "num_prompts": m["contexts"], "num_tokens_in_prompt": m["context_length"],
            "visibility": "PUBLIC", **made,
        },
    }  # fmt: skip


def _feature_row(feature: dict, names: Names) -> dict:
    left_out = ("feature_index", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations")
    same = {key: value for key, value in feature.items() if key not in left_out}
    most = max((max(a["values"]) for a in feature["activations"]), default=0.0)
    return {
        "modelId": names.model,
        "layer": names.source,
        "index": str(feature["feature_index"]),
        "sourceSetName": names.set,
        "creatorId": names.creator_id,
        "createdAt": CREATED,
        "maxActApprox": most,
        "hasVector": False,
        "vector": [],
        **same,
    }


def _activation_rows(feature: dict, names: Names) -> Iterator[dict]:
    for number, a in enumerate(feature["activations"]):
        values = a["values"]
        name = f"{names.model}/{names.source}/{feature['feature_index']}/{number}"
        yield {
            "id": "c" + sha256(name.encode())[:24],
            "modelId": names.model,
            "layer": names.source,
            "index": str(feature["feature_index"]),
            "creatorId": names.creator_id,
            "createdAt": CREATED,
            "tokens": a["tokens"],
            "values": values,
            "maxValue": max(values),
            "maxValueTokenIndex": values.index(max(values)),
            "minValue": min(values),
            "lossValues": a.get("loss_values", []),
            "dfaValues": [],
            "binMin": a["bin_min"],
            "binMax": a["bin_max"],
            "binContains": a["bin_contains"],
            "qualifyingTokenIndex": a["qualifying_token_index"],
        }


def _lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def _zipped(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=5, mtime=0)
