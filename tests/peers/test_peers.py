"""SAELens, dictionary_learning and sparsify open what monosem writes for them, and the reverse.

Needs `make peers` (an environment with the three tools); not part of `make test`.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import monosem
from monosem.host.stored import BUNDLED
from monosem.rows.permute import EVALUATION, drawn
from monosem.store.formats import FORMATS
from monosem.store.store import open_store
from monosem.text.index import context_tokens
from monosem.text.index import load as load_corpus
from tests.conftest import run_cli
from tests.store.test_formats import HOLDS, edge_rows, random_sae, write

ROOT = Path(__file__).parent.parent.parent
UNKNOWN_TO_SAELENS = ("topk skip transcoder", "gated transcoder")


def peers(*arguments: object) -> list[str]:
    """The lines about dictionaries; the tools print some of their own."""
    command = [ROOT / ".venv-peers/bin/python", ROOT / "tests/peers/in_their_words.py", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(tuple(FORMATS))]


def numbers(sae, x: torch.Tensor, path: Path) -> Path:
    save_file({"x": x, "f": sae.encode(x).contiguous(), "x_hat": sae(x).contiguous()}, path)
    return path


def test_they_open_what_monosem_writes(tmp_path):
    cases = []
    for kind, names in HOLDS.items():
        for name in names:
            if kind == "saelens" and name in UNKNOWN_TO_SAELENS:
                continue
            sae, path = random_sae(name), tmp_path / f"{kind}-{name.replace(' ', '_').replace(',', '')}"
            write(path, FORMATS[kind].write(sae, {}))
            found = numbers(sae, edge_rows(8), tmp_path / f"{path.name}.numbers")
            cases.append({"kind": kind, "directory": str(path), "numbers": str(found)})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    assert len(peers("read", tmp_path / "cases.json")) == len(cases) == 23


@pytest.mark.parametrize("kind", ["monosem", "dictionary_learning"])
def test_they_open_what_pull_gives(tiny_job, tmp_path, kind):
    assert run_cli("sweep", tiny_job, "--inline") == 0
    assert run_cli("pull", tmp_path / "store/sweeps/tiny/runs/4x", tmp_path / "mine", "--format", kind) == 0
    sae = monosem.load(str(tmp_path / "mine"))
    x = torch.cat([torch.rand(50, 40), torch.zeros(1, 40), 30 * torch.rand(5, 40), -torch.rand(5, 40)])
    found = numbers(sae, x, tmp_path / "numbers.safetensors")
    reader = "saelens" if kind == "monosem" else kind
    case = {"kind": reader, "directory": str(tmp_path / "mine"), "numbers": str(found)}
    (tmp_path / "cases.json").write_text(json.dumps([case]))
    peers("read", tmp_path / "cases.json")


def test_monosem_opens_what_they_write(tmp_path):
    names = peers("write", tmp_path)
    assert len(names) == 24
    for name in names:
        sae, expected = monosem.load(str(tmp_path / name)), load_file(tmp_path / f"{name}.numbers")
        x = expected["x"]
        size = 1 + x.abs().amax(dim=1, keepdim=True)
        assert float(((sae.encode(x) - expected["f"]) / size).abs().max()) < 1e-5, name
        assert float(((sae(x) - expected["x_hat"]) / size).abs().max()) < 1e-5, name
        assert 0 < int((expected["f"] > 0).sum()) < expected["f"].numel(), name


THEIRS = {
    ("model_behavior_preservation", "kl_div_with_sae"): "kl_divergence",
    ("model_behavior_preservation", "kl_div_with_ablation"): "kl_zero_ablated",
    ("model_performance_preservation", "ce_loss_with_sae"): "loss_spliced",
    ("model_performance_preservation", "ce_loss_without_sae"): "loss_clean",
    ("model_performance_preservation", "ce_loss_with_ablation"): "loss_zero_ablated",
    ("model_performance_preservation", "ce_loss_score"): "loss_recovered",
    ("reconstruction_quality", "explained_variance"): "explained_variance",
    ("reconstruction_quality", "mse"): "mse",
    ("reconstruction_quality", "cossim"): "cosine",
    ("shrinkage", "l2_ratio"): "shrinkage",
    ("shrinkage", "relative_reconstruction_bias"): "reconstruction_bias",
    ("sparsity", "l0"): "l0",
}
"""By SAELens' group and name: the same figure of `monosem evaluate`."""


@pytest.mark.parametrize("variant", ["relu", "topk"])
def test_evaluation_agrees_with_run_evals(tmp_path, variant):
    """A dictionary on the bundled host, 128 held-out contexts: every figure to 1e-4.

    They are as many as that for densities' sake: by rounding a feature may be active on one token in one program alone,
    and one of 16,384 is less than 1e-4.
    """
    job = tmp_path / "job.yaml"
    job.write_text(
        f"""
name: theirs
store: {tmp_path / "store"}
corpus: {{source: builtin, context_length: 128, max_tokens: 400_000}}
stream: {{rows_per_context: 64, shuffle_rows: 4096}}
sae: {{variant: {variant}, expansion_factor: 2, l1_coefficient: 0.0015, k: 24}}
train: {{steps: 300, batch_size: 256, lr: 1.0e-3, init_rows: 2048}}
evaluate: {{contexts: 128, rows: {128 * 128}}}
features: {{enabled: false}}
track: {{wandb: disabled}}
"""
    )
    assert run_cli("sweep", job, "--inline") == 0
    run = tmp_path / "store/sweeps/theirs/runs/2x"
    record = json.loads((run / "monosem.json").read_text())
    heldout = load_corpus(open_store(str(tmp_path / "store")), record["corpus"]["key"]).heldout
    chosen = np.sort(drawn(128, len(heldout.tokens_NT), 0, EVALUATION))  # those that the evaluation looks at
    save_file({"tokens": context_tokens(heldout, chosen)}, tmp_path / "tokens.safetensors")
    command = [ROOT / ".venv-peers/bin/python", ROOT / "tests/peers/their_evals.py", run, BUNDLED / "one-layer-a",
               tmp_path / "tokens.safetensors"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = record["metrics"]
    for (group, name), mine in THEIRS.items():
        assert ours[mine] == pytest.approx(theirs["metrics"][group][name], abs=1e-4, rel=1e-4), name
    density = monosem.load(str(run))  # the dictionary opens, and its densities are theirs
    assert density.config.d_sae == len(theirs["density"])
    sparsity = load_file(run / "sparsity.safetensors")["sparsity"]
    found = torch.where(sparsity > -10, 10**sparsity, 0.0)
    assert float((found - torch.tensor(theirs["density"])).abs().max()) < 1e-4
