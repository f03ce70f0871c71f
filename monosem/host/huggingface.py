"""Hugging Face causal language models as hosts: from a local directory or from the hub, as safetensors only.

Shape letters: B contexts, T tokens, V vocabulary.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from monosem.errors import InputError, IntegrityError
from monosem.host.files import SPECIAL_TOKENS, locate, near, one_line, weight_files
from monosem.host.model import Edits, captured
from monosem.host.points import PointMap, alias, attach
from monosem.store.plain import sha256, unpack_json

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class HuggingFaceHost:
    """A `HostModel` around a transformers causal language model.

    Activations and logits have the model's dtype and stay on the device where they arose. What an edit returns
    must have the shape of what it was given, and is cast to its dtype.

    model    in any precision; on the meta device only `resolve`, `alias` and `width` make sense
    spread   accelerate has placed the parts: `to` leaves them there
    """

    def __init__(self, model: Any, spread: bool = False):
        self.model = model.eval().requires_grad_(False)
        self.spread = spread
        self.vocab_size: int = model.config.vocab_size
        self.context_length = _context_length(model.config)
        unembed = model.get_output_embeddings()
        paths = [path for path, m in model.named_modules() if path and not isinstance(m, nn.ModuleList | nn.ModuleDict)]
        self.points = PointMap(model.config, paths, next(p for p in paths if model.get_submodule(p) is unembed))
        self._widths: dict[str, int] = {}

    def resolve(self, hook_point: str) -> str:
        """The canonical name; UnknownHookPoint (one line) if there is no such place in this model."""
        return self.points.resolve(hook_point)

    def place(self, hook_point: str) -> tuple[str, bool]:
        """(module path, whether it is the module's input): `blocks.0.mlp.out` is also called by its module's path."""
        found = self.points.place(hook_point)
        return found.path, found.is_input

    def alias(self, hook_point: str) -> str:
        """TransformerLens' name of a canonical hook point, or its own."""
        return alias(hook_point)

    def width(self, hook_point: str) -> int:
        """Size of the last dimension there, from a pass over two tokens the first time."""
        if hook_point not in self._widths:
            # Models look into their inputs while they run, which fake tensors allow and the meta device does not.
            outline = self.device.type == "meta"
            with FakeTensorMode(allow_non_fake_inputs=True) if outline else nullcontext():
                tokens = torch.zeros(1, 2, dtype=torch.long, device=self.device)
                found = self.capture(tokens, [hook_point])
            self._widths[hook_point] = found[hook_point].shape[-1]
        return self._widths[hook_point]

    def capture(self, tokens_BT: Tensor, hook_points: Sequence[str]) -> dict[str, Tensor]:
        """Activations [B, T, width] by canonical name; the pass ends after the last of them.

        InputError where a module gives anything but [B, T, width]; UnknownHookPoint for unknown names.
        """
        found = captured(self, tokens_BT, hook_points, in_place=True)
        for name, x in found.items():
            if x.ndim != 3 or x.shape[:2] != tokens_BT.shape or not x.is_floating_point():
                shape = f"{x.dtype} of shape {list(x.shape)}"
                raise InputError(f"host.hook_point={name!r}: gives {shape}; one vector per token is needed")
        return found

    @torch.no_grad()
    def __call__(self, tokens_BT: Tensor, edits: Edits) -> Tensor:
        """Logits [B, T, V] with `edits` (by canonical name) applied. ValueError if an edit changes the shape."""
        with ExitStack() as hooks:
            for name, edit in edits.items():
                hooks.callback(attach(self.model, name, self.points.place(name), edit).remove)
            return self.model(input_ids=self._checked(tokens_BT), use_cache=False, return_dict=True).logits

    def to(self, device: str) -> "HuggingFaceHost":
        """Itself, moved to `device` unless it is spread over devices."""
        if not self.spread:
            self.model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        placed = getattr(self.model, "hf_device_map", None)  # only where there is more than one place
        first = next(iter(placed.values())) if placed else next(self.model.parameters()).device
        return torch.device("cpu" if first == "disk" else first)

    def _checked(self, tokens_BT: Tensor) -> Tensor:
        """Tokens on the model's device. Checked here: on a GPU a wrong token id ends the whole process."""
        if tokens_BT.shape[1] > self.context_length:
            raise InputError(
                f"corpus.context_length={tokens_BT.shape[1]}: the host reads at most {self.context_length} tokens"
            )
        if tokens_BT.device.type == "cpu" and tokens_BT.numel() and int(tokens_BT.max()) >= self.vocab_size:
            raise ValueError(f"token {int(tokens_BT.max())}: the host's vocabulary has {self.vocab_size}")
        return tokens_BT.to(self.device, torch.long)


@dataclass(frozen=True)
class Loaded:
    """A Hugging Face host as it was read.

    digest        SHA-256 over weights, config.json and tokenizer.json: names what was read, not where
    card          model_type, architecture, attention, precision, revision (hub: the commit), transformers
    end_token     ends a document; `begin_token` starts one, None where the tokenizer has none
    """

    model: HuggingFaceHost
    tokenizer: Tokenizer
    digest: str
    card: dict
    end_token: str
    begin_token: str | None


def load(reference: str, revision: str | None, precision: str, device_map: str | None, weights: bool = True) -> Loaded:
    """The model at a local directory or `hf:org/name`.

    revision     hub only: commit, tag or branch
    precision    "fp32" or "bf16", of weights and forward pass
    device_map   None: on the CPU, for `to`; "auto": spread over this process' devices
    weights      False: no memory is spent on them; the digest is the same, and `width` works

    InputError, one line, for everything about the model that cannot be used; IntegrityError for broken weights.
    """
    _choice("host.precision", precision, PRECISIONS)
    if device_map is not None:
        _choice("host.device_map", device_map, ["auto"])
    _need(reference, "transformers", "huggingface_hub", *(["accelerate"] if device_map else []))
    import transformers

    directory, commit = locate(reference, revision)
    config = _config(reference, directory)
    tokenizer, end, begin = _tokenizer(reference, directory, config)
    attention = _attention(config)
    how = {"dtype": PRECISIONS[precision], "attn_implementation": attention, "trust_remote_code": False}
    with _quiet():
        if weights:
            model = _read(reference, directory, config=config, device_map=device_map, **how)
        else:
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(config, **how)
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        raise InputError(f"host.model={reference!r}: each token attends to later ones too; a causal model is needed")
    card = {
        "model_type": config.model_type,
        "architecture": type(model).__name__,
        "attention": attention,
        "precision": precision,
        "revision": commit,
        "transformers": transformers.__version__,
    }
    host = HuggingFaceHost(model, spread=device_map is not None)
    return Loaded(host, tokenizer, _digest(directory), card, end, begin)


def _config(reference: str, directory: Path) -> Any:
    """The model's configuration; InputError for all but causal language models that transformers itself knows."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    raw, where = _json(directory / "config.json"), f"host.model={reference!r}"
    kind, named = raw.get("model_type"), raw.get("architectures") or []
    if "auto_map" in raw:
        raise InputError(f"{where}: config.json brings its own code (auto_map), which is never run")
    if kind not in CONFIG_MAPPING_NAMES:
        raise InputError(f"{where}: unknown model_type {kind!r}{near(str(kind), CONFIG_MAPPING_NAMES)}")
    if "quantization_config" in raw:
        raise InputError(f"{where}: its weights are quantised; take the model in full precision (fp32 or bf16)")
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if kind not in CAUSAL or config.is_encoder_decoder or (named and CAUSAL[kind] not in named):
        what = ", ".join(named) or kind
        raise InputError(f"{where}: {what} is not a causal language model on text, as GPTNeoXForCausalLM is")
    if config.get_text_config(decoder=True) is not config:  # its vision tower is not causal, and need not be
        what = ", ".join(named) or kind
        raise InputError(f"{where}: {what} is a model of text and something else; save its language model alone")
    return config


def _context_length(config: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len"):
        if isinstance(length := getattr(config, name, None), int):
            return length
    raise InputError(f"host.model: the config.json of this {config.model_type} does not say how many tokens it reads")


def _attention(config: Any) -> str:
    """One fixed implementation per model class: a library that happens to be installed changes nothing."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa else "eager"


def _tokenizer(reference: str, directory: Path, config: Any) -> tuple[Tokenizer, str, str | None]:
    """(tokenizer, end-of-text token, begin-of-text token)."""
    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # the Rust side raises Exception itself
        raise InputError(f"host.model={reference!r}: tokenizer.json is not readable: {one_line(error)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end, begin = (_special(directory, config, tokenizer, which) for which in ("eos", "bos"))
    if end is None:
        raise InputError(f"host.model={reference!r}: its tokenizer names no end-of-text token (eos_token)")
    return tokenizer, end, begin


def _special(directory: Path, config: Any, tokenizer: Tokenizer, which: str) -> str | None:
    """The token as the tokenizer's own files name it; only if they are silent, as config.json does."""
    for name in SPECIAL_TOKENS:
        settings = _json(directory / name) if (directory / name).exists() else {}
        if f"{which}_token" in settings:
            token = settings[f"{which}_token"]
            token = token.get("content") if isinstance(token, dict) else token
            return token if token is not None and tokenizer.token_to_id(token) is not None else None
    number = getattr(config, f"{which}_token_id", None)
    number = number[0] if isinstance(number, list) else number
    return None if number is None else tokenizer.id_to_token(number)


def _read(reference: str, directory: Path, **how: Any) -> Any:
    """The model with its weights; InputError if some are missing, which transformers would make up."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below
            output_loading_info=True,
            **how,
        )
    except SafetensorError as error:
        raise IntegrityError(f"host {reference}: broken safetensors: {one_line(error)}") from error
    if wrong := sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"]):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"host.model={reference!r}: weights are missing or of another size: {wrong[0]}{more}")
    return model


def _digest(directory: Path) -> str:
    """SHA-256 over (name, SHA-256) of the files that decide what the model computes, in name order."""
    lines = []
    for name in sorted([*weight_files([p.name for p in directory.iterdir()]), "config.json", "tokenizer.json"]):
        with open(directory / name, "rb") as file:
            lines.append(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    return sha256("".join(lines).encode())


def _json(path: Path) -> dict:
    try:
        return unpack_json(path.read_bytes(), str(path))
    except IntegrityError as error:
        raise InputError(f"host.model={str(path.parent)!r}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own progress bars and remarks: they would tear up monosem's."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _need(reference: str, *packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise InputError(f"host.model={reference!r}: needs the package {package}: pip install 'monosem[hf]'")


def _choice(field: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise InputError(f"{field}={value!r}: must be one of {', '.join(allowed)}{near(value, allowed)}")
