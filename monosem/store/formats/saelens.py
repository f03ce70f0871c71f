"""SAELens' layout, which is monosem's own.

    cfg.json                  flat configuration, with `metadata`
    sae_weights.safetensors   W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec; see `_to_names`

Architectures: standard, topk, jumprelu, gated, transcoder, skip_transcoder, jumprelu_transcoder,
jumprelu_skip_transcoder; batchtopk and matryoshka_batchtopk are read as jumprelu, which is what SAELens itself saves
them as. A transcoder with another head is named alike (topk_transcoder); SAELens says that it does not know it.
"""

import torch
from torch import Tensor

from monosem.errors import InputError, IntegrityError
from monosem.sae.config import SaeConfig
from monosem.sae.model import Sae
from monosem.sae.use import fold_norms
from monosem.store.formats.common import config_of, sae_of, truth, whole
from monosem.store.plain import pack_json, unpack_json
from monosem.store.tensors import pack_tensors, unpack_tensors

NEEDS = ("cfg.json", "sae_weights.safetensors")
VERSION = "6.37.6"
"""Whose layout this is. Without a version SAELens takes a file for one of before 6.0."""
HEADS = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
BATCH_WIDE = ("batchtopk", "matryoshka_batchtopk")
SCALES = ("scaling_factor", "finetuning_scaling_factor")
"""Of features, for a fine-tuning that SAELens had before 6.0; most of its files of then have them, all ones."""


def write(sae: Sae, metadata: dict) -> dict[str, bytes]:
    """cfg.json and sae_weights.safetensors."""
    if sae.config.variant not in HEADS:
        raise ValueError(f"{sae.config.variant} is for training: write what Learner.dictionary() gives")
    return {
        "cfg.json": pack_json(cfg_of(sae.config, metadata)),
        "sae_weights.safetensors": pack_tensors(_to_names(sae)),
    }


def cfg_of(config: SaeConfig, metadata: dict) -> dict:
    cfg = {
        "architecture": architecture_of(config),
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.subtract_b_dec,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if config.variant == "topk":
        cfg |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    if config.transcoder:
        cfg["d_out"] = config.width_out
    return cfg | {"metadata": {"sae_lens_version": VERSION, **metadata}}


def architecture_of(config: SaeConfig) -> str:
    if not config.transcoder:
        return HEADS[config.variant]
    head = "" if config.variant == "relu" else f"{config.variant}_"
    return f"{head}{'skip_' if config.skip else ''}transcoder"


def _architectures() -> dict[str, tuple[str, bool, bool]]:
    """All that are read: (our variant, whether it is a transcoder, whether it has a skip) by name."""
    found = {name: (variant, False, False) for variant, name in HEADS.items()}
    found |= dict.fromkeys(BATCH_WIDE, ("jumprelu", False, False))
    for variant in HEADS:
        head = "" if variant == "relu" else f"{variant}_"
        found[f"{head}transcoder"] = (variant, True, False)
        found[f"{head}skip_transcoder"] = (variant, True, True)
        found[f"skip_{head}transcoder"] = (variant, True, True)  # as monosem named them before it looked
    return found


ARCHITECTURES = _architectures()


def read(files: dict[str, bytes], uri: str) -> Sae:
    what = f"{uri}/cfg.json"
    cfg = unpack_json(files["cfg.json"], what)
    if cfg.get("normalize_activations", "none") not in ("none", None):
        raise InputError(
            f"{uri}: normalize_activations={cfg['normalize_activations']!r} is not supported, only 'none'; "
            "SAELens folds it into the weights when it saves for inference"
        )
    config = _config(cfg, what)
    tensors = _from_names(config, unpack_tensors(files["sae_weights.safetensors"], f"{uri}/sae_weights.safetensors"))
    _check_known(config, tensors, uri)
    sae = sae_of(config, tensors, uri, "cfg.json")
    if _rescales(cfg, what):  # f of pre |d|, decoded by d / |d|; a threshold is one of pre |d| already
        fold_norms({name: t for name, t in sae.tensors().items() if name != "threshold"})
    return sae


def _rescales(cfg: dict, what: str) -> bool:
    """Whether activations are chosen by pre |d|. SAELens' default is that they are in training, else not; and of the
    batch-wide architectures there are checkpoints of training alone."""
    batch_wide = cfg["architecture"] in BATCH_WIDE
    if not batch_wide and cfg["architecture"] != "topk":
        return False
    return truth(cfg, "rescale_acts_by_decoder_norm", what, batch_wide)


def _check_known(config: SaeConfig, tensors: dict[str, Tensor], uri: str) -> None:
    """IntegrityError for a tensor that would have a part in the result and has none here."""
    for name in sorted(tensors.keys() - config.shapes.keys()):
        if name not in SCALES or not torch.allclose(tensors[name].double(), torch.ones((), dtype=torch.float64)):
            raise IntegrityError(f"{uri}: {name} is not a tensor of what cfg.json describes, and is not ignored")


def _config(cfg: dict, what: str) -> SaeConfig:
    architecture = cfg.get("architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(name for name in ARCHITECTURES if "transcoder" not in name)
        raise InputError(
            f"{what}: architecture {architecture!r} is not supported; known are {known}, and transcoder, "
            "skip_transcoder, jumprelu_transcoder, jumprelu_skip_transcoder"
        )
    variant, transcoder, skip = ARCHITECTURES[architecture]
    for key in ("activation_fn", "activation_fn_str"):
        if variant == "relu" and cfg.get(key, "relu") not in ("relu", None):
            raise InputError(f"{what}: {key}={cfg[key]!r} is not supported with {architecture!r}, only 'relu'")
    values = {"d_in": whole(cfg, "d_in", what), "d_sae": whole(cfg, "d_sae", what), "variant": variant}
    if variant == "topk":
        values["k"] = whole(cfg, "k", what)
    if transcoder:
        values |= {"transcoder": True, "skip": skip, "d_out": whole(cfg, "d_out", what)}
    elif not truth(cfg, "apply_b_dec_to_input", what, True):
        values["subtract_b_dec"] = False
    return config_of(what, **values)


def _to_names(sae: Sae) -> dict[str, Tensor]:
    """gated has b_gate, b_mag and r_mag, and no b_enc; all others have our own names."""
    tensors = dict(sae.tensors())
    if sae.config.variant == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
    return tensors


def _from_names(config: SaeConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if config.variant == "gated" and "b_gate" in tensors:
        tensors["b_enc"] = tensors.pop("b_gate")
    if config.variant == "jumprelu" and "threshold" not in tensors:
        if "topk_threshold" in tensors:  # of a batchtopk checkpoint
            tensors["threshold"] = tensors.pop("topk_threshold").reshape(-1)[:1].repeat(config.d_sae)
        elif "log_threshold" in tensors:  # of checkpoints before 6.48
            tensors["threshold"] = tensors.pop("log_threshold").exp()
    if config.variant == "jumprelu" and "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].relu()
    return tensors
