"""A dictionary for use: the same function on rows as they come, in the form that other tools expect."""

from dataclasses import replace

import torch
from torch import Tensor

from monosem.sae.model import Sae

FOLDS_NORMS = ("relu", "jumprelu")
"""Variants whose features do not change when decoder norms go into the encoder (top-k selections would)."""
BIASES = ("b_enc", "b_dec", "b_mag", "threshold")


@torch.no_grad()
def for_use(sae: Sae, scale: float = 1.0, threshold: float = 0.0) -> Sae:
    """A copy of `sae`, which was trained on rows times `scale`.

    - batch_topk and matryoshka become jumprelu with one `threshold` for all features, in scaled activations
    - scale: all biases and thresholds / s. Every variant is homogeneous, so weights stay as they are and activations
      come out in the units of the rows
    - a free decoder gets rows of unit norm, activations times the norms they had (April 2024 update)
    """
    config, t = sae.config, {name: tensor.clone() for name, tensor in sae.tensors().items()}
    if config.variant in ("batch_topk", "matryoshka"):
        config = replace(config, variant="jumprelu", sparsity="step")
        t["threshold"] = torch.full_like(t["b_enc"], threshold)
    for name in BIASES:
        if name in t:
            t[name] /= scale
    if config.decoder == "free" and config.variant in FOLDS_NORMS:
        fold_norms(t)
    return Sae.of(config, t)


def fold_norms(t: dict[str, Tensor]) -> None:
    """Decoder rows to unit norm, in place, their norms to the encoder. Rows of zero stay."""
    norm_F = t["W_dec"].norm(dim=1)
    norm_F = torch.where(norm_F > 0, norm_F, torch.ones_like(norm_F))
    t["W_dec"] /= norm_F[:, None]
    t["W_enc"] *= norm_F
    for name in ("b_enc", "threshold"):
        if name in t:
            t[name] *= norm_F
