"""Names inside a store.

corpora/<key>/                          token indexes
hosts/<name>/                           host models made by `monosem pretrain`; made_from.json: of which settings
sweeps/<sweep>/sweep.json               what the sweep is: config, fingerprint, lineage
sweeps/<sweep>/summary.html             the result page
sweeps/<sweep>/browser/index.html       the feature browser
sweeps/<sweep>/fit.html                 laws and fronts, by `monosem fit`
sweeps/<sweep>/canary.json              digest of the work item that every worker makes first
sweeps/<sweep>/control.json             how many workers a running sweep on Ray has; wanted.json: should have
activations/<name>/<hook point>/        activation datasets made by `monosem harvest`, canary-*.json beside them
sweeps/<sweep>/runs/<run>/
    cfg.json  sae_weights.safetensors  sparsity.safetensors      the dictionary (SAELens layout)
    metrics.jsonl                       the training curve
    monosem.json                        lineage, metrics, digests: written last, create-only
    checkpoints/  curve/                while training
    failed.json                         why the last attempt of a failed run ended
"""


def sweep(name: str) -> str:
    return f"sweeps/{name}"


def manifest(name: str) -> str:
    return f"sweeps/{name}/sweep.json"


def summary(name: str) -> str:
    return f"sweeps/{name}/summary.html"


def browser(name: str) -> str:
    return f"sweeps/{name}/browser"


def fit(name: str) -> str:
    return f"sweeps/{name}/fit.html"


def canary(name: str) -> str:
    return f"sweeps/{name}/canary.json"


def control(name: str) -> str:
    return f"sweeps/{name}/control.json"


def wanted(name: str) -> str:
    return f"sweeps/{name}/wanted.json"


def run(sweep_name: str, run_name: str) -> str:
    return f"sweeps/{sweep_name}/runs/{run_name}"


FINISHED = "monosem.json"
FAILED = "failed.json"
METRICS = "metrics.jsonl"
