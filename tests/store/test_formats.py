"""Files of other tools: what is written is the same function when read, and a stranger's files execute nothing.

The tools themselves are asked in tests/peers; here is what needs none of them.
"""

import io
import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load, save

import monosem
from monosem.errors import MonosemError
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae
from monosem.sae.model import Sae
from monosem.store.formats import FORMATS, read_any

UNTIED = {"subtract_b_dec": False}
SAES = {
    "relu": {},
    "relu, untied": UNTIED,
    "topk": {"variant": "topk", "k": 4},
    "topk, untied": {"variant": "topk", "k": 4} | UNTIED,
    "jumprelu": {"variant": "jumprelu"},
    "jumprelu, untied": {"variant": "jumprelu"} | UNTIED,
    "gated": {"variant": "gated"},
    "gated, untied": {"variant": "gated"} | UNTIED,
    "transcoder": {"transcoder": True, "d_out": 5},
    "skip transcoder": {"transcoder": True, "skip": True},
    "jumprelu transcoder": {"transcoder": True, "variant": "jumprelu", "d_out": 5},
    "jumprelu skip transcoder": {"transcoder": True, "variant": "jumprelu", "skip": True},
    "topk skip transcoder": {"transcoder": True, "variant": "topk", "k": 4, "skip": True},
    "gated transcoder": {"transcoder": True, "variant": "gated"},
}
HOLDS = {
    "saelens": list(SAES),
    "dictionary_learning": [name for name in SAES if "transcoder" not in name],
    "sparsify": ["topk", "topk, untied", "topk skip transcoder"],
}


def random_sae(name: str, d_in: int = 8, d_sae: int = 30) -> Sae:
    """Nothing at its starting point; decoder rows of unit norm."""
    torch.manual_seed(2)
    sae = init_sae(SaeConfig(d_in=d_in, d_sae=d_sae, **SAES[name]))
    for parameter, t in sae.tensors().items():
        if parameter not in ("W_dec", "W_enc"):
            t += 0.3 * torch.rand(t.shape) * (1 if parameter == "threshold" else torch.randn(t.shape))
    return sae


def edge_rows(width: int) -> torch.Tensor:
    """Ordinary rows, zeros, huge ones and negative ones. float32 [60, width]."""
    torch.manual_seed(3)
    return torch.cat([torch.randn(50, width), torch.zeros(2, width), 1e4 * torch.randn(4, width), -torch.rand(4, width)])


def write(directory, files: dict[str, bytes]):
    directory.mkdir(exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, names in HOLDS.items() for name in names])
def test_what_is_written_is_the_same_function_when_read(tmp_path, kind, name):
    sae, x = random_sae(name), edge_rows(8)
    again = monosem.load(str(write(tmp_path / "d", FORMATS[kind].write(sae, {}))))
    size = 1 + x.abs().amax(dim=1, keepdim=True)
    assert float(((again.encode(x) - sae.encode(x)) / size).abs().max()) < 1e-5
    assert float(((again(x) - sae(x)) / size).abs().max()) < 1e-5
    assert 0 < int((again.encode(x) > 0).sum()) < 60 * 30


