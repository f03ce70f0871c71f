"""What monosem asks of a host model, whatever it is made of.

Hook points have one canonical name each, for example `blocks.3.mlp.post`; `resolve` takes every name that a
host accepts (TransformerLens' too) to it. Shape letters: B contexts, T tokens, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

import monosem.mkl  # noqa: F401

Edits = Mapping[str, Callable[[Tensor], Tensor]]
"""By hook point: a function of the tensor there; what it returns goes on."""


class HostModel(Protocol):
    context_length: int
    vocab_size: int

    def resolve(self, hook_point: str) -> str:
        """The canonical name of a hook point; UnknownHookPoint if there is none of that name."""
        ...

    def place(self, hook_point: str) -> object:
        """Where a canonical hook point is: equal for two names of one place."""
        ...

    def alias(self, hook_point: str) -> str:
        """What TransformerLens calls a canonical hook point, or its own name where that knows none."""
        ...

    def width(self, hook_point: str) -> int:
        """Size of the last dimension at a canonical hook point."""
        ...

    def capture(self, tokens_BT: Tensor, hook_points: Sequence[str]) -> dict[str, Tensor]:
        """Activations [B, T, width] at each canonical hook point, from one forward pass that stops after the last."""
        ...

    def __call__(self, tokens_BT: Tensor, edits: Edits) -> Tensor:
        """Logits [B, T, V] with `edits` (by canonical hook point) applied."""
        ...

    def to(self, device: str) -> "HostModel":
        """The model on `device`; a model that is spread over devices stays where it is."""
        ...


class UnknownHookPoint(ValueError):
    """The message names what is known, and the nearest name."""


class Stop(Exception):
    """Raised by a capturing hook: nothing after the last hook point is needed."""


def next_token_loss(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    """Mean cross-entropy of each next token, in nats (scalar)."""
    V = logits_BTV.shape[-1]
    return F.cross_entropy(logits_BTV[:, :-1].reshape(-1, V).float(), tokens_BT[:, 1:].reshape(-1))


class Keep:
    """An edit that keeps what it sees and stops the pass once all hook points have been seen.

    in_place    the model may change a tensor after its hook point: all but the last one seen are copied
    """

    def __init__(self, hook_points: Sequence[str], in_place: bool):
        self.missing, self.in_place = set(hook_points), in_place
        self.found: dict[str, Tensor] = {}

    def at(self, hook_point: str) -> Callable[[Tensor], Tensor]:
        def keep(x: Tensor) -> Tensor:
            self.missing.discard(hook_point)
            self.found[hook_point] = x.detach().clone() if self.missing and self.in_place else x.detach()
            if not self.missing:
                raise Stop
            return x

        return keep


def captured(model: HostModel, tokens_BT: Tensor, hook_points: Sequence[str], in_place: bool) -> dict[str, Tensor]:
    """`capture` in terms of a call with edits; `in_place` as in `Keep`."""
    keeper = Keep(hook_points, in_place)
    try:
        with torch.no_grad():
            model(tokens_BT, {name: keeper.at(name) for name in hook_points})
    except Stop:
        return keeper.found
    raise ValueError(f"the host never came by {sorted(keeper.missing)}")
