"""Names of places inside Hugging Face causal language models, and the module and side each one means.

    resid_pre -> attn.z -> attn.out -> resid_mid -> mlp.pre -> mlp.post -> mlp.out -> resid_post

`blocks.<L>.resid_pre`, `resid_post`   what block L reads and what it hands on
`blocks.<L>.resid_mid`                 the residual between attention and MLP; none where both read the same one
`blocks.<L>.attn.z`                    input of attention's output projection, heads side by side
`blocks.<L>.attn.out`, `mlp.out`       what is added to the residual (after Gemma 2's and 3's second norms)
`blocks.<L>.mlp.pre`                   before the activation function (the gate, where there is one)
`blocks.<L>.mlp.post`                  input of the MLP's last projection
`logits`                               output of the unembedding, before any soft cap
any module path of the model           its output, the first one of several; with `:in` its first input
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from monosem.errors import InputError
from monosem.host.model import UnknownHookPoint

POINTS = ("resid_pre", "attn.z", "attn.out", "resid_mid", "mlp.pre", "mlp.post", "mlp.out", "resid_post")
"""The points of one block, in the order in which they are computed."""

TRANSFORMER_LENS = {
    "resid_pre": "hook_resid_pre",
    "attn.z": "attn.hook_z",
    "attn.out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp.pre": "mlp.hook_pre",
    "mlp.post": "mlp.hook_post",
    "mlp.out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
_OURS = {theirs: ours for ours, theirs in TRANSFORMER_LENS.items()}
_IN_BLOCK = re.compile(r"blocks\.(0|[1-9][0-9]*)\.(.+)")

_GPT2 = {
    "resid_pre": ":in",
    "attn.z": "attn.c_proj:in",
    "attn.out": "attn",
    "resid_mid": "ln_2:in",
    "mlp.pre": "mlp.c_fc",
    "mlp.post": "mlp.c_proj:in",
    "mlp.out": "mlp",
    "resid_post": "",
}
_NEOX = _GPT2 | {
    "attn.z": "attention.dense:in",
    "attn.out": "attention",
    "resid_mid": "post_attention_layernorm:in",
    "mlp.pre": "mlp.dense_h_to_4h",
    "mlp.post": "mlp.dense_4h_to_h:in",
}
_LLAMA = _GPT2 | {
    "attn.z": "self_attn.o_proj:in",
    "attn.out": "self_attn",
    "resid_mid": "post_attention_layernorm:in",
    "mlp.pre": "mlp.gate_proj",
    "mlp.post": "mlp.down_proj:in",
}
_GEMMA2 = _LLAMA | {
    "attn.out": "post_attention_layernorm",
    "resid_mid": "pre_feedforward_layernorm:in",
    "mlp.out": "post_feedforward_layernorm",
}
FAMILIES = {
    "gpt2": ("transformer.h", _GPT2),
    "gpt_neox": ("gpt_neox.layers", _NEOX),
    **dict.fromkeys(("llama", "mistral", "gemma", "qwen2", "qwen3", "phi3"), ("model.layers", _LLAMA)),
    **dict.fromkeys(("gemma2", "gemma3_text"), ("model.layers", _GEMMA2)),
}
"""By `model_type`: where the blocks are, and each point as a path inside the block."""


@dataclass(frozen=True)
class Place:
    """A module and a side of it. `shared`: what goes in there is read again later by others in the block."""

    path: str
    is_input: bool
    shared: bool = False


def canonical(name: str) -> str:
    """Names of TransformerLens and of the paper as monosem's; every other name as it is."""
    if name == "logit_update":
        return "logits"
    found = _IN_BLOCK.fullmatch(name)
    if found and found[2] in _OURS:
        return f"blocks.{found[1]}.{_OURS[found[2]]}"
    return name


def alias(name: str) -> str:
    """TransformerLens' name of a canonical hook point; the name itself where TransformerLens has none."""
    found = split(name)
    return f"blocks.{found[0]}.{TRANSFORMER_LENS[found[1]]}" if found else name


def split(name: str) -> tuple[int, str] | None:
    """(block, point) of a canonical name such as `blocks.3.mlp.post`; None for every other name."""
    found = _IN_BLOCK.fullmatch(name)
    return (int(found[1]), found[2]) if found and found[2] in POINTS else None