@pytest.mark.parametrize("kind, name", [(k, n) for k, names in HOLDS.items() for n in SAES if n not in names])
def test_what_a_format_cannot_hold_is_refused_in_a_line(kind, name):
    with pytest.raises(MonosemError) as caught:
        FORMATS[kind].write(random_sae(name), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variant", ["batch_topk", "matryoshka"])
def test_training_variants_are_not_written(variant):
    with pytest.raises(ValueError, match=r"Learner\.dictionary"):
        FORMATS["saelens"].write(init_sae(SaeConfig(d_in=8, d_sae=30, variant=variant)), {})


def saelens_files(cfg: dict, tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {"cfg.json": json.dumps(cfg).encode(), "sae_weights.safetensors": save(tensors)}


def test_saelens_checkpoints_of_batchtopk_and_of_log_thresholds():
    jump = random_sae("jumprelu")
    files = FORMATS["saelens"].write(jump, {})
    cfg, tensors = json.loads(files["cfg.json"]), load(files["sae_weights.safetensors"])
    threshold = tensors.pop("threshold")
    x = edge_rows(8)
    logs = saelens_files(cfg, tensors | {"log_threshold": threshold.log()})
    assert torch.allclose(read_any(logs.__getitem__, "u")[0].encode(x), jump.encode(x), atol=1e-5)
    one = tensors | {"topk_threshold": torch.tensor(0.2, dtype=torch.float64)}
    batch = saelens_files(cfg | {"architecture": "batchtopk", "k": 2.0}, one)
    sae = read_any(batch.__getitem__, "u")[0]
    assert sae.config.variant == "jumprelu" and torch.equal(sae.threshold, torch.full((30,), 0.2))


def test_saelens_topk_that_rescales_by_the_decoder_norm():
    """f = the k largest of pre |d|, x_hat = (f / |d|) W_dec + b_dec."""
    sae, x = random_sae("topk"), edge_rows(8)
    sae.W_dec *= 0.5 + torch.rand(30, 1)
    files = FORMATS["saelens"].write(sae, {})
    cfg = json.loads(files["cfg.json"]) | {"rescale_acts_by_decoder_norm": True}
    again, _ = read_any((files | {"cfg.json": json.dumps(cfg).encode()}).__getitem__, "u")
    norms = sae.W_dec.norm(dim=1)
    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * norms
    values, at = pre.topk(4)
    f = torch.zeros_like(pre).scatter_(1, at, values.relu())
    size = 1 + x.abs().amax(dim=1, keepdim=True)
    assert float(((again.encode(x) - f) / size).abs().max()) < 1e-5
    assert float(((again(x) - ((f / norms) @ sae.W_dec + sae.b_dec)) / size).abs().max()) < 1e-5


def batch_wide_in_their_words(sae: Sae, x: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """f and x_hat of a SAELens batchtopk checkpoint that rescales: f = pre |d| above the threshold, d / |d| decodes."""
    norms = sae.W_dec.norm(dim=1)
    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * norms
    f = torch.where(pre > threshold, pre, torch.zeros(()))
    return f, (f / norms) @ sae.W_dec + sae.b_dec


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("said", [{}, {"rescale_acts_by_decoder_norm": True}])
def test_a_batch_wide_threshold_is_one_of_activations_times_the_decoder_norm(architecture, said):
    """SAELens' default in training, with decoder rows that start at norm 0.1."""
    sae, x = random_sae("relu"), edge_rows(8)
    sae.W_dec *= 0.05 + 0.2 * torch.rand(30, 1)
    files = FORMATS["saelens"].write(sae, {})
    cfg, tensors = json.loads(files["cfg.json"]), load(files["sae_weights.safetensors"])
    one = tensors | {"topk_threshold": torch.tensor(0.05, dtype=torch.float64)}
    batch = saelens_files(cfg | {"architecture": architecture, "k": 2.0} | said, one)
    again, _ = read_any(batch.__getitem__, "u")
    f, x_hat = batch_wide_in_their_words(sae, x, 0.05)
    size = 1 + x.abs().amax(dim=1, keepdim=True)
    assert 100 < int((f > 0).sum()) < 1500
    assert float(((again.encode(x) - f) / size).abs().max()) < 1e-5
    assert float(((again(x) - x_hat) / size).abs().max()) < 1e-5
    raw = saelens_files(cfg | {"architecture": architecture, "rescale_acts_by_decoder_norm": False}, one)
    kept = read_any(raw.__getitem__, "u")[0]
    assert torch.equal(kept.W_dec, sae.W_dec) and torch.equal(kept.threshold, torch.full((30,), 0.05))


@pytest.mark.parametrize("spelling", ["jumprelu_skip_transcoder", "skip_jumprelu_transcoder"])
def test_a_jumprelu_transcoder_with_a_skip_is_spelled_as_saelens_does(spelling):
    sae = random_sae("jumprelu skip transcoder")
    files = FORMATS["saelens"].write(sae, {})
    cfg = json.loads(files["cfg.json"])
    assert cfg["architecture"] == "jumprelu_skip_transcoder"
    files["cfg.json"] = json.dumps(cfg | {"architecture": spelling}).encode()
    again, _ = read_any(files.__getitem__, "u")
    assert again.config.skip and torch.equal(again(edge_rows(8)), sae(edge_rows(8)))


def test_tensors_that_would_have_a_part_in_the_result_are_not_ignored():
    """Scales that are all ones have none: SAELens wrote them into every file for a while."""
    sae = random_sae("relu")
    files = FORMATS["saelens"].write(sae, {})
    cfg, tensors = json.loads(files["cfg.json"]), load(files["sae_weights.safetensors"])
    ones = saelens_files(cfg, tensors | {"scaling_factor": torch.ones(30)})
    assert torch.equal(read_any(ones.__getitem__, "u")[0].W_dec, sae.W_dec)
    for more in ({"scaling_factor": torch.full((30,), 3.0)}, {"threshold": torch.rand(30)}, {"W_skip": torch.ones(8, 8)}):
        odd = saelens_files(cfg, tensors | more)
        with pytest.raises(MonosemError, match=f"u: {next(iter(more))} is not a tensor of what cfg.json describes"):
            read_any(odd.__getitem__, "u")


class Payload:
    """Opens a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def torch_file(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def hostile_in_a_zip(path) -> bytes:
    """What torch.save writes, with the pickle inside exchanged."""
    good, out = torch_file({"bias": torch.zeros(8)}), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Payload(path), 2) if name.endswith("data.pkl") else old.read(name))
    return out.getvalue()


DL = FORMATS["dictionary_learning"]
BAD_STATES = {
    "a pickle that opens a file": (lambda path: pickle.dumps(Payload(path), 2), "nothing in it was executed"),
    "the same inside a zip": (hostile_in_a_zip, "nothing in it was executed"),
    "an object in the state": (lambda path: torch_file({"bias": Payload(path)}), "nothing in it was executed"),
    "a list in the state": (lambda path: torch_file({"bias": [1, 2]}), "something else than a dict of dense tensors"),
    "a tensor alone": (lambda path: torch_file(torch.zeros(3)), "something else than a dict of dense tensors"),
    "sparse tensors": (lambda path: torch_file({"bias": torch.zeros(8).to_sparse()}), "dict of dense tensors"),
    "no zip at all": (lambda path: b"hello", "nothing in it was executed"),
    "cut short": (lambda path: DL.write(random_sae("relu"), {})["ae.pt"][:-200], "nothing in it was executed"),
    "a weight missing": (lambda path: torch_file({"bias": torch.zeros(8)}), "has shape None, config.json says"),
    "integers": (
        lambda path: torch_file({"bias": torch.zeros(8, dtype=torch.int64), "encoder.weight": torch.zeros(30, 8),
                                 "encoder.bias": torch.zeros(30), "decoder.weight": torch.zeros(8, 30)}),
        "not of floating point",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_STATES)
def test_bad_state_dicts_are_one_line_and_run_nothing(tmp_path, case):
    make, says = BAD_STATES[case]
    files = DL.write(random_sae("relu"), {}) | {"ae.pt": make(str(tmp_path / "executed"))}
    with pytest.raises(MonosemError, match=says) as caught:
        monosem.load(str(write(tmp_path / "d", files)))
    assert "\n" not in str(caught.value) and str(tmp_path / "d") in str(caught.value)
    assert not (tmp_path / "executed").exists()


BAD_CONFIGS = [
    ("saelens", "topk", {"k": "4"}, "k='4' is not a positive number"),
    ("saelens", "topk", {"k": True}, "k=True is not a positive number"),
    ("saelens", "relu", {"d_sae": 29}, "cfg.json says"),
    ("saelens", "relu", {"d_in": -8}, "d_in=-8 is not a positive number"),
    ("saelens", "relu", {"d_in": 10**12}, "cfg.json says"),
    ("saelens", "relu", {"apply_b_dec_to_input": "no"}, "neither true nor false"),
    ("saelens", "relu", {"architecture": "temporal"}, "'temporal' is not supported; known are standard"),
    ("saelens", "relu", {"architecture": ["standard"]}, "is not supported"),
    ("saelens", "relu", {"activation_fn_str": "topk"}, "activation_fn_str='topk' is not supported with"),
    ("saelens", "transcoder", {"activation_fn": "tanh-relu"}, "'tanh-relu' is not supported with .*, only 'relu'"),
    ("saelens", "relu", {"normalize_activations": "layer_norm"}, "layer_norm"),
    ("saelens", "transcoder", {"d_out": 6}, "cfg.json says"),
    ("sparsify", "topk", {"activation": "groupmax"}, "groupmax"),
    ("sparsify", "topk", {"skip_connection": True}, "without transcode"),
    ("sparsify", "topk", {"num_latents": 31}, "cfg.json says"),
    ("dictionary_learning", "relu", {"trainer": {"dict_class": "IdentityDict"}}, "'IdentityDict' is not supported"),
    ("dictionary_learning", "relu", {"trainer": {"dict_class": ["AutoEncoder"]}}, "is not supported; known are"),
    ("dictionary_learning", "relu", {"trainer": 3}, "None is not supported"),
]


@pytest.mark.parametrize("kind, name, change, says", BAD_CONFIGS)
def test_configs_that_lie_are_one_line(tmp_path, kind, name, change, says):
    files = FORMATS[kind].write(random_sae(name), {})
    cfg = FORMATS[kind].NEEDS[0]
    files[cfg] = json.dumps(json.loads(files[cfg]) | change).encode()
    with pytest.raises(MonosemError, match=says) as caught:
        monosem.load(str(write(tmp_path / "d", files)))
    assert "\n" not in str(caught.value) and str(tmp_path / "d") in str(caught.value)


@pytest.mark.parametrize("cfg", [b"", b"[]", b"{", b"null", b"\xff"])
def test_configs_that_are_no_json_object_are_one_line(tmp_path, cfg):
    for kind, module in FORMATS.items():
        files = module.write(random_sae("topk"), {}) | {module.NEEDS[0]: cfg}
        with pytest.raises(MonosemError) as caught:
            monosem.load(str(write(tmp_path / kind, files)))
        assert "\n" not in str(caught.value)


def test_sparsify_counts_features_by_expansion_where_num_latents_is_zero():
    torch.manual_seed(0)
    sae = init_sae(SaeConfig(d_in=8, d_sae=32, variant="topk", k=4))
    files = FORMATS["sparsify"].write(sae, {})
    cfg = json.loads(files["cfg.json"]) | {"num_latents": 0}
    assert FORMATS["sparsify"].read(files | {"cfg.json": json.dumps(cfg).encode()}, "u").config.d_sae == 32


def test_pull_offers_every_format():
    from monosem.cli.main import _parser
    from monosem.stages.pull import FEATURE_FORMATS

    verbs = next(a for a in _parser()._actions if a.choices and "pull" in a.choices)
    choices = next(a for a in verbs.choices["pull"]._actions if a.dest == "format").choices
    assert choices == ("monosem", *FORMATS, *FEATURE_FORMATS)


@pytest.mark.parametrize("k", [[2, 3], float("nan"), float("inf"), 0])
def test_a_k_in_the_state_that_is_no_number(tmp_path, k):
    files = DL.write(random_sae("topk"), {})
    state = torch.load(io.BytesIO(files["ae.pt"]), weights_only=True) | {"k": torch.tensor(k)}
    with pytest.raises(MonosemError, match="is not a positive number"):
        monosem.load(str(write(tmp_path / "d", files | {"ae.pt": torch_file(state)})))
