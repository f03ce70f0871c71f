"""SAELens, dictionary_learning and sparsify open what monosem writes for them, and the reverse.

Needs `make peers` (an environment with the three tools); not part of `make test`.
"""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import monosem
from monosem.store.formats import FORMATS
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
    assert len(peers("read", tmp_path / "cases.json")) == len(cases) == 22


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
    assert len(names) == 20
    for name in names:
        sae, expected = monosem.load(str(tmp_path / name)), load_file(tmp_path / f"{name}.numbers")
        x = expected["x"]
        size = 1 + x.abs().amax(dim=1, keepdim=True)
        assert float(((sae.encode(x) - expected["f"]) / size).abs().max()) < 1e-5, name
        assert float(((sae(x) - expected["x_hat"]) / size).abs().max()) < 1e-5, name
        assert 0 < int((expected["f"] > 0).sum()) < expected["f"].numel(), name
