"""Open a pulled dictionary with the real SAELens and compare its numbers with monosem's.

    .venv-peers/bin/python tests/peers/check_saelens.py DIRECTORY NUMBERS.safetensors

NUMBERS holds x, f and x_hat as `monosem.load(DIRECTORY)` computed them. Runs in an environment of its own, see
`make peers`; exits 0 if the largest difference is at most 1e-5.
"""

import sys

import torch
from sae_lens import SAE
from safetensors.torch import load_file


def main() -> int:
    directory, numbers = sys.argv[1:]
    sae = SAE.load_from_disk(directory)
    expected = load_file(numbers)
    with torch.no_grad():
        f = sae.encode(expected["x"])
        x_hat = sae.decode(f)
    worst = max(float((f - expected["f"]).abs().max()), float((x_hat - expected["x_hat"]).abs().max()))
    sys.stdout.write(f"{type(sae).__name__} d_in={sae.cfg.d_in} d_sae={sae.cfg.d_sae} largest difference {worst:.2e}\n")
    return 0 if worst <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
