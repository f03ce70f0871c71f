"""Every variant and every recipe through a whole sweep: bits, files, and the numbers of what is kept."""

import json

import pytest
import torch
from omegaconf import OmegaConf

import monosem
from monosem.config.job import SweepJob
from monosem.config.load import RECIPES, load_job, recipes
from monosem.errors import InputError
from monosem.stages.listing import all_rows
from monosem.stages.spec import expand_runs
from monosem.store.store import check_path, open_store
from tests.conftest import digests, dying_after, run_cli

ALL = "sae.variant=[relu,topk,batch_topk,jumprelu,gated,matryoshka]"
SMALL = (ALL, "sae.expansion_factor=4", "sae.k=6", "sae.l0_coefficient=0.001", "sae.bandwidth=0.05", "train.dead_rows=640")


@pytest.fixture
def job(tiny_job, tmp_path):
    return tiny_job


def test_six_variants_on_one_stream_through_a_death(job, tmp_path):
    scaled = (*SMALL, "train.input_scale=sqrt_d", "train.sparsity_warmup=0.5", "train.lr_decay=0.2", "train.clip_norm=1")
    assert run_cli("sweep", job, *scaled, f"store={tmp_path / 'whole'}", "--inline") == 0
    with dying_after(33, "4x-matryoshka"):
        run_cli("sweep", job, *scaled, f"store={tmp_path / 'broken'}", "--inline")
    assert run_cli("sweep", job, *scaled, f"store={tmp_path / 'broken'}", "--inline") == 0
    assert digests(tmp_path / "whole") == digests(tmp_path / "broken") and len(digests(tmp_path / "whole")) == 6
    assert len(set(digests(tmp_path / "whole").values())) == 6
    for row in all_rows(open_store(str(tmp_path / "whole"))):
        sae = monosem.load(row["uri"])
        expected = "jumprelu" if row["variant"] in ("batch_topk", "matryoshka") else row["variant"]
        assert sae.config.variant == expected
        assert 0 < row["l0"] < 160 and row["fvu"] < 1.0, row
        asked = {name: row[name] for name in ("l1_coefficient", "l0_coefficient", "k") if row[name] is not None}
        assert len(asked) == 1
    summary = (tmp_path / "whole/sweeps/tiny/summary.html").read_text()
    assert "batch_topk" in summary and "k 6" in summary and "L0 0.001" in summary


def test_a_dictionary_is_for_rows_as_they_come(job, tmp_path):
    """Trained on scaled rows or not, it is measured on the rows of the host: the figures are alike."""
    found = {}
    for scale in ("none", "sqrt_d", "unit"):
        more = ("sae.variant=topk", "sae.k=6", "train.steps=300", f"train.input_scale={scale}")
        store = tmp_path / scale
        assert run_cli("sweep", job, "sae.expansion_factor=4", *more, f"store={store}", "--inline") == 0
        [row] = all_rows(open_store(str(store)))
        found[scale] = row["fvu"]
        config = json.loads((store / "sweeps/tiny/runs/4x/cfg.json").read_text())
        assert config["normalize_activations"] == "none"
    assert max(found.values()) < 1.5 * min(found.values()), found


def names(text: str, tmp_path) -> list[str]:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return [run.name for run in expand_runs(load_job(SweepJob, str(path), []), {"mlp.post": 40})]


def test_a_variant_is_repeated_only_along_axes_that_it_has(tmp_path):
    text = "sae: {variant: [relu, topk], expansion_factor: 2, l1_coefficient: [0.1, 0.2], k: [4, 8, 16]}"
    assert names(text, tmp_path) == [
        "2x-relu-l1_0.1", "2x-relu-l1_0.2", "2x-topk-k_4", "2x-topk-k_8", "2x-topk-k_16"
    ]  # fmt: skip
    assert names("sae: {variant: jumprelu, expansion_factor: 2, l0_coefficient: [0.1, 0.2]}", tmp_path) == [
        "2x-l0_0.1", "2x-l0_0.2"
    ]  # fmt: skip


