"""sparsify's layout: cfg.json and sae.safetensors. It knows TopK SAEs and transcoders, with or without a skip.

    encoder.weight [F, d], encoder.bias [F], W_dec [F, d] (as ours, not transposed), b_dec [d], W_skip [d, d]
"""

from monosem.errors import InputError
from monosem.sae.model import Sae
from monosem.store.formats.common import config_of, sae_of, truth, whole, with_b_dec
from monosem.store.plain import pack_json, unpack_json
from monosem.store.tensors import pack_tensors, unpack_tensors

NEEDS = ("cfg.json", "sae.safetensors")
NAMES = {"b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec", "W_skip": "W_skip"}


def write(sae: Sae, metadata: dict) -> dict[str, bytes]:
    config = sae.config
    if config.variant != "topk" or config.width_out != config.d_in:
        raise InputError(
            f"sparsify holds only topk with inputs and outputs of one width; this is {config.variant}, "
            f"{config.d_in} to {config.width_out}"
        )
    if not config.transcoder:
        sae = with_b_dec(sae, True)
    cfg = {
        "activation": "topk",
        "expansion_factor": max(1, config.d_sae // config.d_in),
        "normalize_decoder": config.decoder == "unit" and not config.transcoder,
        "num_latents": config.d_sae,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": config.skip,
        "transcode": config.transcoder,
        "d_in": config.d_in,
    }
    tensors = {theirs: sae.tensors()[ours] for ours, theirs in NAMES.items() if ours in sae.tensors()}
    return {
        "cfg.json": pack_json(cfg),
        "sae.safetensors": pack_tensors(tensors | {"encoder.weight": sae.W_enc.T}),
    }


def read(files: dict[str, bytes], uri: str) -> Sae:
    what = f"{uri}/cfg.json"
    cfg = unpack_json(files["cfg.json"], what)
    if cfg.get("activation", "topk") != "topk":
        raise InputError(f"{what}: activation {cfg['activation']!r} is not supported, only 'topk'")
    d_in = whole(cfg, "d_in", what)
    features = cfg.get("num_latents") or d_in * whole(cfg, "expansion_factor", what)
    transcoder = truth(cfg, "transcode", what, False)
    skip = truth(cfg, "skip_connection", what, False)
    if skip and not transcoder:
        raise InputError(f"{what}: skip_connection without transcode is not supported")
    config = config_of(
        what,
        d_in=d_in,
        d_sae=whole({"num_latents": features}, "num_latents", what),
        variant="topk",
        k=whole(cfg, "k", what),
        transcoder=transcoder,
        skip=skip,
    )
    theirs = unpack_tensors(files["sae.safetensors"], f"{uri}/sae.safetensors")
    tensors = {ours: theirs[name] for ours, name in NAMES.items() if name in theirs}
    if "encoder.weight" in theirs:
        tensors["W_enc"] = theirs["encoder.weight"].T
    return sae_of(config, tensors, uri, "cfg.json")
