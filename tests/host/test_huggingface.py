"""Hugging Face hosts: every hook point against an independent computation, and everything that is refused."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch.testing import assert_close

from monosem.errors import InputError, IntegrityError
from monosem.host import huggingface
from monosem.host.direct import direct_path
from monosem.host.huggingface import load
from monosem.host.model import UnknownHookPoint
from monosem.host.points import POINTS, alias, canonical, split
from monosem.host.stored import load_host
from monosem.store.store import open_store
from monosem.text.tokens import END_OF_TEXT
from tests.host.families import CONTEXT, FAMILIES, LAYERS, VOCABULARY, make_host

GEMMA2 = ("gemma2", "gemma3_text")


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Each family's directory, written once."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_host(root / family, family)
        return made[family]

    return get


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture
def host(directories, family):
    return load(str(directories(family)), None, "fp32", None).model


@pytest.fixture
def copied(directories, tmp_path):
    """A GPT-2 directory that a test may spoil."""
    return Path(shutil.copytree(directories("gpt2"), tmp_path / "copy"))


def batch(b=3, t=20, seed=0):
    return torch.randint(0, VOCABULARY, (b, t), generator=torch.Generator().manual_seed(seed))


def named(host) -> list[str]:
    return [p for p in POINTS if not host.points._absent(p)]


def everything(host) -> list[str]:
    return [f"blocks.{b}.{p}" for b in range(LAYERS) for p in named(host)] + ["logits"]


def reference(directory, dtype=torch.float32):
    """The same weights, loaded without monosem."""
    from transformers import AutoModelForCausalLM

    how = "eager" if Path(directory).name == "gemma2" else "sdpa"
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=how).eval()


def hooks_left(host) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in host.model.modules())


def block_of(model, family, b):
    return {"gpt2": lambda: model.transformer.h[b], "gpt_neox": lambda: model.gpt_neox.layers[b]}.get(
        family.removesuffix("_serial"), lambda: model.model.layers[b]
    )()


def final_norm(model, family):
    kind = family.removesuffix("_serial")
    if kind == "gpt2":
        return model.transformer.ln_f
    return model.gpt_neox.final_layer_norm if kind == "gpt_neox" else model.model.norm


def by_hand(block, family, resid_pre, resid_mid, z):
    """(attn.out, mlp.pre, mlp.post, mlp.out) from the block's own modules, written out."""
    kind = family.removesuffix("_serial")
    second = {"gpt2": "ln_2", "gemma2": "pre_feedforward_layernorm", "gemma3_text": "pre_feedforward_layernorm"}
    seen = resid_pre if family == "gpt_neox" else resid_mid
    x = getattr(block, second.get(kind, "post_attention_layernorm"))(seen)
    if kind == "gpt2":
        pre = block.mlp.c_fc(x)
        post = block.mlp.act(pre)
        return block.attn.c_proj(z), pre, post, block.mlp.c_proj(post)
    if kind == "gpt_neox":
        pre = block.mlp.dense_h_to_4h(x)
        post = block.mlp.act(pre)
        return block.attention.dense(z), pre, post, block.mlp.dense_4h_to_h(post)
    if kind == "phi3":
        pre, up = block.mlp.gate_up_proj(x).chunk(2, dim=-1)
        post = block.mlp.activation_fn(pre) * up
    else:
        pre = block.mlp.gate_proj(x)
        post = block.mlp.act_fn(pre) * block.mlp.up_proj(x)
    attn, out = block.self_attn.o_proj(z), block.mlp.down_proj(post)
    if kind in GEMMA2:
        attn, out = block.post_attention_layernorm(attn), block.post_feedforward_layernorm(out)
    return attn, pre, post, out


