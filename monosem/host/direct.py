"""How what is written at a hook point reaches the logits: the direct path, and the way on where no attention follows.

Direct logit effect of a vector d written at a hook point (Bricken et al. 2023, "logit weights"):

    v = d W pi L W_U        W: on to the residual (the MLP's or attention's last projection; none at the residual)
                            pi: the final norm's mean-removing projection (none for RMS norms)
                            L: the norm's gain times the mean of 1/scale over tokens, its diagonal approximation

Shape letters: n rows, W width of the hook point, D d_model, V vocabulary, B contexts, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from monosem.host.huggingface import HuggingFaceHost
from monosem.host.model import HostModel
from monosem.host.points import split
from monosem.host.transformer import OneLayerTransformer


@dataclass(frozen=True)
class DirectPath:
    """write_WD: None if the hook point is on the residual; centred: pi removes the mean; last: the residual that the
    final norm reads, a hook point."""

    write_WD: Tensor | None
    gain_D: Tensor
    centred: bool
    unembed_VD: Tensor
    last: str
    eps: float

    def inverse_scale(self, residual_nD: Tensor) -> Tensor:
        """1 / the final norm's scale for rows of the last residual. float64 [n]."""
        x = residual_nD.double()
        if self.centred:
            x = x - x.mean(dim=1, keepdim=True)
        return (x.square().mean(dim=1) + self.eps).rsqrt()

    def effects(self, d_nW: Tensor, scale: float) -> Tensor:
        """Direct logit effects [n, V] of vectors [n, W]; `scale` is the mean of `inverse_scale`. Not yet centred."""
        r = d_nW if self.write_WD is None else d_nW @ self.write_WD
        if self.centred:
            r = r - r.mean(dim=1, keepdim=True)
        return (r * (self.gain_D * scale)) @ self.unembed_VD.T


def direct_path(model: HostModel, hook_point: str) -> DirectPath | None:
    """The direct path from a canonical hook point; None where there is no linear one (before a nonlinearity)."""
    if isinstance(model, OneLayerTransformer):
        return _of_one_layer(model, hook_point)
    if isinstance(model, HuggingFaceHost):
        return _of_hugging_face(model, hook_point)
    return None


ON_RESIDUAL = ("resid_pre", "attn.out", "resid_mid", "mlp.out", "resid_post")


FINAL_NORMS = {"transformer": "ln_f", "gpt_neox": "final_layer_norm", "model": "norm"}
"""Of Hugging Face models: by where the blocks are, the name of the norm after the last one."""


def _of_one_layer(model: OneLayerTransformer, hook_point: str) -> DirectPath | None:
    writes = {"mlp.post": model.mlp_out, "attn.z": model.attn_out}
    if hook_point not in (*ON_RESIDUAL, *writes):
        return None
    write = writes[hook_point].weight.T if hook_point in writes else None
    norm = model.norm_final
    return DirectPath(write, norm.weight, True, model.unembed.weight, "resid_post", norm.eps)


def _of_hugging_face(host: HuggingFaceHost, hook_point: str) -> DirectPath | None:
    """Of models of the known families. Gemma 2 and 3 norm what MLP and attention write: no linear path leads there."""
    named, points = split(hook_point), host.points
    root = points.blocks.rpartition(".")[0]
    if named is None or not points.n_blocks or root not in FINAL_NORMS:
        return None
    point = named[1]
    write = None
    if point in ("mlp.post", "attn.z"):
        if points.family in ("gemma2", "gemma3_text"):
            return None
        write = _matrix(host.model.get_submodule(points.place(hook_point).path), host.width(hook_point))
    elif point not in ON_RESIDUAL:
        return None
    norm = host.model.get_submodule(f"{root}.{FINAL_NORMS[root]}")
    centred = isinstance(norm, nn.LayerNorm)
    eps = next(float(getattr(norm, key)) for key in ("eps", "variance_epsilon") if hasattr(norm, key))
    unembed = host.model.get_output_embeddings().weight
    gain = norm.weight if centred else _rms_gain(norm, unembed)
    last = f"blocks.{points.n_blocks - 1}.resid_post"
    return DirectPath(write, gain.float(), centred, unembed.float(), last, eps)


