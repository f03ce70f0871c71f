"""Transcoders in a sweep: two hook points read in step, and what is measured is the target."""

import json

import numpy as np
import pytest
import torch

import monosem
from monosem.config.job import HostConfig
from monosem.evals.recovered import RecoveredMeter
from monosem.evals.sparsity import measure_sparsity
from monosem.host.model import next_token_loss
from monosem.host.stored import load_host
from monosem.stages.listing import all_rows
from monosem.store.store import open_store
from tests.conftest import digests, dying_after, run_cli

THROUGH_THE_MLP = ("host.hook_point=resid_mid", "sae.target=mlp.out")


@pytest.fixture
def sweep(tiny_job, tmp_path):
    def run(store: str, *more: str) -> int:
        return run_cli("sweep", tiny_job, *THROUGH_THE_MLP, *more, f"store={tmp_path / store}", "--inline")

    return run


@pytest.mark.parametrize("more", [(), ("sae.skip=true", "sae.variant=topk", "sae.k=5", "train.input_scale=sqrt_d")])
def test_a_transcoder_learns_its_target_through_a_death(sweep, tmp_path, more):
    assert sweep("whole", *more) == 0
    with dying_after(33, "4x"):
        sweep("broken", *more)
    assert sweep("broken", *more) == 0
    assert digests(tmp_path / "whole") == digests(tmp_path / "broken") and len(digests(tmp_path / "whole")) == 2
    for row in all_rows(open_store(str(tmp_path / "whole"))):
        sae = monosem.load(row["uri"])
        assert sae.config.transcoder and sae.config.skip == bool(more) and sae.config.width_out == 24
        cfg = json.loads((tmp_path / f"whole/sweeps/tiny/runs/{row['run']}/cfg.json").read_text())
        names = cfg["metadata"]["hook_name"], cfg["metadata"]["hook_name_out"]
        assert names == ("blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out")


def test_target_in_another_space(sweep, tmp_path):
    """From the residual stream, 24 wide, to the 40 neurons."""
    assert sweep("store", "sae.target=mlp.post", "train.resample_steps=[]", "train.steps=300") == 0
    for row in all_rows(open_store(str(tmp_path / "store"))):
        sae = monosem.load(row["uri"])
        assert (sae.config.d_in, sae.config.width_out) == (24, 40) and row["fvu"] < 0.4


def test_what_is_measured_is_the_target(sweep, tmp_path, tiny_host):
    """FVU and spliced loss by hand; `monosem evaluate` gives what the sweep wrote."""
    assert sweep("store", "sae.expansion_factor=2", "sae.skip=true") == 0
    [row] = all_rows(open_store(str(tmp_path / "store")))
    sae, model = monosem.load(row["uri"]), load_host(HostConfig(model=tiny_host)).model
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 300, (6, 32)))
    found = model.capture(tokens, ["resid_mid", "mlp.out"])
    x, y = found["resid_mid"].flatten(0, 1), found["mlp.out"].flatten(0, 1)
    measured = measure_sparsity(sae, [(x, y)])
    error = (sae(x).double() - y).square().sum() / (y.double() - y.double().mean(0)).square().sum()
    assert measured.fvu == pytest.approx(float(error), rel=1e-6)
    meter = RecoveredMeter(model, [tokens[:4], tokens[4:]], "resid_mid", "mlp.out")
    out = model.unembed(model.norm_final(found["resid_mid"] + sae(found["resid_mid"])))
    assert meter.measure(sae).spliced == pytest.approx(float(next_token_loss(out, tokens)), rel=1e-5)
    zero = model.unembed(model.norm_final(found["resid_mid"]))
    assert meter.zero_ablated == pytest.approx(float(next_token_loss(zero, tokens)), rel=1e-5)


def test_evaluate_repeats_what_the_sweep_wrote(sweep, tmp_path, capfd):
    assert sweep("store", "sae.expansion_factor=2") == 0
    [row] = all_rows(open_store(str(tmp_path / "store")))
    capfd.readouterr()
    assert run_cli("evaluate", row["uri"], "--json") == 0
    again = json.loads(capfd.readouterr().out)
    assert again["fvu"] == row["fvu"] and again["loss_recovered"] == row["loss_recovered"]


def test_a_dataset_of_both_hook_points_gives_the_same_bits(sweep, tiny_job, tmp_path):
    assert sweep("live", f"stream.tee={tmp_path / 'rows'}") == 0
    assert sweep("stored", f"stream.from={tmp_path / 'rows'}") == 0
    assert digests(tmp_path / "live") == digests(tmp_path / "stored")


@pytest.mark.parametrize(
    "override, says",
    [
        ("sae.target=resid_mid", "sae.target=resid_mid: is also in host.hook_point"),
        ("sae.target=mlp.outt", "sae.target='mlp.outt': must be one of"),
        ("sae.init=transposed sae.target=mlp.post", "sae.init='transposed': d_in=24 and d_out=40 must be equal"),
        ("sae.target=null sae.skip=true", "sae.skip=True"),
    ],
)
def test_mistakes_are_one_line(sweep, capfd, override, says):
    assert sweep("store", *override.split()) == 2
    err = capfd.readouterr().err
    assert says in err and err.count("\n") == 1
