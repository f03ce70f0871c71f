import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import monosem
from monosem.errors import InputError, IntegrityError, MonosemError
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae
from monosem.store.dictionary import write_dictionary
from monosem.store.store import open_store


@pytest.fixture
def written(tmp_path):
    sae = init_sae(SaeConfig(d_in=6, d_sae=20), torch.randn(6))
    density = torch.linspace(0, 0.5, 20)
    write_dictionary(open_store(str(tmp_path)), "run", sae, density, {"hook_name": "mlp.post"}, {"format": 1})
    return sae, tmp_path / "run"


def test_what_is_read_is_what_was_written(written):
    sae, path = written
    again = monosem.load(str(path))
    x = torch.randn(3, 5, 6)
    assert torch.equal(again.encode(x), sae.encode(x)) and again.encode(x).shape == (3, 5, 20)
    assert torch.equal(again(x), sae.decode(sae.encode(x)))


def test_files_are_in_saelens_layout(written):
    sae, path = written
    cfg = json.loads((path / "cfg.json").read_text())
    assert cfg["architecture"] == "standard" and (cfg["d_in"], cfg["d_sae"]) == (6, 20)
    assert cfg["apply_b_dec_to_input"] is True and cfg["metadata"]["sae_lens_version"] >= "6"
    weights = load_file(path / "sae_weights.safetensors")
    assert {n: tuple(t.shape) for n, t in weights.items()} == {
        "W_enc": (6, 20),
        "b_enc": (20,),
        "W_dec": (20, 6),
        "b_dec": (6,),
    }
    sparsity = load_file(path / "sparsity.safetensors")["sparsity"]
    assert sparsity[0] == -10 and abs(float(sparsity[-1]) - torch.log10(torch.tensor(0.5))) < 1e-6


def test_a_finished_dictionary_is_never_overwritten(written, tmp_path):
    sae, path = written
    other = init_sae(SaeConfig(d_in=6, d_sae=20, seed=1))
    with pytest.raises(IntegrityError, match="nothing was overwritten"):
        write_dictionary(open_store(str(tmp_path)), "run", other, torch.zeros(20), {}, {"format": 1})
    assert torch.equal(monosem.load(str(path)).W_enc, sae.W_enc)


class Killed(BaseException):
    """Passes every except of the writer, as a kill does."""


@pytest.mark.parametrize("writes", range(5))
def test_a_reader_sees_all_of_a_dictionary_or_none(tmp_path, monkeypatch, writes):
    """A writer is killed before each of its writes."""
    store, left = open_store(str(tmp_path)), writes

    def counted(write):
        def call(*args):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return write(*args)

        return call

    monkeypatch.setattr(store, "put", counted(store.put))
    monkeypatch.setattr(store, "create", counted(store.create))
    sae, at = init_sae(SaeConfig(d_in=6, d_sae=20)), str(tmp_path / "run")
    if writes == 4:
        write_dictionary(store, "run", sae, torch.zeros(20), {}, {"format": 1})
        assert torch.equal(monosem.load(at).W_enc, sae.W_enc)
        return
    with pytest.raises(Killed):
        write_dictionary(store, "run", sae, torch.zeros(20), {}, {"format": 1})
    with pytest.raises(MonosemError, match=r"no dictionary there|monosem\.json is missing"):
        monosem.load(at)


def damage_weights(path):
    data = bytearray((path / "sae_weights.safetensors").read_bytes())
    data[-3] ^= 4
    (path / "sae_weights.safetensors").write_bytes(data)


def truncate_weights(path):
    (path / "monosem.json").unlink()
    data = (path / "sae_weights.safetensors").read_bytes()
    (path / "sae_weights.safetensors").write_bytes(data[:-100])


def lie_about_shapes(path):
    (path / "monosem.json").unlink()
    cfg = json.loads((path / "cfg.json").read_text()) | {"d_sae": 21}
    (path / "cfg.json").write_text(json.dumps(cfg))


def hostile_pickle(path):
    class Payload:
        def __reduce__(self):
            return (open, (str(path / "executed"), "w"))

    (path / "monosem.json").unlink()
    (path / "sae_weights.safetensors").write_bytes(pickle.dumps(Payload()))


def missing_tensor(path):
    (path / "monosem.json").unlink()
    weights = load_file(path / "sae_weights.safetensors")
    del weights["b_enc"]
    save_file(weights, path / "sae_weights.safetensors")


def other_architecture(path):
    (path / "monosem.json").unlink()
    (path / "cfg.json").write_text('{"architecture": "temporal", "d_in": 6, "d_sae": 20}')


@pytest.mark.parametrize(
    "harm, says",
    [
        (damage_weights, "does not match its digest"),
        (truncate_weights, "not a readable safetensors"),
        (lie_about_shapes, "cfg.json says"),
        (hostile_pickle, "not a readable safetensors"),
        (missing_tensor, "b_enc has shape None"),
        (other_architecture, "'temporal' is not supported"),
    ],
)
def test_bad_files_are_errors_that_name_the_file_and_run_nothing(written, harm, says):
    _, path = written
    harm(path)
    with pytest.raises(MonosemError, match=says) as caught:
        monosem.load(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (path / "executed").exists()


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no dictionary there"):
        monosem.load(str(tmp_path / "nope"))


def test_untied_bias_of_other_tools_is_the_same_function(written):
    """apply_b_dec_to_input false: b_dec is not subtracted before encoding."""
    sae, path = written
    (path / "monosem.json").unlink()
    cfg = json.loads((path / "cfg.json").read_text()) | {"apply_b_dec_to_input": False, "metadata": {}}
    (path / "cfg.json").write_text(json.dumps(cfg))
    x = torch.randn(7, 6)
    expected = torch.relu(x @ sae.W_enc + sae.b_enc)
    assert torch.allclose(monosem.load(str(path)).encode(x), expected, atol=1e-5)