@torch.no_grad()
def _matrix(module: nn.Module, width: int) -> Tensor:
    """The linear part of a projection, float32 [width, D], however the class keeps it and wherever its weights are.

    In bf16 the bias would round the weights off: rows so large that the bias vanishes beside them, scaled by a power of
    two, keep every bit of theirs.
    """
    weight = next(module.parameters())
    scale = 1.0 if weight.dtype == torch.float32 else 2.0**40
    eye = torch.eye(width, dtype=weight.dtype, device=weight.device)
    return (module(scale * eye).float() - module(torch.zeros_like(eye[:1])).float()) / scale


@torch.no_grad()
def _rms_gain(norm: nn.Module, like: Tensor) -> Tensor:
    """What an RMS norm multiplies by: some keep the gain, some the gain less one. Ones have a root mean square of 1."""
    weight = norm.weight
    return norm(torch.ones(1, len(weight), dtype=like.dtype, device=weight.device))[0]


@dataclass(frozen=True)
class LastNorm:
    """Where rows x [n, D] only go through the final norm and the unembedding U:

    logits = s c(x) G U + b U        c: less the row's mean; s: one over the norm's scale; G, b: its gain and bias
    """

    gain_D: Tensor
    bias_D: Tensor
    eps: float
    unembed_VD: Tensor

    def unscaled(self, x_nD: Tensor) -> Tensor:
        """c(x) G U, [n, V]: linear in x."""
        return ((x_nD - x_nD.mean(dim=1, keepdim=True)) * self.gain_D) @ self.unembed_VD.T

    def constant(self) -> Tensor:
        """b U, [V]."""
        return self.unembed_VD @ self.bias_D

    def scale(self, x_nD: Tensor) -> Tensor:
        """s of each row, [n]."""
        return (x_nD.var(dim=1, correction=0) + self.eps).rsqrt()


@dataclass(frozen=True)
class Continuation:
    """The rest of the forward pass where it works on each token alone.

    beside    the hook point whose activations are needed as well
    base      (rows [n, W] at the hook point, rows [n, D] of `beside`) -> rows [n, S] of what they are added to
    moves     vectors [F, W] at the hook point -> what they add to those rows, [F, S]
    finish    (rows [n, S], rows [n, D] of `beside`) -> logits [n, V]
    last      what `finish` is, where it is a norm and the unembedding and nothing else
    """

    beside: str
    base: Callable[[Tensor, Tensor], Tensor]
    moves: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor, Tensor], Tensor]
    last: LastNorm | None = None


def continuation(model: HostModel, hook_point: str) -> Continuation | None:
    """How to go on from a hook point token by token; None where attention follows, or where it is not known how."""
    if not isinstance(model, OneLayerTransformer) or hook_point == "resid_pre":
        return None

    def after_post(post: Tensor, _: Tensor) -> Tensor:
        return model.unembed(model.norm_final(post))

    def after_mid(mid: Tensor, _: Tensor) -> Tensor:
        return after_post(mid + model.mlp_out(model.mlp_in(model.norm_mlp(mid)).relu()), _)

    def after_pre(pre: Tensor, mid: Tensor) -> Tensor:
        return after_post(mid + model.mlp_out(pre.relu()), mid)

    def itself(x: Tensor, _: Tensor | None = None) -> Tensor:
        return x

    def added(x: Tensor, beside: Tensor) -> Tensor:
        return beside + x

    def through(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        return lambda x: nn.functional.linear(x, layer.weight)

    def added_by(layer: nn.Linear) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, beside: beside + layer(x)

    attn, mlp = model.attn_out, model.mlp_out
    ways = {
        "attn.z": ("resid_pre", added_by(attn), through(attn), after_mid),
        "attn.out": ("resid_pre", added, itself, after_mid),
        "resid_mid": ("resid_mid", itself, itself, after_mid),
        "mlp.pre": ("resid_mid", itself, itself, after_pre),
        "mlp.post": ("resid_mid", added_by(mlp), through(mlp), after_post),
        "mlp.out": ("resid_mid", added, itself, after_post),
        "resid_post": ("resid_mid", itself, itself, after_post),
    }
    norm = model.norm_final
    last = LastNorm(norm.weight.detach(), norm.bias.detach(), norm.eps, model.unembed.weight.detach())
    way = Continuation(*ways[hook_point])
    return replace(way, last=last) if way.finish is after_post else way
