"""What planning needs of a host model: its numbers, from the model itself or from `host.outline`.

    forward FLOPs of a token   counted over the pass that harvesting makes, which stops after the last hook point;
                               from an outline 2 x parameters x depth (attention over the context is not in it)
"""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from monosem.config.job import HostConfig
from monosem.host.model import HostModel

BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class HostShape:
    """widths: of a row by hook point. flops_per_token: of the pass that harvests. source: where numbers are from.
    inner: the widest layer; 0: not known."""

    widths: dict[str, int]
    flops_per_token: float
    bytes: int
    vocab_size: int
    context_length: int
    source: str
    inner: int = 0


def from_outline(config: HostConfig, hook_points: list[str]) -> HostShape:
    o = config.outline
    return HostShape(
        widths=dict.fromkeys(hook_points, o.width),
        flops_per_token=2.0 * o.parameters * o.depth,
        bytes=o.parameters * BYTES[config.precision],
        vocab_size=o.vocab_size,
        context_length=o.context_length,
        source="host.outline, not the model itself",
    )


def forward_flops(model: HostModel, hook_points: list[str], length: int) -> float:
    """FLOPs per token of a pass over one context, counted by torch; a model without weights is passed as an outline."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = getattr(model, "model", model)
    device = next(module.parameters()).device
    outline = device.type == "meta"
    counter = FlopCounterMode(display=False)
    with FakeTensorMode(allow_non_fake_inputs=True) if outline else torch.no_grad(), counter:
        model.capture(torch.zeros(1, length, dtype=torch.long, device=device), hook_points)
    return counter.get_total_flops() / length