@torch.no_grad()
def test_every_point_is_what_its_name_says(host, family, directories):
    model, tokens = reference(directories(family)), batch()
    states = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    found = host.capture(tokens, everything(host))
    for b in range(LAYERS):
        at = {p: found[f"blocks.{b}.{p}"] for p in named(host)}
        mid = at.get("resid_mid", at["resid_pre"] + at["attn.out"])
        assert_close(at["resid_pre"], states[b])
        after = at["resid_post"]
        assert_close(after if b + 1 < LAYERS else final_norm(model, family)(after), states[b + 1])
        if family != "gpt_neox":
            assert_close(at["resid_mid"], at["resid_pre"] + at["attn.out"])
        assert_close(after, mid + at["mlp.out"])
        attn, pre, post, out = by_hand(block_of(model, family, b), family, at["resid_pre"], mid, at["attn.z"])
        assert_close(at["attn.out"], attn)
        assert_close(at["mlp.post"], post)
        assert_close(at["mlp.out"], out)
        if family != "phi3":
            assert_close(at["mlp.pre"], pre)
        assert attn.abs().max() > 1e-3 and out.abs().max() > 1e-3


@torch.no_grad()
def test_logits_are_the_models(host, family, directories):
    tokens = batch()
    logits = reference(directories(family))(tokens, use_cache=False).logits
    assert torch.equal(host(tokens, {}), logits)
    head = host.capture(tokens, ["logits"])["logits"]
    if family == "gemma2":  # its logits are capped after the unembedding
        head = torch.tanh(head / 30.0) * 30.0
    assert_close(head, logits)
    assert host.vocab_size == VOCABULARY and host.context_length == CONTEXT


def test_several_points_in_one_pass(host):
    tokens, names = batch(), everything(host)
    together = host.capture(tokens, names)
    assert set(together) == set(names)
    for name in names:
        assert torch.equal(together[name], host.capture(tokens, [name])[name])


def test_the_pass_ends_after_the_last_point(host, family):
    calls = []
    for b in range(LAYERS):
        block_of(host.model, family, b).register_forward_pre_hook(lambda m, a, b=b: calls.append(b))
    host.capture(batch(), ["blocks.0.resid_post", "blocks.0.mlp.post"])
    assert calls == [0]
    calls.clear()
    host.capture(batch(), ["blocks.1.attn.z", "blocks.0.mlp.post"])
    assert calls == [0, 1]


def test_edits(host, family):
    """What returns the same changes no bit; zeros change the logits; both leave no hook behind."""
    tokens = batch()
    plain = host(tokens, {})
    for name in everything(host):
        assert torch.equal(host(tokens, {name: lambda x: x}), plain)
        assert torch.equal(host(tokens, {name: lambda x: x.clone()}), plain)
        assert not torch.allclose(host(tokens, {name: torch.zeros_like}), plain), name
    assert torch.equal(host(tokens, {n: lambda x: x + 0 for n in everything(host)}), plain)
    assert hooks_left(host) == 0


def test_an_edit_reaches_the_whole_residual(host):
    """The residual after an edit is what the edit returned, for the branch and for the stream."""
    tokens, seen = batch(), {}

    def keep(name):
        def edit(x):
            seen[name] = x
            return x

        return edit

    for point in [p for p in ("resid_pre", "resid_mid") if p in named(host)]:
        new = torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(1))
        host(tokens, {f"blocks.1.{p}": keep(p) for p in named(host)} | {f"blocks.1.{point}": lambda x, new=new: new})
        start = new if point == "resid_mid" else new + seen["attn.out"]
        assert_close(seen["resid_post"], start + seen["mlp.out"])


def test_an_edit_may_keep_what_it_saw(host, family):
    if family == "gpt_neox":
        pytest.skip("has no resid_mid")
    tokens, kept = batch(), []
    name = "blocks.1.resid_mid"
    host(tokens, {name: lambda x: kept.append(x) or torch.zeros_like(x)})
    assert torch.equal(kept[0], host.capture(tokens, [name])[name])


def test_names_of_transformer_lens(host):
    for name in everything(host)[:-1]:
        assert host.resolve(host.alias(name)) == name == host.resolve(name) != host.alias(name)
    assert host.alias("logits") == "logits" == host.resolve("logit_update")
    if "mlp.pre" in named(host):
        assert host.resolve("blocks.2.mlp.hook_pre") == "blocks.2.mlp.pre"


