"""A sweep with made-up feature tables: two dictionaries and the neurons, by monosem/features/schema.py.

Every feature has a small set of favourite tokens, drawn from one of a few kinds of text, and its examples are windows
of that text with a favourite in the middle. `text` is put through each piece of text that ends up on a page.
"""

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from monosem.features import schema
from monosem.sae.config import SaeConfig
from monosem.sae.model import Sae
from monosem.store.dictionary import write_dictionary
from monosem.store.plain import pack_json
from monosem.store.store import LocalStore, open_store

KINDS = {
    "english": [" the", " river", " of", " stone", " bridge", " quiet", " engine", ".", ",", " and", " harbour",
                " winter", " letter", " glass", " north", " mill", " wheat", " candle", " orchard", " market", " slow", " green", " wheel"],
    "arabic": [" \u0627\u0644\u0643\u062a\u0627\u0628", " \u0639\u0644\u0645", " \u0645\u0646", " \u0646\u0647\u0631", " \u0628\u064a\u062a"],
    "hebrew": ["\\xd7", "\\xa9", " \u05e9\u05dc\u05d5\u05dd", " \u05e1\u05e4\u05e8", "\\x9c", " \u05d0\u05d1"],
    "dna": ["ACG", "TTGA", "CCGT", "GATT", "TAGC", "GGCA"],
    "base64": ["aGVs", "bG8g", "Qg9x", "ICAg", "Zm9v", "zA7k"],
}
PIECES = {kind: list(dict.fromkeys(words)) for kind, words in KINDS.items()}
TOKENS = [word for words in PIECES.values() for word in words]
DOMAINS = list(PIECES)
D_IN = 24


def arrow_type(kind: str) -> pa.DataType:
    if kind.startswith("list<"):
        return pa.list_(arrow_type(kind[5:-1]))
    return {"bool": pa.bool_()}.get(kind) or getattr(pa, kind)()


def to_parquet(rows: list[dict], columns: tuple[schema.Column, ...]) -> bytes:
    fields = pa.schema([pa.field(c.name, arrow_type(c.kind), c.nullable) for c in columns])
    out = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=fields), out)
    return out.getvalue().to_pybytes()


def favourites(rng: np.random.Generator) -> tuple[int, list[int]]:
    domain = int(rng.integers(len(DOMAINS)))
    own = PIECES[DOMAINS[domain]]
    chosen = rng.choice(len(own), size=min(len(own), int(rng.integers(1, 4))), replace=False)
    return domain, [TOKENS.index(own[i]) for i in chosen]


def example(rng: np.random.Generator, feature: int, group: int, rank: int, strength: float, domain: int, wanted: list[int]) -> dict:
    pieces = PIECES[DOMAINS[domain]]
    tokens = [TOKENS.index(pieces[i]) for i in rng.integers(len(pieces), size=9)]
    tokens[4] = wanted[int(rng.integers(len(wanted)))]
    acts = [strength if j == 4 else strength * 0.3 * float(rng.random()) * (t in wanted) for j, t in enumerate(tokens)]
    effects = [0.0] * 5 + [float(v) for v in rng.normal(0.3, 0.5, 3)] + [0.0]
    near = [int(t) for t in rng.choice(len(TOKENS), 5, replace=False)]
    return {"feature": feature, "group": group, "rank": rank, "context": int(rng.integers(1000)), "position": int(rng.integers(4, 200)),
            "centre": 4, "domain": domain, "tokens": tokens, "activations": acts, "loss_effects": effects, "up_tokens": near,
            "up_values": [0.5, 0.4, 0.3, 0.2, 0.1], "down_tokens": near[::-1], "down_values": [-0.9, -0.5, -0.3, -0.2, -0.1],
            "repeated": rank == 3}  # fmt: skip


