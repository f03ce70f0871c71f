"""What defines one dictionary."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SaeConfig:
    """Shape and recipe of one SAE.

    d_in            width of the input
    d_sae           number of features
    l1_coefficient  weight of the L1 penalty beside the mean-over-elements MSE (Bricken et al. 2023)
    variant         architecture: "relu"
    seed            of the initial weights and of resampling
    """

    d_in: int
    d_sae: int
    l1_coefficient: float = 0.004
    variant: str = "relu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.d_in < 1 or self.d_sae < 1:
            raise ValueError(f"d_in={self.d_in}, d_sae={self.d_sae}: both must be at least 1")
        if self.l1_coefficient < 0:
            raise ValueError(f"l1_coefficient={self.l1_coefficient}: must not be negative")
        if self.variant != "relu":
            raise ValueError(f"variant={self.variant!r}: must be one of relu")

    @property
    def n_parameters(self) -> int:
        return 2 * self.d_in * self.d_sae + self.d_sae + self.d_in
