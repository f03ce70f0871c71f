"""The sparse autoencoder as it is used: encode and decode.

    f     = ReLU((x - b_dec) W_enc + b_enc)
    x_hat = f W_dec + b_dec                                  Bricken et al. 2023, "Autoencoder Architecture"

Shape letters: B rows, D d_in, F d_sae. Rows of W_dec are the dictionary's elements, one per feature.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig

PARAMETERS = ("W_dec", "W_enc", "b_dec", "b_enc")


@dataclass
class Sae:
    """A dictionary. W_enc [D, F], b_enc [F], W_dec [F, D], b_dec [D], all of one floating dtype and device."""

    config: SaeConfig
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def __post_init__(self) -> None:
        D, F = self.config.d_in, self.config.d_sae
        for name, shape in self.shapes(self.config).items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, d_in={D} and d_sae={F} need {shape}"
                )

    @staticmethod
    def shapes(config: SaeConfig) -> dict[str, tuple[int, ...]]:
        D, F = config.d_in, config.d_sae
        return {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations [..., F] of rows [..., D]."""
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def decode(self, f: Tensor) -> Tensor:
        """Reconstructions [..., D] from feature activations [..., F]."""
        return f @ self.W_dec + self.b_dec

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in PARAMETERS}

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Sae":
        """A copy on another device or in another dtype."""
        moved = {name: t.to(device=device, dtype=dtype) for name, t in self.tensors().items()}
        return Sae(self.config, **moved)

    def __repr__(self) -> str:
        c = self.config
        return f"Sae({c.variant}, d_in={c.d_in}, d_sae={c.d_sae}, {self.W_enc.dtype}, {self.W_enc.device})"