def one_feature(rng: np.random.Generator, feature: int, dead: bool) -> tuple[dict, list[dict]]:
    domain, wanted = favourites(rng)
    largest = float(rng.uniform(2, 12))
    few = feature % 13 == 5
    groups = [(0, 20)] if few else [(0, 20), *((k, 5) for k in range(1, 12)), (12, 20)]
    rows = []
    for group, n in [] if dead else groups:
        top = {0: 1.0, 12: 0.01}.get(group, (11 - group) / 11)
        rows += [example(rng, feature, group, rank, largest * top * (1 - 0.01 * rank), domain, wanted) for rank in range(n)]
    logits = [int(t) for t in rng.choice(len(TOKENS), 20, replace=False)]
    values = np.sort(rng.exponential(0.3, 10))[::-1]
    counts = np.zeros(len(DOMAINS), dtype=int)
    counts[domain] = 0 if dead else 900
    counts[(domain + 1) % len(DOMAINS)] += 0 if dead else 100
    record = {
        "feature": feature, "density": 0.0 if dead else float(10 ** rng.uniform(-5, -1.5)), "n_active": 0 if dead else 1000,
        "max_activation": 0.0 if dead else largest, "mean_activation": 0.0 if dead else largest / 4, "dead": dead, "ultralow": False,
        "label": TOKENS[wanted[0]] if len(wanted) == 1 and not dead else None, "label_token": wanted[0] if len(wanted) == 1 and not dead else None,
        "importance": float(rng.exponential(0.01)), "decoder_norm": 1.0, "encoder_bias": -0.3, "encoder_cosine": 0.6,
        "act_hist_counts": [int(500 * 0.85**i) for i in range(40)], "act_hist_lo": 0.0, "act_hist_hi": largest,
        "logit_hist_counts": [int(400 * np.exp(-(((i - 18) / 6) ** 2))) for i in range(40)], "logit_hist_lo": -0.8, "logit_hist_hi": 1.1,
        "top_logit_tokens": logits[:10], "top_logit_values": values.tolist(), "bottom_logit_tokens": logits[10:], "bottom_logit_values": (-values).tolist(),
        "neuron_indices": [1, 5, 7], "neuron_weights": [0.4, -0.3, 0.2], "neuron_cosines": [0.4, -0.3, 0.2], "neuron_l1_shares": [0.09, 0.07, 0.05],
        "correlated_neuron_indices": None if dead else [5, 2, 1], "correlated_neuron_r": None if dead else [0.5, 0.3, 0.2],
        "correlated_neuron_cosines": None if dead else [0.3, 0.1, 0.4], "n_examples": len(rows), "domain_counts": counts.tolist(),
    }  # fmt: skip
    return record, rows


def put_tables(store: LocalStore, prefix: str, seed: int, size: int, kind: str, text: Callable[[str], str]) -> None:
    rng = np.random.default_rng(seed)
    made = [one_feature(rng, i, dead=i % 17 == 9) for i in range(size)]
    half = size // 2
    files = {}
    for number, part in enumerate((made[:half], made[half:])):
        records = [r | {"label": r["label"] and text(r["label"])} for r, _ in part]
        files[schema.slice_file("features", number)] = to_parquet(records, schema.FEATURES)
        files[schema.slice_file("examples", number)] = to_parquet([row for _, rows in part for row in rows], schema.EXAMPLES)
    files[schema.TEXTS_FILE] = to_parquet(texts(rng, size), schema.TEXTS)
    for name, data in files.items():
        store.put(f"{prefix}/{name}", data)
    manifest = {"format": schema.FORMAT, "sweep": "made", "run": prefix.split("/")[-1 if kind == "neurons" else -2], "kind": kind, "hook_point": "mlp.post",
                "d_in": D_IN, "d_sae": size, "fingerprint": f"f{seed}", "tokens": 100_000, "contexts": 1000, "context_length": 256, "side": 4,
                "domains": [text(d) for d in DOMAINS], "files": dict.fromkeys(files, "0"), "logits": True, "ablations": "exact",
                "counts": {"features": size, "dead": sum(r["dead"] for r, _ in made), "ultralow": 0, "examples": sum(len(e) for _, e in made), "entries": 9}}  # fmt: skip
    store.put(f"{prefix}/{schema.MANIFEST}", pack_json(manifest))


