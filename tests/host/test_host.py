import json
import math

import numpy as np
import pytest
import torch

from monosem.config.job import PretrainConfig
from monosem.errors import InputError, IntegrityError
from monosem.host.model import next_token_loss
from monosem.host.pretrain import batch_of_step, learning_rate, pretrain
from monosem.host.stored import bundled_names, load_host, save_host
from monosem.host.transformer import HOOK_POINTS, OneLayerTransformer, TransformerConfig
from monosem.store.checkpoints import CheckpointLog
from monosem.store.store import open_store
from monosem.store.tensors import tensors_digest
from tests.conftest import run_cli

SIZES = TransformerConfig(vocab_size=50, context_length=12, d_model=16, d_mlp=24, n_heads=2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OneLayerTransformer(SIZES).requires_grad_(False)


def tokens(n=3, t=12):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 50, (n, t)))


def test_it_is_causal(model):
    a = tokens()
    b = a.clone()
    b[:, 7:] = (b[:, 7:] + 1) % 50
    assert torch.allclose(model(a)[:, :7], model(b)[:, :7], atol=1e-6)
    assert not torch.allclose(model(a)[:, 7:], model(b)[:, 7:], atol=1e-3)


@pytest.mark.parametrize("hook_point", HOOK_POINTS)
def test_hook_points_read_and_write(model, hook_point):
    x = tokens()
    seen = model.capture(x, [hook_point])[hook_point]
    assert seen.shape == (3, 12, model.width(hook_point))
    read = {}
    logits = model(x, {hook_point: lambda t: read.setdefault("t", t)})
    assert torch.equal(read["t"], seen) and torch.equal(logits, model(x))
    assert not torch.allclose(model(x, {hook_point: torch.zeros_like}), logits)


def test_mlp_post_is_what_the_mlp_writes_from(model):
    x = tokens()
    found = model.capture(x, ["resid_post", "mlp.pre", "mlp.post", "resid_mid"])
    mid, post, end = (found[h] for h in ("resid_mid", "mlp.post", "resid_post"))
    assert (post >= 0).all() and torch.equal(post, found["mlp.pre"].relu())
    assert torch.allclose(end, mid + model.mlp_out(post), atol=1e-6)


def test_loss_is_the_mean_surprise_of_the_next_token(model):
    x = tokens()
    p = model(x).softmax(-1)
    expected = -sum(math.log(p[b, t, x[b, t + 1]]) for b in range(3) for t in range(11)) / 33
    assert abs(float(next_token_loss(model(x), x)) - expected) < 1e-5


def test_batches_of_an_epoch_see_each_context_once():
    seen = np.concatenate([batch_of_step(step, 1, 20, 4) for step in range(5)])
    assert sorted(seen) == list(range(20))
    assert not np.array_equal(seen, np.concatenate([batch_of_step(step, 1, 20, 4) for step in range(5, 10)]))


def test_learning_rate_warms_up_and_decays_to_zero():
    config = PretrainConfig(steps=100, warmup_steps=10, lr=1.0)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] < rates[5] < rates[9] and rates[50] == 0.5 and rates[100] == 0


def test_pretraining_learns_and_resumes_to_the_same_bits(tmp_path):
    data = np.tile(np.arange(12, dtype=np.uint16), (64, 1)) + np.arange(64, dtype=np.uint16)[:, None] % 30
    config = PretrainConfig(steps=40, batch_contexts=8, lr=1e-2, warmup_steps=2, checkpoint_every=10, threads=1)
    losses = []
    whole = pretrain(SIZES, data, 3, config, CheckpointLog(open_store(str(tmp_path / "a")), "c"),
                     lambda step, loss: losses.append(loss))  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]
    log = CheckpointLog(open_store(str(tmp_path / "b")), "c")

    class Killed(Exception):
        pass

    def kill_at_25(step, loss):
        if step == 25:
            raise Killed

    with pytest.raises(Killed):
        pretrain(SIZES, data, 3, config, log, kill_at_25)
    assert log.last().step == 20
    again = pretrain(SIZES, data, 3, config, log)
    assert tensors_digest(again.state_dict()) == tensors_digest(whole.state_dict())


def test_stored_hosts_are_checked(tiny_host, tmp_path):
    host = load_host(tiny_host)
    assert host.digest == load_host(tiny_host).digest
    import shutil

    shutil.copytree(tiny_host, tmp_path / "h")
    config = json.loads((tmp_path / "h/config.json").read_text())
    (tmp_path / "h/config.json").write_text(json.dumps(config | {"digest": "0" * 64}))
    with pytest.raises(IntegrityError, match="do not match the digest"):
        load_host(str(tmp_path / "h"))
    with pytest.raises(InputError, match="no host there"):
        load_host(str(tmp_path))