def test_names_alone():
    assert canonical("blocks.0.hook_resid_mid") == "blocks.0.resid_mid"
    assert canonical("blocks.12.attn.hook_z") == "blocks.12.attn.z"
    assert canonical("mlp.post") == "mlp.post" and alias("mlp.post") == "mlp.post"
    assert alias("blocks.3.mlp.out") == "blocks.3.hook_mlp_out"
    assert split("blocks.3.mlp.out") == (3, "mlp.out")
    assert split("blocks.03.mlp.out") is None and split("blocks.3.mlp") is None and split("mlp.out") is None


def test_module_paths(directories):
    host = load(str(directories("gpt_neox")), None, "fp32", None).model
    tokens, mlp = batch(), "gpt_neox.layers.1.mlp"
    pairs = {
        mlp: "blocks.1.mlp.out",
        f"{mlp}.dense_4h_to_h:in": "blocks.1.mlp.post",
        "gpt_neox.layers.1.attention": "blocks.1.attn.out",  # gives a tuple
        "gpt_neox.layers.2:in": "blocks.1.resid_post",
        "lm_head": "logits",
    }
    found = host.capture(tokens, [*pairs, *pairs.values()])
    zeroed = {name: host(tokens, {name: torch.zeros_like}) for name in [*pairs, *pairs.values()]}
    for path, name in pairs.items():
        assert host.resolve(path) == path == host.alias(path) and host.width(path) == host.width(name)
        assert torch.equal(found[path], found[name]) and torch.equal(zeroed[path], zeroed[name])


def test_input_by_keyword(directories):
    """Llama's attention gets its input by keyword."""
    host = load(str(directories("llama")), None, "fp32", None).model
    name, norm = "model.layers.1.self_attn:in", "model.layers.1.input_layernorm"
    found = host.capture(batch(), [name, norm])
    assert torch.equal(found[name], found[norm])
    a, b = (host(batch(), {n: torch.zeros_like}) for n in (name, norm))
    assert torch.equal(a, b) and not torch.equal(a, host(batch(), {}))


@pytest.mark.parametrize(
    "kind, name, said",
    [
        ("gpt2", "blocks.0.mlp.pots", "did you mean 'blocks.0.mlp.post'"),
        ("gpt2", "blocks.0.hook_resid_prr", "did you mean 'blocks.0.hook_resid_pre'"),
        ("gpt2", "mlp.post", "did you mean 'blocks.0.mlp.post'"),
        ("gpt2", "transformer.h.1.mpl", "did you mean 'transformer.h.1.mlp'"),
        ("gpt2", "transformer.h", "module paths"),
        ("gpt2", "transformer.h.1.mlp:", "did you mean 'transformer.h.1.mlp'"),
        ("gpt2", "", "known: "),
        ("gpt2", "blocks.3.mlp.post", "blocks 0 to 2"),
        ("gpt_neox", "blocks.0.resid_mid", "read the same residual"),
        ("gpt_neox", "blocks.0.hook_resid_mid", "read the same residual"),
        ("phi3", "blocks.0.mlp.pre", "gate_up_proj"),
    ],
)
def test_unknown_points(directories, kind, name, said):
    host = load(str(directories(kind)), None, "fp32", None, weights=False).model
    for ask in (host.resolve, host.width, lambda n: host.capture(batch(), [n])):
        with pytest.raises(UnknownHookPoint) as error:
            ask(name)
        assert said in str(error.value) and "\n" not in str(error.value)


def test_other_families_have_module_paths(tmp_path):
    from transformers import OPTConfig, OPTForCausalLM

    from tests.host.families import add_tokenizer

    sizes = {
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 16,
    }
    OPTForCausalLM(OPTConfig(vocab_size=300, max_position_embeddings=40, **sizes)).save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    for weights in (True, False):
        host = load(str(tmp_path), None, "fp32", None, weights=weights).model
        with pytest.raises(UnknownHookPoint, match=r"gpt2, gpt_neox, .* not in opt; .*'model.decoder.layers.0'"):
            host.resolve("blocks.0.mlp.post")
        path = host.resolve("model.decoder.layers.1.self_attn.out_proj:in")
        assert host.width(path) == 16 and host.width("logits") == 300
        with pytest.raises(InputError, match=r"shape \[2, 24\]; one vector per token"):  # this family flattens there
            host.width("model.decoder.layers.1.fc2:in")


