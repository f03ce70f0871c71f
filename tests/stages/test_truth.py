"""`monosem truth`: every variant finds known features in a small exam, and bad exams are refused in a line."""

import json

import pytest

from tests.conftest import run_cli

EXAM = """
truth: {features: 64, d_in: 32, active: 3.0}
sae: {expansion_factor: 4, k: 3, init: transposed}
train: {steps: 900, batch_size: 256, lr: 0.003, lr_decay: 0.3, dead_rows: 10000, init_rows: 1024}
learner: {threads: 1}
rows: 8192
"""
KINDS = {
    "topk": ["sae.variant=topk"],
    "batch_topk": ["sae.variant=batch_topk", "train.steps=2500"],
    "matryoshka": ["sae.variant=matryoshka", "sae.prefixes=[0.5,1.0]", "train.steps=3000", "train.lr=0.004"],
    "relu": ["sae.l1_coefficient=0.02", "sae.init=kaiming", "train.steps=1500"],
    "april": ["sae.error=sum", "sae.decoder=free", "sae.init_norm=0.1", "sae.subtract_b_dec=false", "train.steps=1500",
              "sae.l1_weight=decoder_norm", "sae.l1_coefficient=0.8", "train.sparsity_warmup=0.05", "train.clip_norm=1"],
    "jumprelu": ["sae.variant=jumprelu", "sae.error=sum", "sae.bandwidth=0.5", "sae.threshold_init=0.1", "sae.init=kaiming",
                 "sae.l0_coefficient=0.15", "train.sparsity_warmup=0.1", "train.steps=2000"],
    "gated": ["sae.variant=gated", "sae.error=sum", "sae.l1_coefficient=1.5", "train.sparsity_warmup=0.1",
              "train.steps=1500"],
}  # fmt: skip


@pytest.fixture
def exam(tmp_path):
    path = tmp_path / "exam.yaml"
    path.write_text(EXAM)
    return path


def marks(capfd, exam, *more) -> list[dict]:
    assert run_cli("truth", exam, "--json", *more) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("kind", KINDS)
def test_every_variant_finds_what_is_there(capfd, exam, kind):
    [row] = marks(capfd, exam, *KINDS[kind])
    assert row["features"] == 64 and row["d_sae"] == 128
    assert row["recovered"] >= 0.95 and row["mcc"] > 0.95, row
    assert row["fvu"] < 0.3, row


def test_runs_share_the_rows_and_get_the_marks_they_have_alone(capfd, exam):
    both = marks(capfd, exam, "sae.variant=[topk,relu]", "train.steps=50", "sae.seed=[0,1]")
    assert [row["run"] for row in both] == ["4x-topk-seed_0", "4x-topk-seed_1", "4x-relu-seed_0", "4x-relu-seed_1"]
    [alone] = marks(capfd, exam, "sae.variant=topk", "train.steps=50", "sae.seed=1")
    assert both[1] | {"run": ""} == alone | {"run": ""}


def test_the_table_fits_and_explains(capfd, exam):
    assert run_cli("truth", exam, "train.steps=30", "train.resample_steps=[10]", "train.resample_window=10",
                   "train.resample_rows=2000") == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "found" in out and "64 true features" in out


@pytest.mark.parametrize(
    "override, says",
    [
        ("truth.active=40", "truth.active=40.0: too many for 64 features"),
        ("truth.active=0.001", "no feature is active on 0.001"),
        ("truth.zipff=1", "did you mean truth.zipf?"),
        ("learner.slots=3", "learner.slots=3: must divide train.batch_size=256"),
        ("learner.feature_shards=2", "learner.feature_shards=2: an exam trains in one process"),
        ("learner.replicas=0", "learner.replicas=0: an exam trains in one process"),
        ("learner.exchange=ring", "learner.exchange=ring: an exam trains in one process"),
        ("train.resample_steps=[10,900]", "train.resample_steps=[10, 900]: 900 is not before train.steps=900"),
        ("sae.k=200", "sae.k=200: expansion factor 4 has only 128 features"),
    ],
)
def test_bad_exams_are_one_line(capfd, exam, override, says):
    assert run_cli("truth", exam, "sae.variant=topk", override) == 2
    err = capfd.readouterr().err
    assert says in err and err.count("\n") == 1