def texts(rng: np.random.Generator, size: int) -> list[dict]:
    rows = []
    for text in range(3):
        domain = text % len(DOMAINS)
        pieces = PIECES[DOMAINS[domain]]
        for position in range(40):
            features = sorted(int(f) for f in rng.choice(size, size=int(rng.integers(0, 6)), replace=False))
            rows.append({"text": text, "context": 7 * text, "domain": domain, "position": position, "token": TOKENS.index(pieces[int(rng.integers(len(pieces)))]),
                         "loss": None if position == 0 else 2.5, "features": features, "activations": np.sort(rng.random(len(features)))[::-1].tolist()})  # fmt: skip
    return rows


def put_run(store: LocalStore, name: str, size: int, seed: int, text: Callable[[str], str]) -> None:
    torch.manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(size, D_IN), dim=1)
    config = SaeConfig(d_in=D_IN, d_sae=size, l1_coefficient=0.001)
    sae = Sae.of(config, {"W_enc": W_dec.T.contiguous(), "b_enc": torch.zeros(size), "W_dec": W_dec, "b_dec": torch.zeros(D_IN)})
    edges = np.linspace(-7, 0, 29)
    counts = (60 * np.exp(-(((edges[:-1] + 3) / 0.8) ** 2))).astype(int).tolist()
    metrics = {"l0": 40.0 - size / 20, "fvu": 0.3 - size / 1000, "loss_recovered": 0.8 + size / 2000, "dead_fraction": 0.05, "loss_clean": 2.0,
               "loss_zero_ablated": 5.0, "heldout_rows": 1000, "neurons_l0": 9.0, "density_histogram": {"edges": edges.tolist(), "counts": counts, "dead": 3}}  # fmt: skip
    record = {"sweep": "made", "run": name, "d_in": D_IN, "d_sae": size, "variant": "relu", "l1_coefficient": 0.001, "rows": 64_000, "step": 9,
              "metrics": metrics, "host": {"model": text("tiny"), "hook_name": "mlp.post"}}  # fmt: skip
    prefix = f"sweeps/made/runs/{name}"
    write_dictionary(store, prefix, sae, torch.full((size,), 0.01), {"model_name": "tiny", "hook_name": "mlp.post"}, record)
    curve = [{"step": k, "rows": 640 * k, "fvu": 0.9 / (k + 1) + 0.1} for k in range(50)]
    store.put(f"{prefix}/metrics.jsonl", "".join(json.dumps(p) + "\n" for p in curve).encode())
    put_tables(store, f"{prefix}/features", seed, size, "dictionary", text)


def made_sweep(root: str, text: Callable[[str], str] = str) -> LocalStore:
    """A store at `root` with the sweep "made": runs 1x and 4x, neurons, related features and a vocabulary."""
    store = open_store(root)
    sizes = {"1x": 40, "4x": 160}
    store.put("sweeps/made/sweep.json", pack_json({"runs": list(sizes)}))
    for seed, (name, size) in enumerate(sizes.items()):
        put_run(store, name, size, seed, text)
    put_tables(store, "sweeps/made/features/neurons", 9, D_IN, "neurons", text)
    vocabulary = [{"token": i, "text": text(t), "count": 10} for i, t in enumerate(TOKENS)]
    store.put("sweeps/made/features/vocab.parquet", to_parquet(vocabulary, schema.VOCAB))
    related = [{"run": a, "feature": f, "other_sweep": "made", "other_run": b, "other_feature": (3 * f + k) % sizes[b], "rank": k, "cosine": 0.7, "r": 0.9 - k / 10}
               for a, b in (("1x", "4x"), ("4x", "1x")) for f in range(sizes[a]) for k in range(2)]  # fmt: skip
    store.put("sweeps/made/features/related.parquet", to_parquet(related, schema.RELATED))
    return store
