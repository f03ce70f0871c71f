"""The sparse autoencoder as it is used: encode and decode.

    pre   = (x - b_dec) W_enc + b_enc                        without b_dec where the config says so
    f     = relu: max(pre, 0)                                Bricken et al. 2023, "Autoencoder Architecture"
            topk: the k largest of max(pre, 0) of a row      Gao et al. 2024
            batch_topk, matryoshka: the k B largest of all   Bussmann et al. 2024; for use they become jumprelu
            jumprelu: pre where pre > threshold, else 0      Rajamanoharan et al. 2024b
            gated: max(exp(r_mag) (pre - b_enc) + b_mag, 0) where pre > 0, else 0      2024a
    x_hat = f W_dec + b_dec  (+ x W_skip^T)

Shape letters: B rows, D d_in, F d_sae, O d_out. Rows of W_dec are the dictionary's elements, one per feature.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig
from monosem.sae.heads import head_of
from monosem.sae.part import Part

FEATURE_AXIS = {"W_dec": 0, "W_enc": 1, "b_enc": 0, "threshold": 0, "r_mag": 0, "b_mag": 0}
"""Along which axis of a parameter its features lie; parameters that are not here belong to no feature."""


@dataclass
class Sae:
    """A dictionary. W_enc [D, F], b_enc [F], W_dec [F, O], b_dec [O], all of one floating dtype and device.

    extra   what some variants have besides: threshold [F], r_mag [F] and b_mag [F], W_skip [O, D]
    part    which features of a larger dictionary these are, while it is trained in several parts; None: they are all
    """

    config: SaeConfig
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    part: Part | None = None

    def __post_init__(self) -> None:
        self.part = self.part or Part(self.config.d_sae)
        D, F = self.config.d_in, self.config.d_sae
        found = {name: tuple(t.shape) for name, t in self._all().items()}
        for name, shape in self.config.shapes.items():
            if found.pop(name, None) != shape:
                held = tuple(self._all()[name].shape) if name in self._all() else None
                raise ValueError(f"{name} has shape {held}, d_in={D} and d_sae={F} need {shape}")
        if found:
            raise ValueError(f"{', '.join(found)}: not parameters of {self.config.variant}")

    @classmethod
    def of(cls, config: SaeConfig, tensors: dict[str, Tensor]) -> "Sae":
        """From the tensors by name."""
        main = {name: tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        return cls(config, **main, extra={n: tensors[n] for n in config.shapes if n not in main and n in tensors})

    @property
    def ends(self) -> tuple[int, ...]:
        """Where each nested prefix of all features ends among those held here."""
        return self.part.ends(replace(self.config, d_sae=self.part.of).ends, self.config.d_sae)

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations [..., F] of rows [..., D]. ValueError for rows of another width."""
        if x.shape[-1] != self.config.d_in:
            raise ValueError(f"rows of width {x.shape[-1]}: this dictionary reads rows of width {self.config.d_in}")
        rows = x.reshape(-1, x.shape[-1])
        if self.config.subtract_b_dec:
            rows = rows - self.b_dec
        f = head_of(self.config, self.tensors()).features(rows @ self.W_enc + self.b_enc)
        return f.reshape(*x.shape[:-1], self.config.d_sae)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstructions [..., O] from feature activations [..., F]; a skip connection needs `x` too."""
        if not self.config.skip:
            return f @ self.W_dec + self.b_dec
        if x is None:
            raise ValueError("this dictionary has a skip connection: decode(f, x) needs the input rows x")
        return f @ self.W_dec + self.b_dec + x @ self.W_skip.T

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x), x)

    def __getattr__(self, name: str) -> Tensor:
        if name in ("threshold", "r_mag", "b_mag", "W_skip") and name in self.__dict__.get("extra", {}):
            return self.extra[name]
        raise AttributeError(f"{name}: no such attribute")

    def tensors(self) -> dict[str, Tensor]:
        """All parameters by name, in the order of `SaeConfig.shapes`."""
        held = self._all()
        return {name: held[name] for name in self.config.shapes}

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Sae":
        """A copy on another device or in another dtype."""
        return Sae.of(self.config, {name: t.to(device=device, dtype=dtype) for name, t in self.tensors().items()})

    def _all(self) -> dict[str, Tensor]:
        return {"W_dec": self.W_dec, "W_enc": self.W_enc, "b_dec": self.b_dec, "b_enc": self.b_enc} | self.extra

    def __repr__(self) -> str:
        c = self.config
        return f"Sae({c.variant}, d_in={c.d_in}, d_sae={c.d_sae}, {self.W_enc.dtype}, {self.W_enc.device})"
