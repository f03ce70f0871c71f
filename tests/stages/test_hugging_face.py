"""Sweeps on Hugging Face hosts: several layers and hook points from one forward pass, in every family."""

import pytest
import torch

import monosem
from monosem.host.huggingface import HuggingFaceHost
from monosem.stages.listing import all_rows
from monosem.store.plain import unpack_json
from monosem.store.store import open_store
from tests.conftest import digests, run_cli
from tests.host.families import make_host

SIX = [f"blocks.{layer}.{point}" for layer in range(3) for point in ("mlp.post", "resid_mid")]


@pytest.fixture
def job(text_file, tmp_path):
    def write(family: str, hook_points: list[str], precision: str = "fp32", **host: str):
        model = make_host(tmp_path / family, family)
        path = tmp_path / f"{family}.yaml"
        extra = "".join(f", {key}: {value}" for key, value in host.items())
        path.write_text(
            f"""
name: hf
store: {tmp_path / "store"}
host: {{model: {model}, hook_point: [{", ".join(hook_points)}], precision: {precision}{extra}}}
corpus: {{source: {text_file}, context_length: 32, max_tokens: 20000}}
stream: {{rows_per_context: 16, shuffle_rows: 1024, contexts_per_item: 4, skip_special: true}}
sae: {{expansion_factor: 2, l1_coefficient: 0.01}}
train: {{steps: 30, batch_size: 64, resample_steps: [], init_rows: 128, checkpoint_every: 10}}
evaluate: {{contexts: 8, rows: 256}}
track: {{wandb: disabled}}
features: {{enabled: false}}
"""
        )
        return path

    return write


def test_three_layers_and_two_points_feed_six_dictionaries_from_one_pass(job, tmp_path, monkeypatch):
    passes, captured = [], HuggingFaceHost.capture

    def counting(self, tokens, points):
        passes.append(tuple(points))
        return captured(self, tokens, points)

    monkeypatch.setattr(HuggingFaceHost, "capture", counting)
    path = job("gpt2", SIX)
    assert run_cli("sweep", path, "--inline") == 0
    rows = all_rows(open_store(str(tmp_path / "store")))
    assert [row["run"] for row in rows] == [f"{point}-2x" for point in SIX]
    assert {row["state"] for row in rows} == {"finished"}
    assert [row["d_in"] for row in rows] == [48, 32] * 3
    streamed = [points for points in passes if len(points) > 1]
    assert set(streamed) == {tuple(SIX)}
    rows_per_item, generations = 4 * 16, 16
    items = -(-30 * 64 // rows_per_item) + generations  # what the steps read, and what waits in the shuffle
    assert len(streamed) <= items + 1 + 16  # the canary; the last segment may reach further
    # A dictionary trained alone on one of the points has the same bits.
    assert run_cli("sweep", path, "host.hook_point=blocks.1.resid_mid", f"store={tmp_path / 'alone'}", "--inline") == 0
    assert digests(tmp_path / "alone") == {"2x": digests(tmp_path / "store")["blocks.1.resid_mid-2x"]}
    record = unpack_json(open_store(rows[3]["uri"]).get("monosem.json"), "")
    assert record["host"]["hook_name"] == "blocks.1.resid_mid"
    assert record["host"]["alias"] == "blocks.1.hook_resid_mid"
    assert monosem.load(rows[3]["uri"]).encode(torch.rand(5, 32)).shape == (5, 64)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma2", "qwen2"])
def test_families(job, tmp_path, family):
    path = job(family, ["blocks.1.hook_resid_post", "blocks.0.mlp.hook_post"])
    assert run_cli("sweep", path, "--inline") == 0
    for row in all_rows(open_store(str(tmp_path / "store"))):
        assert row["state"] == "finished" and row["fvu"] < 1.5


def test_bf16_hosts_give_rows_that_bf16_keeps_whole(job, tmp_path, capfd):
    """Their activations are bfloat16, so that a dataset of halves holds every bit, and trains the same dictionary."""
    path = job("llama", ["blocks.1.resid_post"], "bf16")
    assert run_cli("sweep", path, "--inline") == 0
    tee = f"stream.tee={tmp_path / 'halves'}"
    assert run_cli("harvest", path, f"store={tmp_path / 'h'}", tee, "dataset.codec=bf16", "--inline") == 0
    assert "bf16: every bit kept" in capfd.readouterr().out
    assert run_cli("sweep", path, f"store={tmp_path / 'b'}", f"stream.from={tmp_path / 'halves'}", "--inline") == 0
    assert digests(tmp_path / "b") == digests(tmp_path / "store")
    assert run_cli("sweep", path, "host.precision=fp32", f"store={tmp_path / 'c'}", "--inline") == 0
    assert digests(tmp_path / "c") != digests(tmp_path / "store")


def test_module_paths_and_begin_tokens(job, tmp_path):
    path = job("gpt_neox", ["gpt_neox.layers.1.mlp.dense_4h_to_h:in", "logits"])
    assert run_cli("sweep", path, "corpus.bos=true", "--inline") == 0
    names = [row["run"] for row in all_rows(open_store(str(tmp_path / "store")))]
    assert names == ["gpt_neox.layers.1.mlp.dense_4h_to_h=in-2x", "logits-2x"]


def test_evaluate_again(job, tmp_path, capfd):
    path = job("qwen2", ["blocks.2.mlp.out"])
    assert run_cli("sweep", path, "--inline") == 0
    capfd.readouterr()
    assert run_cli("evaluate", tmp_path / "store/sweeps/hf/runs/2x", "--json") == 0
    import json

    again = json.loads(capfd.readouterr().out)
    row = all_rows(open_store(str(tmp_path / "store")))[0]
    assert again["fvu"] == row["fvu"] and again["loss_recovered"] == row["loss_recovered"]


@pytest.mark.parametrize(
    "change, says",
    [
        ("host.hook_point=blocks.9.mlp.post", "blocks.9.mlp.post"),
        ("host.hook_point=blocks.0.resid_mid", "resid_mid"),
        ("host.revision=main", "revision"),
        ("host.model=hf:no/such-model", "hf:no/such-model"),
        ("corpus.context_length=100", "takes at most 64"),
    ],
)
def test_mistakes(job, capfd, change, says):
    assert run_cli("sweep", job("gpt_neox", ["blocks.0.mlp.post"]), change, "--inline") == 2
    err = capfd.readouterr().err.strip()
    assert says in err and len(err.splitlines()) == 1


def test_text_with_a_token_that_the_host_does_not_know(job, tmp_path, capfd):
    """As checkpoints have whose tokenizer got more tokens than the embedding has rows."""
    from tokenizers import Tokenizer

    path, tokens = job("gpt2", ["blocks.0.mlp.post"]), tmp_path / "gpt2/tokenizer.json"
    tokenizer = Tokenizer.from_file(str(tokens))
    tokenizer.add_special_tokens(["river"])
    tokenizer.save(str(tokens))
    assert run_cli("sweep", path, "--inline") == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert "makes token 300 of this text ('river'), the model knows 0 to 299" in last
    assert not (tmp_path / "store/sweeps").exists()


def test_two_names_of_one_module_are_one_point(job, capfd):
    for change in ("host.hook_point=[blocks.0.mlp.out,transformer.h.0.mlp]", "sae.target=transformer.h.0.mlp"):
        assert run_cli("sweep", job("gpt2", ["blocks.0.mlp.out"]), change, "--inline") == 2
        assert capfd.readouterr().err.count("\n") == 1
