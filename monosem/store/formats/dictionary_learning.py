"""dictionary_learning's layout: config.json, whose trainer.dict_class says what is in ae.pt.

ae.pt is a pickle by nature. It is read by torch's own restricted unpickler (`weights_only=True`), which admits
tensors and plain containers and calls nothing; whatever else is in a file is refused, with advice.
"""

import io

import torch
from torch import Tensor

from monosem.errors import InputError, IntegrityError
from monosem.sae.model import Sae
from monosem.sae.use import fold_norms
from monosem.store.formats.common import config_of, sae_of, whole, with_b_dec
from monosem.store.plain import pack_json, unpack_json

NEEDS = ("config.json", "ae.pt")
LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias"}
"""The weights of these classes are torch's Linear layers: [out, in], the transpose of ours."""
PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
TRANSPOSED = ("encoder.weight", "decoder.weight")
CLASSES: dict[str, tuple[str, bool, dict[str, str]]] = {
    "AutoEncoder": ("relu", True, LINEAR | {"b_dec": "bias"}),
    "AutoEncoderNew": ("relu", False, LINEAR | {"b_dec": "decoder.bias"}),
    "AutoEncoderTopK": ("topk", True, LINEAR | {"b_dec": "b_dec"}),
    "BatchTopKSAE": ("jumprelu", True, LINEAR | {"b_dec": "b_dec"}),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True, PLAIN),
    "JumpReluAutoEncoder": ("jumprelu", False, PLAIN | {"threshold": "threshold"}),
    "GatedAutoEncoder": (
        "gated",
        True,
        LINEAR | {"b_enc": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag", "b_dec": "decoder_bias"},
    ),
}
"""dict_class -> (our variant, whether b_dec is subtracted from the input, our names -> theirs)."""
TRAINERS = {"AutoEncoder": "StandardTrainer", "AutoEncoderNew": "StandardTrainerAprilUpdate",
            "AutoEncoderTopK": "TopKTrainer", "JumpReluAutoEncoder": "JumpReluTrainer",
            "GatedAutoEncoder": "GatedSAETrainer"}  # fmt: skip


def write(sae: Sae, metadata: dict) -> dict[str, bytes]:
    dict_class = _class_for(sae)
    _, subtract, names = CLASSES[dict_class]
    if sae.config.subtract_b_dec != subtract:
        sae = with_b_dec(sae, subtract)
    state = {theirs: _turned(theirs, sae.tensors()[ours]) for ours, theirs in names.items()}
    trainer = {
        "dict_class": dict_class,
        "trainer_class": TRAINERS[dict_class],
        "activation_dim": sae.config.d_in,
        "dict_size": sae.config.d_sae,
        "lm_name": metadata.get("model_name", ""),
        "submodule_name": metadata.get("hook_name", ""),
    }
    if dict_class == "AutoEncoderTopK":
        trainer["k"] = sae.config.k
        state |= {"k": torch.tensor(sae.config.k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return {"config.json": pack_json({"trainer": trainer, "buffer": {}}), "ae.pt": buffer.getvalue()}


def _class_for(sae: Sae) -> str:
    config = sae.config
    if config.transcoder:
        raise InputError("dictionary_learning has no class for transcoders; use --format saelens or sparsify")
    if config.variant == "relu":
        return "AutoEncoder" if config.subtract_b_dec else "AutoEncoderNew"
    found = {"topk": "AutoEncoderTopK", "jumprelu": "JumpReluAutoEncoder", "gated": "GatedAutoEncoder"}
    return found[config.variant]


def read(files: dict[str, bytes], uri: str) -> Sae:
    what = f"{uri}/config.json"
    trainer = unpack_json(files["config.json"], what).get("trainer")
    dict_class = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(dict_class, str) or dict_class not in CLASSES:
        raise InputError(f"{what}: dict_class {dict_class!r} is not supported; known are {', '.join(CLASSES)}")
    variant, subtract, names = CLASSES[dict_class]
    state = _state(files["ae.pt"], f"{uri}/ae.pt")
    tensors = {ours: _turned(theirs, state[theirs]) for ours, theirs in names.items() if theirs in state}
    values = {"d_in": whole(trainer, "activation_dim", what), "d_sae": whole(trainer, "dict_size", what)}
    if variant == "topk":
        values["k"] = whole({"k": state["k"].tolist()} if "k" in state else trainer, "k", what)
    if dict_class in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        tensors["threshold"] = torch.full((values["d_sae"],), _threshold(state, uri))
    config = config_of(what, **values, variant=variant, subtract_b_dec=subtract)
    sae = sae_of(config, tensors, uri, "config.json")
    if dict_class == "AutoEncoder":
        fold_norms(sae.tensors())  # as its `from_pretrained` does
    return sae


def _state(data: bytes, what: str) -> dict[str, Tensor]:
    """The state dict: tensors by name, and nothing else."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, all of them: this is no plain state dict
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise IntegrityError(
            f"{what}: not a state dict of tensors alone ({reason}); nothing in it was executed. Save it again where "
            "you trust it, with torch.save(autoencoder.state_dict(), ...)"
        ) from None
    plain = isinstance(state, dict) and all(isinstance(t, Tensor) for t in state.values())
    if not plain or any(t.layout != torch.strided for t in state.values()):
        raise IntegrityError(f"{what}: holds something else than a dict of dense tensors")
    return state


def _threshold(state: dict[str, Tensor], uri: str) -> float:
    value = state.get("threshold")
    if value is None or value.numel() != 1 or not 0 <= float(value) < torch.inf:
        raise InputError(f"{uri}: its inference threshold was never set; train past threshold_start_step")
    return float(value)


def _turned(name: str, tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if name in TRANSPOSED and tensor.ndim == 2 else tensor
