"""What defines one dictionary: one flat configuration for every architecture."""

from dataclasses import dataclass

from monosem.config.job import VARIANTS

ERRORS = ("mean", "sum")
L1_WEIGHTS = ("plain", "decoder_norm")
SPARSITIES = ("step", "tanh")
DECODERS = ("unit", "free")
GATE_DECODERS = ("frozen", "shared")
INITS = ("kaiming", "transposed")


@dataclass(frozen=True, kw_only=True)
class SaeConfig:
    """Shape and recipe of one SAE. A field that a variant does not name below has no effect on it.

    d_in            width of the input
    d_sae           number of features
    variant         relu, topk, batch_topk, jumprelu, gated, matryoshka
    seed            of the initial weights and of resampling
    d_out           width of the output if that is another one (a transcoder's); None: d_in
    transcoder      the output is another hook point's row; the input is not centred on b_dec
    skip            transcoder: a linear map from input to output beside the features, W_skip [d_out, d_in]
    error           "mean": squared error averaged over elements (2023); "sum": summed over them (since 2024)
    subtract_b_dec  the encoder sees x - b_dec (2023) or x itself (April 2024)
    decoder         "unit": decoder rows keep unit norm; "free": they do not
    init            "kaiming": 2023; "transposed": W_enc = W_dec^T, rows of norm `init_norm`
    init_norm       of decoder rows at the start, where decoder is free

    relu, gated, jumprelu with tanh
        l1_coefficient  weight of the L1 penalty beside the error term (jumprelu: of the tanh)
        l1_weight       "plain", or "decoder_norm": each activation times its decoder row's norm
        l1_power        relu: the penalty's exponent p at the end of annealing; 1 is the L1 norm
    gated
        gate_decoder    what the gate's own reconstruction does to the decoder: "frozen", nothing (2024); "shared": it
                        trains it as well, which a free decoder needs with l1_weight "decoder_norm" (its rows would
                        shrink away from the penalty, and nothing hold them)
    topk, batch_topk, matryoshka
        k               active features per row (on average over the batch but for topk)
        aux_coefficient weight of AuxK: dead features reconstruct what is left over
        aux_k           dead features that do so per row; 0: d_in / 2
    matryoshka
        prefixes        shares of the features that must reconstruct by themselves, rising, the last one 1
    jumprelu
        sparsity        "step": L0 by straight-through estimate (2024); "tanh": the form of January 2025
        l0_coefficient  step: weight of L0
        bandwidth       width of the straight-through kernel
        threshold_init  where thresholds start
        tanh_scale      tanh: c in tanh(c f |d|)
        pre_act_coefficient  tanh: weight of the loss that lifts pre-activations below their threshold
    """

    d_in: int
    d_sae: int
    variant: str = "relu"
    seed: int = 0
    d_out: int | None = None
    transcoder: bool = False
    skip: bool = False
    error: str = "mean"
    subtract_b_dec: bool = True
    decoder: str = "unit"
    init: str = "kaiming"
    init_norm: float = 1.0
    l1_coefficient: float = 0.004
    l1_weight: str = "plain"
    l1_power: float = 1.0
    gate_decoder: str = "frozen"
    k: int = 32
    aux_coefficient: float = 1 / 32
    aux_k: int = 0
    prefixes: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0)
    sparsity: str = "step"
    l0_coefficient: float = 1e-5
    bandwidth: float = 1e-3
    threshold_init: float = 1e-3
    tanh_scale: float = 4.0
    pre_act_coefficient: float = 3e-6

    def __post_init__(self) -> None:
        if self.d_in < 1 or self.d_sae < 1 or (self.d_out is not None and self.d_out < 1):
            raise ValueError(f"d_in={self.d_in}, d_sae={self.d_sae}, d_out={self.d_out}: must be at least 1")
        for name, allowed in (
            ("variant", VARIANTS),
            ("error", ERRORS),
            ("l1_weight", L1_WEIGHTS),
            ("sparsity", SPARSITIES),
            ("decoder", DECODERS),
            ("gate_decoder", GATE_DECODERS),
            ("init", INITS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}")
        for name in ("l1_coefficient", "l0_coefficient", "aux_coefficient", "pre_act_coefficient", "threshold_init"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        for name in ("bandwidth", "tanh_scale", "l1_power", "init_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        if self.k < 1 or self.aux_k < 0:
            raise ValueError(f"k={self.k}, aux_k={self.aux_k}: must be at least 1 and 0")
        if not self.transcoder and (self.skip or self.d_out not in (None, self.d_in)):
            raise ValueError(f"skip={self.skip}, d_out={self.d_out}: only a transcoder has them")
        if self.transcoder and self.subtract_b_dec:
            object.__setattr__(self, "subtract_b_dec", False)  # b_dec lives in the output's space
        if self.init == "transposed" and self.width_out != self.d_in:
            raise ValueError(f"init='transposed': d_in={self.d_in} and d_out={self.d_out} must be equal for that")
        rising = all(a < b for a, b in zip(self.prefixes, self.prefixes[1:], strict=False))
        if not self.prefixes or self.prefixes[0] <= 0 or self.prefixes[-1] != 1 or not rising:
            raise ValueError(f"prefixes={self.prefixes}: must rise from above 0 to 1")

    @property
    def width_out(self) -> int:
        """Width of the output."""
        return self.d_in if self.d_out is None else self.d_out

    @property
    def ends(self) -> tuple[int, ...]:
        """Where each nested prefix of the features ends; one prefix, all of them, but for matryoshka."""
        if self.variant != "matryoshka":
            return (self.d_sae,)
        return tuple(sorted({max(1, round(share * self.d_sae)) for share in self.prefixes}))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameters and their shapes, in the order in which the optimiser holds them."""
        D, F, out = self.d_in, self.d_sae, self.width_out
        found = {"W_dec": (F, out), "W_enc": (D, F), "b_dec": (out,), "b_enc": (F,)}
        if self.variant == "jumprelu":
            found["threshold"] = (F,)
        if self.variant == "gated":
            found |= {"r_mag": (F,), "b_mag": (F,)}
        if self.skip:
            found["W_skip"] = (out, D)
        return found

    @property
    def n_parameters(self) -> int:
        return sum(a * (b[0] if b else 1) for a, *b in self.shapes.values())