def test_every_value_has_a_name_of_its_own_that_the_store_takes(tmp_path):
    """Names that were exact stay as they were: finished runs are found by them."""
    values = [0.00123456, 0.001234561, 0.004, 1e-5, 1.0, 1000000.0, 123456.75, 1.0000001]
    found = names(f"sae: {{expansion_factor: 1, l1_coefficient: {values}}}", tmp_path)
    assert found == ["1x-l1_0.00123456", "1x-l1_0.001234561", "1x-l1_0.004", "1x-l1_1e-05", "1x-l1_1",
                     "1x-l1_1000000", "1x-l1_123456.75", "1x-l1_1.0000001"]  # fmt: skip
    assert [check_path(name) for name in found] == found
    spelled = [float(name.removeprefix("1x-l1_")) for name in found]
    assert spelled == values


def test_two_runs_of_one_name_are_refused(tmp_path):
    """Hook points may differ only in a sign that names in the store have another for."""
    path = tmp_path / "job.yaml"
    path.write_text("sae: {expansion_factor: 1}")
    job = load_job(SweepJob, str(path), [])
    with pytest.raises(InputError, match="two runs of this sweep would be called 'a=b-1x'"):
        expand_runs(job, {"a:b": 40, "a/b": 40})
    with pytest.raises(InputError, match="not a plain name"):
        expand_runs(job, {"a b": 40, "c": 40})


@pytest.mark.parametrize(
    "text, says",
    [
        ("sae: {variant: topk, l1_coefficient: [1, 2]}", r"sae.l1_coefficient=\[1.0, 2.0\]: variant topk has no l1"),
        ("sae: {k: [1, 2]}", "variant relu has no k"),
        ("sae: {variant: topk, expansion_factor: 1, k: 41}", "sae.k=41: expansion factor 1 has only 40 features"),
        ("sae: {variant: matryoshka, prefixes: [0.5, 0.2, 1]}", "must rise from above 0 to 1"),
        ("sae: {variant: matryoshka, prefixes: [0.5]}", "must rise from above 0 to 1"),
        ("sae: {variant: top_k}", "top_k"),
        ("sae: {decoder: loose}", "sae.decoder='loose'"),
        ("recipe: topk-opnai", "did you mean topk-openai"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, says):
    with pytest.raises(InputError, match=says) as caught:
        names(text, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_trains(job, tmp_path, name):
    small = ("train.steps=60", "train.batch_size=64", "train.resample_steps=[]", "train.resample_window=10",
             "train.init_rows=256", "sae.k=6", "sae.aux_k=8", "train.lr=0.003")  # fmt: skip
    text = OmegaConf.load(job)
    del text["sae"]
    text["recipe"] = name
    text["train"] = {"checkpoint_every": 20, "resample_rows": 256}
    OmegaConf.save(text, job)
    assert run_cli("sweep", job, *small, "sae.expansion_factor=2", "--inline") == 0
    [row] = all_rows(open_store(str(tmp_path / "store")))
    assert row["state"] == "finished" and row["fvu"] < 1.5
    sae = monosem.load(row["uri"])
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(80), atol=1e-4)
    recipe = OmegaConf.load(RECIPES / f"{name}.yaml")
    kept = json.loads((tmp_path / "store/sweeps/tiny/runs/2x/monosem.json").read_text())["config"]
    for key in recipe.sae:
        if key not in ("k", "aux_k"):
            value = kept["sae"][key]
            assert (value[0] if isinstance(value, list) and key != "prefixes" else value) == recipe.sae[key], key


def test_the_job_file_goes_before_its_recipe_and_overrides_before_both(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("recipe: april-2024\nsae: {l1_coefficient: 3}\ntrain: {steps: 10}\n")
    job = load_job(SweepJob, str(path), ["train.lr=0.5"])
    assert (job.sae.l1_coefficient, job.sae.l1_weight, job.train.steps, job.train.lr) == ([3.0], "decoder_norm", 10, 0.5)
    assert job.train.lr_decay == 0.2 and job.recipe == "april-2024"
    assert load_job(SweepJob, str(path), ["recipe=topk-openai"]).train.eps == 6.25e-10