IN_PLACE = {
    "falcon": ("transformer.h.{}.mlp", {"parallel_attn": True, "alibi": False}),  # mlp_output += attention_output
    "olmo": ("model.layers.{}.self_attn.q_proj", {"clip_qkv": 0.05, "intermediate_size": 48}),  # clamp_
}


@pytest.mark.parametrize("kind", sorted(IN_PLACE))
def test_what_a_model_changes_in_place_is_kept_as_it_was(tmp_path, kind):
    """Rows of a hook point do not depend on which others are asked for."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.host.families import add_tokenizer

    place, more = IN_PLACE[kind]
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "max_position_embeddings": CONTEXT}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **tokens, **more))
    model.save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    host, names = load(str(tmp_path), None, "fp32", None).model, [place.format(0), place.format(1)]
    together = host.capture(batch(), names)
    for name in names:
        assert torch.equal(together[name], host.capture(batch(), [name])[name])


@pytest.mark.parametrize(
    "name, said",
    [
        ("transformer", "BaseModelOutput"),
        ("transformer.wte:in", "int64"),
        ("transformer.wpe", "one vector per token"),
    ],
)
def test_places_without_one_vector_per_token(directories, name, said):
    host = load(str(directories("gpt2")), None, "fp32", None).model
    with pytest.raises(InputError, match=f"host.hook_point='{name}'.*{said}"):
        host.capture(batch(), [name])
    assert hooks_left(host) == 0


def test_no_hook_is_left_after_an_error(host):
    def fail(x):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        host(batch(), {"blocks.0.resid_pre": lambda x: x, "blocks.1.mlp.out": fail})
    with pytest.raises(ValueError, match="an edit made"):
        host(batch(), {"blocks.0.mlp.out": lambda x: x[:, :1]})
    with pytest.raises(UnknownHookPoint):
        host(batch(), {"blocks.0.mlp.out": lambda x: x, "blocks.0.nothing": lambda x: x})
    host.capture(batch(), ["blocks.1.mlp.out"])
    assert hooks_left(host) == 0


def test_wrong_tokens(directories):
    host = load(str(directories("llama")), None, "fp32", None).model
    with pytest.raises(ValueError, match="token 300: the host's vocabulary has 300"):
        host(torch.full((1, 4), 300), {})
    with pytest.raises(InputError, match=r"corpus\.context_length=65: the host reads at most 64"):
        host(batch(1, 65), {})
    assert host(batch(1, 64).to(torch.int32), {}).shape == (1, 64, 300)


def test_nothing_is_recorded_for_gradients(host):
    assert not any(p.requires_grad for p in host.model.parameters()) and not host.model.training
    weight = torch.ones(32, requires_grad=True)
    assert not host(batch(), {"blocks.1.mlp.out": lambda x: x * weight}).requires_grad


def test_bf16(directories, family):
    host = load(str(directories(family)), None, "bf16", None).model
    tokens = batch()
    with torch.no_grad():
        model = reference(directories(family), torch.bfloat16)
        states = model(tokens, output_hidden_states=True, use_cache=False)
    found = host.capture(tokens, everything(host))
    assert {x.dtype for x in found.values()} == {torch.bfloat16}
    assert torch.equal(found["blocks.2.resid_pre"], states.hidden_states[2])
    assert torch.equal(host(tokens, {}), states.logits)
    assert torch.equal(host(tokens, {n: lambda x: x.float() for n in everything(host)}), states.logits)


def test_widths_need_no_weights(directories, family):
    path = str(directories(family))
    full, outline = load(path, None, "fp32", None), load(path, None, "fp32", None, weights=False)
    assert {p.device.type for p in outline.model.model.parameters()} == {"meta"}
    names = [f"blocks.1.{p}" for p in named(full.model)] + ["logits"]
    assert [outline.model.width(n) for n in names] == [full.model.width(n) for n in names]
    assert all(full.model.capture(batch(), [n])[n].shape[-1] == outline.model.width(n) for n in names)
    assert (outline.digest, outline.card, outline.end_token) == (full.digest, full.card, full.end_token)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bias_does_not_round_the_direct_path(directories, family, precision):
    host = load(str(directories(family)), None, precision, None).model
    last = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h", "llama": "mlp.down_proj"}[family]
    module = block_of(host.model, family, 1).get_submodule(last)
    weight = module.weight if family == "gpt2" else module.weight.T
    if family != "llama":
        module.bias.data.normal_(std=5)
    assert_close(direct_path(host, "blocks.1.mlp.post").write_WD, weight.float(), rtol=1e-6, atol=2e-6)


def test_a_directory_by_any_of_its_names(directories, monkeypatch):
    place = directories("gpt2")
    monkeypatch.setenv("HOME", str(place.parent))
    first = load_host(str(place), weights=False).digest
    for name in ("~/gpt2", f"file://{place}", f"file://{place}/"):
        assert load_host(name, weights=False).digest == first
    store = open_store("memory://hosts")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        store.put(f"gpt2/{name}", (place / name).read_bytes())
    with pytest.raises(InputError, match=r"memory://hosts/gpt2': its config.json is not of a host in a store"):
        load_host("memory://hosts/gpt2")


def test_spread_over_places(directories, tmp_path):
    """One block in memory, the others on disk, as accelerate spreads a model that is too large."""
    from accelerate import dispatch_model

    whole = load(str(directories("llama")), None, "fp32", None).model
    model = reference(directories("llama"))
    rest = {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk", "lm_head": "cpu"}
    parts = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", **rest}
    host = huggingface.HuggingFaceHost(dispatch_model(model, parts, main_device="cpu", offload_dir=tmp_path), True)
    assert host.model.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    tokens, names = batch(), everything(whole)
    for _ in range(2):  # a pass that stopped early must not spoil the next
        found = host.capture(tokens, names[:-3])
        assert all(torch.equal(x, whole.capture(tokens, [n])[n]) for n, x in found.items())
        assert torch.equal(host(tokens, {}), whole(tokens, {}))
    for name in names:
        assert torch.equal(host(tokens, {name: torch.zeros_like}), whole(tokens, {name: torch.zeros_like}))
    assert host.to("meta") is host and host.device.type == "cpu" and host.width("blocks.1.mlp.post") == 48


def test_device_map_auto(directories):
    path = str(directories("gpt_neox"))
    one, spread = load(path, None, "fp32", None), load(path, None, "fp32", "auto")
    assert spread.model.spread and spread.model.to("meta").device.type != "meta"
    assert load(path, None, "fp32", "auto", weights=False).model.width("blocks.0.mlp.post") == 48
    if not torch.cuda.is_available():
        assert torch.equal(one.model(batch(), {}), spread.model(batch(), {}))
    assert one.model.to("cpu") is one.model


def test_what_is_known_of_a_host(directories, family):
    import transformers

    loaded = load(str(directories(family)), None, "bf16", None)
    assert loaded.card == {
        "model_type": FAMILIES[family][0],
        "architecture": type(loaded.model.model).__name__,
        "attention": "eager" if family == "gemma2" else "sdpa",
        "precision": "bf16",
        "revision": None,
        "transformers": transformers.__version__,
    }
    assert loaded.model.model.config._attn_implementation == loaded.card["attention"]
    assert json.loads(json.dumps(loaded.card)) == loaded.card and len(loaded.digest) == 64
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("a small river").ids) == "a small river"


def test_the_digest_names_what_was_read(directories, copied, tmp_path):
    def digest(path):
        return load(str(path), None, "fp32", None, weights=False).digest

    first = digest(directories("gpt2"))
    assert digest(copied) == first
    (copied / "README.md").write_text("other words")
    assert digest(copied) == first
    seen = {first}
    for name in ("config.json", "tokenizer.json"):
        (copied / name).write_text((copied / name).read_text() + "\n")
        seen.add(digest(copied))
    seen.add(digest(make_host(tmp_path / "other", "gpt2", seed=1)))
    assert len(seen) == 4


def test_shards(directories, tmp_path):
    model = reference(directories("gpt2"))
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directories("gpt2") / name, tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    whole, parts = (load(str(d), None, "fp32", None) for d in (directories("gpt2"), tmp_path))
    assert torch.equal(whole.model(batch(), {}), parts.model(batch(), {}))
    shards[1].write_bytes(shards[1].read_bytes()[:-4] + b"\1\2\3\4")
    assert load(str(tmp_path), None, "fp32", None, weights=False).digest != parts.digest
    shards[1].unlink()
    with pytest.raises(InputError, match="a shard is missing"):
        load(str(tmp_path), None, "fp32", None)


def write(path: Path, **changes):
    """Change or (None) remove keys of a JSON file."""
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings |= changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


@pytest.mark.parametrize(
    "config, special, end, begin",
    [
        ({}, {"eos_token": {"content": "river"}, "bos_token": None}, "river", "<|endoftext|>"),
        ({"bos_token_id": 70}, {"eos_token": None, "bos_token": None}, "<|endoftext|>", "f"),
        ({"eos_token_id": [70, 0]}, {"eos_token": None, "bos_token": "not a token"}, "f", None),
    ],
)
def test_ends_and_begins(copied, config, special, end, begin):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(copied / "tokenizer.json"))
    tokenizer.add_special_tokens(["river"])
    tokenizer.save(str(copied / "tokenizer.json"))
    letter = tokenizer.id_to_token(70)
    write(copied / "config.json", **config)
    write(copied / "tokenizer_config.json", **special)
    loaded = load(str(copied), None, "fp32", None, weights=False)
    assert (loaded.end_token, loaded.begin_token) == tuple(letter if t == "f" else t for t in (end, begin))


def test_a_null_token_of_the_tokenizer_counts(copied):
    """Qwen2: config.json names a begin-of-text token that the tokenizer says it has not."""
    (copied / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "bos_token": null}')
    assert load(str(copied), None, "fp32", None, weights=False).begin_token is None


def test_the_tokenizer_neither_cuts_nor_fills(copied):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(copied / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(copied / "tokenizer.json"))
    words = load(str(copied), None, "fp32", None, weights=False).tokenizer.encode("a small river and a bridge").ids
    assert 3 < len(words) < 50


def without(name):
    return lambda d: (d / name).unlink()


def pickled(d):
    (d / "model.safetensors").rename(d / "pytorch_model.bin")


def base_model(d):
    """The weights without an unembedding, in a config that does not say so."""
    from transformers import GPT2Model

    write(d / "config.json", architectures=None)
    model = GPT2Model.from_pretrained(d)
    model.save_pretrained(d)
    write(d / "config.json", architectures=None)


def encoder(d, architecture):
    from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    kind = {"BertForMaskedLM": BertForMaskedLM, "BertLMHeadModel": BertLMHeadModel}[architecture]
    kind(BertConfig(vocab_size=300, eos_token_id=0, **sizes)).save_pretrained(d)


CONFIG = "config.json"
SPOILS = [
    (without(CONFIG), "no config.json there"),
    (without("model.safetensors"), "model.safetensors or a shard is missing"),
    (without("tokenizer.json"), "no tokenizer.json"),
    (pickled, "pytorch_model.bin is a pickle, which is refused"),
    (lambda d: (d / "adapter_config.json").write_text("{}"), "is an adapter"),
    (lambda d: (d / CONFIG).write_text("{"), "not valid JSON"),
    (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json is not readable"),
    (lambda d: write(d / CONFIG, auto_map={"AutoModel": "code.Model"}), "its own code"),
    (lambda d: write(d / CONFIG, model_type="gpt_neo_x"), "did you mean gpt_neox"),
    (lambda d: write(d / CONFIG, model_type=None), "unknown model_type"),
    (lambda d: write(d / CONFIG, model_type="t5"), "GPT2LMHeadModel is not a causal language model"),
    (lambda d: write(d / CONFIG, architectures=["GPT2ForTokenClassification"]), "is not a causal language model"),
    (lambda d: encoder(d, "BertForMaskedLM"), "BertForMaskedLM is not a causal language model"),
    (lambda d: encoder(d, "BertLMHeadModel"), "attends to later ones too"),
    (lambda d: write(d / CONFIG, quantization_config={"quant_method": "gptq"}), "are quantised"),
    (lambda d: write(d / CONFIG, n_embd=36), "of another size"),
    (lambda d: write(d / CONFIG, n_layer=4), "weights are missing"),
    (base_model, "weights are missing or of another size: lm_head.weight"),
    (
        lambda d: (write(d / "tokenizer_config.json", eos_token=None), write(d / CONFIG, eos_token_id=299_999)),
        "names no end-of-text token",
    ),
]


@pytest.mark.parametrize("spoil, said", SPOILS, ids=[said[:30] for _, said in SPOILS])
def test_refused(copied, spoil, said):
    spoil(copied)
    with pytest.raises(InputError) as error:
        load(str(copied), None, "fp32", None)
    assert said in str(error.value) and str(error.value).startswith("host.model=") and "\n" not in str(error.value)


def test_a_model_of_text_and_images_is_refused_for_what_it_is(tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    from tests.host.families import add_tokenizer

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = sizes | {"image_size": 16, "patch_size": 8}
    config = Gemma3Config(text_config=FAMILIES["gemma3_text"][1], vision_config=images, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    for weights in (True, False):
        with pytest.raises(InputError, match="Gemma3ForConditionalGeneration is a model of text and something else"):
            load(str(tmp_path), None, "fp32", None, weights=weights)


def test_broken_weights(copied):
    data = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="broken safetensors"):
        load(str(copied), None, "fp32", None)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"precision": "bf-16"}, "host.precision='bf-16': must be one of fp32, bf16 (did you mean bf16?)"),
        ({"device_map": "atuo"}, "host.device_map='atuo': must be one of auto (did you mean auto?)"),
        ({"revision": "main"}, "host.revision='main': only hf: models have revisions"),
        ({"reference": "{}s"}, "no such directory (did you mean copy?)"),
        ({"reference": "hf:a/b/c"}, "must be hf:org/name"),
        ({"reference": "hf:"}, "must be hf:org/name"),
    ],
)
def test_wrong_options(copied, options, said):
    given = {"reference": "{}", "revision": None, "precision": "fp32", "device_map": None} | options
    given["reference"] = given["reference"].format(copied)
    with pytest.raises(InputError) as error:
        load(**given)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("package, device_map", [("transformers", None), ("accelerate", "auto")])
def test_missing_packages(copied, monkeypatch, package, device_map):
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(InputError, match=rf"needs the package {package}: pip install 'monosem\[hf\]'"):
        load(str(copied), None, "fp32", device_map)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """As much of the hub as a download needs: one model, `toys/tiny`, and what was asked for."""

    def __init__(self, directory: Path):
        super().__init__(("127.0.0.1", 0), HubAnswers)
        self.directory, self.asked = directory, []


class HubAnswers(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(self.path)
        path, files = self.path.split("?")[0], self.server.directory
        if path == "/api/models/toys/tiny/refs":
            refs = [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}]
            steps = [{"name": "step1000", "ref": "refs/heads/step1000", "targetCommit": COMMIT}]
            return self.answer(json.dumps({"branches": refs + steps, "converts": [], "tags": []}).encode())
        if path.startswith(f"/api/models/toys/tiny/tree/{COMMIT}"):
            found = [(str(f.relative_to(files)), f.stat().st_size) for f in files.rglob("*") if f.is_file()]
            tree = [{"type": "file", "oid": str(hash(name)), "size": size, "path": name} for name, size in found]
            return self.answer(json.dumps(tree).encode())
        if path.startswith("/api/models/toys/tiny"):
            if "/revision/" in path and path.split("/")[-1] not in ("main", "step1000", COMMIT):
                return self.refuse("RevisionNotFound")
            names = [{"rfilename": str(f.relative_to(files))} for f in files.rglob("*") if f.is_file()]
            answer = {"id": "toys/tiny", "sha": COMMIT, "siblings": names, "tags": [], "downloads": 0, "likes": 0}
            return self.answer(json.dumps(answer | {"private": False, "lastModified": None}).encode())
        if path.startswith(f"/toys/tiny/resolve/{COMMIT}/"):
            return self.answer((files / path.split(f"{COMMIT}/")[1]).read_bytes())
        self.refuse("GatedRepo" if "gated" in path else "RepoNotFound")

    def answer(self, data: bytes):
        self.send_response(200)
        for name, value in {"Content-Length": len(data), "ETag": f'"{hash(data):x}"', "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def refuse(self, code: str):
        self.send_response(403 if code == "GatedRepo" else 404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(copied, tmp_path, monkeypatch):
    """A hub on this machine, and an empty cache."""
    from huggingface_hub import constants

    (copied / "pytorch_model.bin").write_bytes(b"a pickle")
    (copied / "onnx").mkdir()
    (copied / "onnx" / "model.safetensors").write_bytes(b"something else")
    (copied / "onnx" / "config.json").write_text("{}")
    server = Hub(copied)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("revision", [None, "step1000", COMMIT])
def test_from_the_hub(hub, directories, revision):
    loaded = load("hf:toys/tiny", revision, "fp32", None)
    local = load(str(directories("gpt2")), None, "fp32", None)
    assert loaded.card == local.card | {"revision": COMMIT} and loaded.digest == local.digest
    assert torch.equal(loaded.model(batch(), {}), local.model(batch(), {}))
    fetched = {path.split(f"{COMMIT}/")[1] for path in hub.asked if "/resolve/" in path}
    assert fetched == {p.name for p in directories("gpt2").iterdir()}
    hub.asked.clear()
    assert load("hf:toys/tiny", COMMIT, "fp32", None).digest == local.digest
    assert not hub.asked, "a commit that is here is not asked for again"


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer_config.json"])
def test_a_half_fetched_snapshot_is_completed(hub, tmp_path, lost):
    load("hf:toys/tiny", None, "fp32", None)
    next((tmp_path / "cache").rglob(f"snapshots/*/{lost}")).unlink()
    hub.asked.clear()
    assert load("hf:toys/tiny", COMMIT, "fp32", None).model.vocab_size == VOCABULARY
    assert hub.asked


def test_a_snapshot_that_another_tool_fetched_has_the_end_token_of_the_hub(hub, copied):
    """It may lack the file that names the token; config.json names another."""
    from huggingface_hub import hf_hub_download

    tokenizer = Tokenizer.from_file(str(copied / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.save(str(copied / "tokenizer.json"))
    write(copied / "tokenizer_config.json", eos_token="<|im_end|>")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        hf_hub_download("toys/tiny", name, revision=COMMIT)
    assert load("hf:toys/tiny", COMMIT, "fp32", None, weights=False).end_token == "<|im_end|>"
    hub.asked.clear()
    assert load("hf:toys/tiny", COMMIT, "fp32", None, weights=False).end_token == "<|im_end|>" and not hub.asked


@pytest.mark.parametrize("named", [True, False])
def test_a_snapshot_without_settings_serves_where_the_hub_is_out_of_reach(hub, copied, monkeypatch, named):
    from huggingface_hub import constants, hf_hub_download

    (copied / "tokenizer_config.json").unlink()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        hf_hub_download("toys/tiny", name, revision=COMMIT)
    if not named:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert load("hf:toys/tiny", COMMIT, "fp32", None, weights=False).end_token == END_OF_TEXT


@pytest.mark.parametrize(
    "reference, revision, said",
    [
        ("hf:toys/tiny", "stp1000", "host.revision='stp1000': toys/tiny has no such commit, tag or branch"),
        ("hf:toys/tiny", "stp1000", "(did you mean step1000?)"),
        ("hf:toys/none", None, "host.model='hf:toys/none': no such model"),
        ("hf:toys/gated", None, "host.model='hf:toys/gated': no such model, or none that your HF_TOKEN may read"),
    ],
)
def test_what_the_hub_does_not_have(hub, reference, revision, said):
    with pytest.raises(InputError) as error:
        load(reference, revision, "fp32", None)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_pickled_weights_are_refused_before_they_are_fetched(hub, copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle"):
        load("hf:toys/tiny", None, "fp32", None)
    assert not any("/resolve/" in path for path in hub.asked)


@pytest.mark.parametrize("offline", [False, True])
def test_no_hub(hub, monkeypatch, offline):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(InputError) as error:
        load("hf:toys/tiny", None, "fp32", None)
    said = str(error.value)
    assert said.startswith("host.model='hf:toys/tiny': not to be had from the Hugging Face hub (") and "\n" not in said