def test_bundled_hosts_have_cards_and_beat_chance_by_far():
    assert bundled_names() == ["one-layer-a", "one-layer-b"]
    a, b = load_host("one-layer-a"), load_host("one-layer-b")
    assert a.digest != b.digest and a.tokenizer.to_str() == b.tokenizer.to_str()
    assert (a.model.config.d_model, a.model.config.d_mlp) == (128, 512)
    for host in (a, b):
        assert host.card["heldout_loss_nats_per_token"] < 3.0 < math.log(host.model.config.vocab_size)
        ids = host.tokenizer.encode("def __init__(self, name):\n        self.").ids
        logits = host.model(torch.tensor([ids]))[0, -1]
        assert host.tokenizer.decode([int(logits.argmax())]).isidentifier()


def test_names_of_hook_points(model):
    for name in HOOK_POINTS:
        assert model.resolve(name) == model.resolve(f"blocks.0.{name}") == model.resolve(model.alias(name)) == name
    for wrong in ("blocks.1.mlp.post", "mlp.pots", "blocks.0.hook_mlp_post"):
        with pytest.raises(ValueError, match="must be one of"):
            model.resolve(wrong)


@pytest.fixture
def host_job(text_file, tmp_path):
    job = tmp_path / "host.yaml"
    job.write_text(f"""
name: h
store: {tmp_path / "store"}
seeds: [1]
corpus: {{source: {text_file}, context_length: 32, heldout_fraction: 0.1}}
model: {{vocab_size: 300, d_model: 8, d_mlp: 16, n_heads: 2}}
pretrain: {{steps: 4, batch_contexts: 2, eval_contexts: 4}}
""")
    return job


def test_a_host_of_other_settings_under_the_same_name_is_refused(host_job, capfd):
    job = host_job
    assert run_cli("pretrain", job) == 0 and run_cli("pretrain", job, "pretrain.threads=1") == 0
    for override, says in (("seeds=[3]", "another seed"), ("pretrain.lr=0.1", "another pretrain"), ("model.d_mlp=24", "another model")):
        capfd.readouterr()
        assert run_cli("pretrain", job, override) == 2
        assert says in capfd.readouterr().err


@pytest.mark.parametrize("override, says", [
    ("model.n_heads=3", "model.n_heads=3: must divide model.d_model=8"),
    (f"seeds={list(range(27))}".replace(" ", ""), "seeds: 27 of them, at most 26"),
])  # fmt: skip
def test_what_no_host_can_be_made_of_is_refused_before_a_name_is_claimed(host_job, tmp_path, capfd, override, says):
    assert run_cli("pretrain", host_job, override) == 2
    err = capfd.readouterr().err
    assert says in err and err.count("\n") == 1 and not (tmp_path / "store/hosts").exists()
    assert run_cli("pretrain", host_job) == 0


def test_the_card_tells_what_was_done(host_job, tmp_path):
    """auto as what it came to; the tokens of batches that are as small as the text."""
    assert run_cli("pretrain", host_job, "pretrain.batch_contexts=100000", "pretrain.steps=1") == 0
    claim = json.loads((tmp_path / "store/hosts/h-a/made_from.json").read_text())
    card = json.loads((tmp_path / "store/hosts/h-a/config.json").read_text())["card"]
    low = "bf16" if torch.cuda.is_available() else "fp32"
    assert card["precision"] == claim["pretrain"]["precision"] == low
    assert card["tokens_seen"] == card["tokens_distinct"]


def test_checkpoints_that_a_kill_left_beside_a_finished_host_go(host_job, tmp_path, monkeypatch):
    from monosem.stages import pretrain as stage

    class Killed(BaseException):
        pass

    def dying(*arguments):
        save_host(*arguments)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stage, "save_host", dying)
        run_cli("pretrain", host_job)
    kept = tmp_path / "store/hosts/h-a"
    assert any(p.is_file() for p in (kept / "checkpoints").rglob("*"))
    before = (kept / "config.json").read_bytes()
    assert run_cli("pretrain", host_job) == 0
    assert not any(p.is_file() for p in (kept / "checkpoints").rglob("*"))
    assert (kept / "config.json").read_bytes() == before
