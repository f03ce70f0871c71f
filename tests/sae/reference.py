"""The written formulas of every variant, for autograd: slow, plain, and not made of the code that they check."""

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig


class Jump(torch.autograd.Function):
    """pre where pre > theta; straight-through as in the papers. `to_pre`: the estimate also goes to pre."""

    @staticmethod
    def forward(ctx, pre, theta, width, to_pre):
        ctx.save_for_backward(pre, theta)
        ctx.width, ctx.to_pre = width, to_pre
        return pre * (pre > theta)

    @staticmethod
    def backward(ctx, g):
        pre, theta = ctx.saved_tensors
        box = (((pre - theta) / ctx.width).abs() < 0.5).to(pre.dtype) / ctx.width
        to_pre = g * (pre > theta) + (g * theta * box if ctx.to_pre else 0)
        return to_pre, (-g * theta * box).sum(0), None, None


class Step(torch.autograd.Function):
    """1 where pre > theta."""

    @staticmethod
    def forward(ctx, pre, theta, width):
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx, g):
        pre, theta = ctx.saved_tensors
        box = (((pre - theta) / ctx.width).abs() < 0.5).to(pre.dtype) / ctx.width
        return torch.zeros_like(pre), (-g * box).sum(0), None


def keep_largest(f: Tensor, k: int) -> Tensor:
    """The k largest of a vector, the others zero."""
    bound = f.sort(descending=True).values[k - 1] if k < f.numel() else f.new_tensor(0.0)
    return f * (f >= bound)


def loss_of(
    c: SaeConfig, t: dict[str, Tensor], x: Tensor, y: Tensor, sparsity: float, power: float, dead: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The whole loss of a batch, and the features. x [B, d_in], y [B, d_out]; dead: indices for AuxK."""
    norms = t["W_dec"].norm(dim=1)
    pre = (x - t["b_dec"] if c.subtract_b_dec else x) @ t["W_enc"] + t["b_enc"]

    def error(x_hat: Tensor, target: Tensor) -> Tensor:
        square = (x_hat - target) ** 2
        return square.mean() if c.error == "mean" else square.sum(dim=1).mean()

    def decode(f: Tensor, upto: int | None = None) -> Tensor:
        out = f[:, :upto] @ t["W_dec"][:upto] + t["b_dec"]
        return out + x @ t["W_skip"].T if c.skip else out

    penalty = torch.zeros((), dtype=x.dtype)
    weight = norms if c.l1_weight == "decoder_norm" else torch.ones_like(norms)
    if c.variant == "relu":
        f = pre.relu()
        powered = torch.where(f > 0, f, 1.0) ** power * (f > 0)
        held = (f.sum() / powered.sum()).detach() if power != 1 else 1.0
        penalty = c.l1_coefficient * sparsity * held * (powered * weight).sum(dim=1).mean()
    elif c.variant == "topk":
        f = torch.stack([keep_largest(row, c.k) for row in pre.relu()])
    elif c.variant in ("batch_topk", "matryoshka"):
        f = keep_largest(pre.relu().flatten(), c.k * len(x)).reshape(pre.shape)
    elif c.variant == "jumprelu":
        theta = t["threshold"]
        f = Jump.apply(pre, theta, c.bandwidth, c.sparsity == "tanh")
        if c.sparsity == "step":
            penalty = c.l0_coefficient * sparsity * Step.apply(pre, theta, c.bandwidth).sum(dim=1).mean()
        else:
            penalty = c.l1_coefficient * sparsity * torch.tanh(c.tanh_scale * f * norms).sum(dim=1).mean()
            penalty = penalty + c.pre_act_coefficient * ((theta - pre).relu() * norms).sum(dim=1).mean()
    else:
        gate = pre.relu()
        magnitude = t["r_mag"].exp() * (pre - t["b_enc"]) + t["b_mag"]
        f = magnitude.relu() * (pre > 0)
        penalty = c.l1_coefficient * sparsity * (gate * weight).sum(dim=1).mean()
        d = {name: v if c.gate_decoder == "shared" else v.detach() for name, v in t.items()}
        by_gate = gate @ d["W_dec"] + d["b_dec"]
        penalty = penalty + error(by_gate + x @ d["W_skip"].T if c.skip else by_gate, y)
    if c.variant == "matryoshka":
        loss = torch.stack([error(decode(f, end), y) for end in c.ends]).mean() + penalty
    else:
        loss = error(decode(f), y) + penalty
    if dead is not None:
        left = (y - decode(f)).detach()
        wanted = c.aux_k or max(1, c.d_in // 2)
        a = torch.stack([keep_largest(row, min(wanted, len(dead))) for row in pre[:, dead].relu()])
        loss = loss + c.aux_coefficient * min(1.0, len(dead) / wanted) * error(a @ t["W_dec"][dead], left)
    return loss, f.detach()
