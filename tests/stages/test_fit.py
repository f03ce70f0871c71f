"""`monosem fit` over a real sweep: the table, the page, the document."""

import json

from monosem.evals.laws import fit_power_law
from tests.conftest import run_cli

AXES = ("sae.variant=[relu,topk]", "sae.expansion_factor=[1,2,4]", "sae.k=[4,16]", "track.wandb=disabled")


def test_laws_fronts_and_the_next_run(tiny_job, tmp_path, capfd):
    assert run_cli("sweep", tiny_job, *AXES, "--inline") == 0
    capfd.readouterr()
    assert run_cli("fit", tmp_path / "store/tiny") == 0
    out = capfd.readouterr().out
    assert "relu on mlp.post (l1_coefficient=0.001), 3 runs" in out and "topk on mlp.post (k=4), 6 runs" in out
    assert "fvu       ~ compute^" in out and out.count("next: ") == 2 and max(map(len, out.splitlines()[:-1])) <= 80
    assert run_cli("fit", f"{tmp_path}/store/sweeps/tiny/", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    for group in found["groups"]:
        [(name, value)] = group["asked"].items()
        same = [r for r in group["runs"] if r[name] == value]
        law = fit_power_law([r["compute"] for r in same], [r["fvu"] for r in same])
        assert law.n == 3 and group["laws"]["fvu"]["b"] == law.b
        assert all(r["compute"] == 10 * r["rows"] * r["d_in"] * r["d_sae"] for r in same)
    page = (tmp_path / "store/sweeps/tiny/fit.html").read_text()
    assert page.count("<svg") == 6 and "Content-Security-Policy" in page and "http-equiv" in page


def test_what_cannot_be_fitted_is_one_line(tiny_job, tmp_path, capfd):
    assert run_cli("sweep", tiny_job, "sae.expansion_factor=1", "--inline") == 0
    capfd.readouterr()
    for uri, says in [
        (f"{tmp_path}/store/tiny", "1 finished runs; a fit needs at least 2"),
        (f"{tmp_path}/store/nope", "no sweep 'nope'"),
        ("tiny", "write STORE/SWEEP"),
    ]:
        assert run_cli("fit", uri) == 2
        err = capfd.readouterr().err
        assert says in err and err.count("\n") == 1