class PointMap:
    """The hook points of one model.

    config    the model's configuration (`model_type`, `num_hidden_layers`)
    modules   paths of all modules that can be called
    logits    path of the unembedding
    """

    def __init__(self, config, modules: Sequence[str], logits: str):
        self.blocks, self.inside = FAMILIES.get(config.model_type, ("", {}))
        self.n_blocks = config.num_hidden_layers if self.inside else 0
        self.family = config.model_type
        self.parallel = self.family == "gpt_neox" and config.use_parallel_residual
        self.modules = frozenset(modules)
        self.logits = logits

    def resolve(self, name: str) -> str:
        """The canonical name; UnknownHookPoint (one line, nearest name) if the model has no such place."""
        known = canonical(name)
        if named := split(known):
            self._check(name, *named)
        elif known != "logits" and known.removesuffix(":in") not in self.modules:
            raise UnknownHookPoint(
                f"no hook point {name!r} in this {self.family} model{self._near(name)}; {self._known()}"
            )
        return known

    def place(self, name: str) -> Place:
        """Where a canonical hook point is; UnknownHookPoint as in `resolve`."""
        name = self.resolve(name)
        if name == "logits":
            return Place(self.logits, is_input=False)
        shared = False
        if named := split(name):
            block, point = named
            name, shared = f"{self.blocks}.{block}.{self.inside[point]}".replace(".:", ":"), point == "resid_mid"
        return Place(name.removesuffix(":in").rstrip("."), name.endswith(":in"), shared)

    def _check(self, name: str, block: int, point: str) -> None:
        if not self.inside:
            raise UnknownHookPoint(
                f"{name!r}: points have names in {', '.join(sorted(FAMILIES))}, not in {self.family}; "
                f"any module path works, for example {self._example()!r}"
            )
        if block >= self.n_blocks:
            raise UnknownHookPoint(f"{name!r}: the model has blocks 0 to {self.n_blocks - 1}")
        if reason := self._absent(point):
            raise UnknownHookPoint(f"{name!r}: {reason}")

    def _absent(self, point: str) -> str | None:
        """Why the family has no such point."""
        if self.parallel and point == "resid_mid":
            return "attention and MLP read the same residual in this model; take resid_pre or resid_post"
        if self.family == "phi3" and point == "mlp.pre":
            return f"phi3 computes gate and value together; take {self.blocks}.<block>.mlp.gate_up_proj"
        return None

    def _known(self) -> str:
        named = [p for p in POINTS if self.inside and not self._absent(p)]
        points = f"blocks.<0..{self.n_blocks - 1}>.<{'|'.join(named)}>, " if named else ""
        return f"known: {points}logits, and module paths (with :in for the input)"

    def _near(self, name: str) -> str:
        if self.inside and name in POINTS:
            return f" (did you mean 'blocks.0.{name}'?)"
        names = [f"blocks.{b}.{p}" for b in range(self.n_blocks) for p in POINTS if not self._absent(p)]
        names += [alias(n) for n in names] + [m + end for m in sorted(self.modules) for end in ("", ":in")]
        near = difflib.get_close_matches(name, [*names, "logits"], 1)
        return f" (did you mean {near[0]!r}?)" if near else ""

    def _example(self) -> str:
        """The first block, or whatever comes closest to one."""
        return min((m for m in self.modules if m.endswith(".0")), key=len, default=self.logits)


def attach(model: nn.Module, name: str, place: Place, edit: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Call `edit` with the tensor at `place` in every forward pass, and let what it returns go on."""
    module = model.get_submodule(place.path)
    if place.is_input:
        return module.register_forward_pre_hook(_on_input(name, place, edit), with_kwargs=True)
    return module.register_forward_hook(_on_output(name, edit))


def _on_output(name: str, edit: Callable[[Tensor], Tensor]) -> Callable:
    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        several = isinstance(output, tuple)
        y = _edited(name, edit, output[0] if several else output)
        return (y, *output[1:]) if several else y

    return hook


def _on_input(name: str, place: Place, edit: Callable[[Tensor], Tensor]) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        key = None if args else next(iter(kwargs))
        x = kwargs[key] if key else args[0]
        if place.shared:
            # The residual branch adds this very tensor again later, so a new one would reach the norm alone.
            # The edit gets a copy: what it keeps must not change under it.
            x.copy_(_edited(name, edit, x.clone()))
            return None
        y = _edited(name, edit, x)
        return (args, kwargs | {key: y}) if key else ((y, *args[1:]), kwargs)

    return hook


def _edited(name: str, edit: Callable[[Tensor], Tensor], x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise InputError(f"host.hook_point={name!r}: there is a {type(x).__name__} there, not a tensor")
    y = edit(x)
    if y.shape != x.shape:
        raise ValueError(f"{name}: an edit made {list(y.shape)} of {list(x.shape)}")
    return y.to(x.dtype)
