"""SAELens itself opens what `pull` gives. Needs `make peers` (an environment with SAELens); not part of `make test`."""

import subprocess
from pathlib import Path

import torch
from safetensors.torch import save_file

import monosem
from tests.conftest import run_cli

ROOT = Path(__file__).parent.parent.parent


def test_saelens_opens_a_pulled_dictionary_with_equal_numbers(tiny_job, tmp_path):
    assert run_cli("sweep", tiny_job, "--inline") == 0
    assert run_cli("pull", tmp_path / "store/sweeps/tiny/runs/4x", tmp_path / "mine") == 0
    sae = monosem.load(str(tmp_path / "mine"))
    x = torch.cat([torch.rand(50, 40), torch.zeros(1, 40), 30 * torch.rand(5, 40), -torch.rand(5, 40)])
    save_file({"x": x, "f": sae.encode(x), "x_hat": sae(x)}, tmp_path / "numbers.safetensors")
    python = ROOT / ".venv-peers/bin/python"
    command = [python, ROOT / "tests/peers/check_saelens.py", tmp_path / "mine", tmp_path / "numbers.safetensors"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "StandardSAE" in done.stdout
