import numpy as np
import pytest
import torch

from monosem.config.job import EvalConfig
from monosem.evals.evaluate import Evaluator
from monosem.evals.recovered import RecoveredMeter
from monosem.evals.sparsity import Sparsity, density_histogram, measure_sparsity
from monosem.host.model import next_token_loss
from monosem.host.stored import load_host
from monosem.rows.permute import EVALUATION, drawn
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae
from monosem.sae.model import Sae
from monosem.text.domains import MOST, OTHERS, counted_domains
from monosem.text.selection import Skipped
from monosem.text.tokens import TokenIndex

D = 40


@pytest.fixture(scope="module")
def model(tiny_host):
    return load_host(tiny_host).model


def batches(n=3):
    rng = np.random.default_rng(1)
    return [torch.from_numpy(rng.integers(0, 300, (4, 32))) for _ in range(n)]


def perfect() -> Sae:
    """Neurons as features: x = relu(x) where x is not negative."""
    return Sae(SaeConfig(d_in=D, d_sae=D), torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D))


def silent() -> Sae:
    return Sae(SaeConfig(d_in=D, d_sae=D), torch.eye(D), torch.full((D,), -1e9), torch.eye(D), torch.zeros(D))


def test_a_perfect_dictionary_recovers_all_and_a_silent_one_nothing(model):
    meter = RecoveredMeter(model, batches(), "mlp.post")
    assert meter.measure(perfect()).loss_recovered == pytest.approx(1, abs=1e-5)
    assert meter.measure(silent()).loss_recovered == pytest.approx(0, abs=1e-5)


def test_spliced_loss_equals_a_forward_pass_by_hand(model):
    sae = init_sae(SaeConfig(d_in=D, d_sae=80), torch.rand(D))
    xs = batches()
    measured = RecoveredMeter(model, xs, "mlp.post").measure(sae)
    spliced, zero = [], []
    for x in xs:
        mid = model.capture(x, ["resid_mid"])["resid_mid"]
        for out, post in ((spliced, sae(model.capture(x, ["mlp.post"])["mlp.post"])), (zero, torch.zeros(4, 32, D))):
            out.append(float(next_token_loss(model.unembed(model.norm_final(mid + model.mlp_out(post))), x)))
    assert measured.spliced == pytest.approx(np.mean(spliced), rel=1e-5)
    assert measured.zero_ablated == pytest.approx(np.mean(zero), rel=1e-5)
    assert measured.clean == pytest.approx(np.mean([float(next_token_loss(model(x), x)) for x in xs]), rel=1e-6)


@pytest.mark.parametrize("chunk", [1 << 26, 80, 200])
def test_sparsity_figures_equal_brute_force(monkeypatch, chunk):
    monkeypatch.setattr("monosem.evals.sparsity.CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr("monosem.evals.sparsity.COUNTED_ELEMENTS", chunk // 3)
    torch.manual_seed(0)
    sae = init_sae(SaeConfig(d_in=D, d_sae=80), torch.rand(D))
    sae.b_enc[:10] = -1e9
    x = torch.randn(100, D) + 3
    found = measure_sparsity(sae, [(x[:30], x[:30]), (x[30:], x[30:])])
    f, xd = sae.encode(x), x.double()
    assert found.rows == 100 and found.l0 == pytest.approx(float((f > 0).sum() / 100))
    assert found.fvu == pytest.approx(
        float((sae.decode(f).double() - xd).square().sum() / (xd - xd.mean(0)).square().sum())
    )
    assert torch.equal(found.density_F, (f > 0).double().mean(0))
    assert found.dead_fraction == float((found.density_F == 0).double().mean()) >= 0.125


def test_density_histogram_counts_every_alive_feature():
    density = torch.tensor([0.0, 1e-9, 1e-3, 0.02, 0.02, 1.0], dtype=torch.float64)
    h = density_histogram(density)
    assert h["dead"] == 1 and sum(h["counts"]) == 5 and len(h["edges"]) == len(h["counts"]) + 1
    bins = {round(e, 2): n for e, n in zip(h["edges"], h["counts"], strict=False) if n}
    assert bins == {-7.0: 1, -3.0: 1, -1.75: 2, -0.25: 1}


def test_ultralow_is_measured_where_there_are_rows_enough():
    density = torch.tensor([0.0, 4e-7, 9.9e-7, 1e-6, 0.3], dtype=torch.float64)
    assert Sparsity(10**6, 1.0, 0.1, density).ultralow_fraction == 2 / 5
    assert Sparsity(10**6 - 1, 1.0, 0.1, density).ultralow_fraction is None


def test_evaluator_reads_the_asked_number_of_rows(model):
    tokens = np.random.default_rng(0).integers(0, 300, (40, 32)).astype(np.uint16)
    index = TokenIndex(tokens, np.zeros(1, np.int64), np.zeros(1, np.int32), ("",))
    evaluator = Evaluator(model, index, "mlp.post", EvalConfig(contexts=5, rows=100))
    metrics = evaluator.measure(perfect()).metrics
    assert metrics["heldout_rows"] == 100 and metrics["fvu"] == pytest.approx(0, abs=1e-9)
    chosen = tokens[np.sort(drawn(4, 40, 0, EVALUATION))].astype(np.int64)
    x = model.capture(torch.from_numpy(chosen), ["mlp.post"])["mlp.post"].flatten(0, 1)[:100]
    assert metrics["l0"] == pytest.approx(float((x > 0).sum() / 100)) == evaluator.neurons["l0"]


def test_kl_mean_ablation_and_neurons_equal_brute_force(model):
    """Of a dictionary that is neither perfect nor silent, on text with two domains."""
    tokens = np.random.default_rng(0).integers(0, 300, (6, 32)).astype(np.uint16)
    index = TokenIndex(tokens, np.array([0, 70]), np.array([1, 0], np.int32), ("code", "prose"))
    torch.manual_seed(3)
    sae = init_sae(SaeConfig(d_in=D, d_sae=80), torch.rand(D))
    evaluator = Evaluator(model, index, "mlp.post", EvalConfig(contexts=6, rows=6 * 32 - 10))
    metrics = evaluator.measure(sae).metrics
    t = torch.from_numpy(tokens.astype(np.int64))
    mid = model.capture(t, ["resid_mid"])["resid_mid"]
    x = model.capture(t, ["mlp.post"])["mlp.post"]

    def logits(post):
        return model.unembed(model.norm_final(mid + model.mlp_out(post))).double()

    def loss(y):
        return float(torch.nn.functional.cross_entropy(y[:, :-1].flatten(0, 1), t[:, 1:].flatten()))

    p, q, z = (logits(post).log_softmax(-1) for post in (x, sae(x), torch.zeros_like(x)))
    assert metrics["kl_divergence"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=1e-6)
    assert metrics["kl_zero_ablated"] == pytest.approx(float((p.exp() * (p - z)).sum(-1).mean()), abs=1e-6)
    assert metrics["loss_mean_ablated"] == pytest.approx(loss(logits(x.mean(dim=(0, 1)).expand_as(x))), abs=1e-6)
    rows = x.flatten(0, 1)[:-10]
    y, y_hat, f = rows.double(), sae(rows).double(), sae.encode(rows)
    assert metrics["cosine"] == pytest.approx(float(torch.nn.functional.cosine_similarity(y, y_hat).mean()), abs=1e-6)
    assert metrics["shrinkage"] == pytest.approx(float((y_hat.norm(dim=1) / y.norm(dim=1)).mean()), abs=1e-6)
    bias = y_hat.square().sum(1).mean() / (y * y_hat).sum(1).mean()
    assert metrics["reconstruction_bias"] == pytest.approx(float(bias), abs=1e-6)
    assert metrics["mse"] == pytest.approx(float((y - y_hat).square().sum(1).mean()), abs=1e-6)
    assert metrics["explained_variance"] == pytest.approx(1 - metrics["fvu"])
    assert metrics["dense_fraction"] == float(((f > 0).double().mean(0) > 0.01).double().mean())
    assert metrics["neurons"]["l0"] == metrics["neurons_l0"] == pytest.approx(float((rows > 0).sum() / len(rows)))
    assert list(metrics["domains"]) == ["code", "prose"]  # the longer one first
    for name, part in (("prose", slice(0, 70)), ("code", slice(70, None))):
        of = y[part] - y[part].mean(0)
        found = metrics["domains"][name]
        assert found["rows"] == len(y[part])
        assert found["l0"] == pytest.approx(float((f[part] > 0).sum() / len(y[part])))
        fvu = float((y[part] - y_hat[part]).square().sum() / of.square().sum())
        assert found["fvu"] == pytest.approx(fvu, abs=1e-6)


def test_figures_are_of_the_whole_held_out_side_though_it_is_sorted(model):
    """As a corpus of several files is."""
    tokens = np.random.default_rng(0).integers(0, 300, (300, 32)).astype(np.uint16)
    index = TokenIndex(tokens, np.arange(3) * 100 * 32, np.arange(3, dtype=np.int32), ("arabic", "dna", "english"))
    evaluator = Evaluator(model, index, "mlp.post", EvalConfig(contexts=60, rows=60 * 32))
    rows = {name: found["rows"] for name, found in evaluator.measure(perfect()).metrics["domains"].items()}
    assert sum(rows.values()) == 60 * 32 and min(rows.values()) > 9 * 32 and len(rows) == 3
    lost = {int(np.flatnonzero((tokens == batch.numpy()).all(axis=1))[0]) // 100
            for tokens_BT in evaluator.meter.batches for batch in tokens_BT}  # fmt: skip
    assert lost == {0, 1, 2}


def test_skipped_positions_give_no_rows_and_are_left_as_they_are(model):
    """A dictionary that is right at all other positions loses nothing, whatever it makes of those."""
    tokens = np.random.default_rng(0).integers(1, 300, (6, 32)).astype(np.uint16)
    tokens[:, 9] = 0
    index = TokenIndex(tokens, np.zeros(1, np.int64), np.zeros(1, np.int32), ("",))
    skipped = Skipped(2, frozenset([0]))
    kept = np.ones((6, 32), bool)
    kept[:, [0, 1, 9]] = False
    assert (skipped.kept(tokens) == kept).all()
    evaluator = Evaluator(model, index, "mlp.post", EvalConfig(contexts=6, rows=6 * 29), skipped=skipped)
    t = torch.from_numpy(tokens.astype(np.int64))
    x = model.capture(t, ["mlp.post"])["mlp.post"]
    sink = x[:, [0, 1, 9]].flatten(0, 1)

    class Wrong(Sae):
        def forward(self, rows):
            at_sink = (rows[:, None, :] == sink[None]).all(-1).any(1)
            return torch.where(at_sink[:, None], torch.full_like(rows, 50.0), rows)

    right = perfect()
    found, metrics = evaluator.meter.measure(Wrong(right.config, **right.tensors())), evaluator.measure(right).metrics
    assert metrics["heldout_rows"] == 6 * 29
    assert found.spliced == found.clean and found.kl == 0
    rows = x[torch.from_numpy(kept)]
    assert metrics["l0"] == pytest.approx(float((rows > 0).sum() / len(rows))) == metrics["neurons_l0"]

    def ablated(instead):
        edit = {"mlp.post": lambda y: torch.where(torch.from_numpy(kept)[..., None], instead.expand_as(y).to(y), y)}
        return float(next_token_loss(model(t, edit), t))

    assert metrics["loss_zero_ablated"] == pytest.approx(ablated(torch.zeros(D)), abs=1e-6)
    assert metrics["loss_mean_ablated"] == pytest.approx(ablated(rows.double().mean(0)), abs=1e-6)


def test_a_corpus_without_labels_has_no_domains(model):
    tokens = np.random.default_rng(0).integers(0, 300, (4, 32)).astype(np.uint16)
    index = TokenIndex(tokens, np.zeros(1, np.int64), np.zeros(1, np.int32), ("",))
    metrics = Evaluator(model, index, "mlp.post", EvalConfig(contexts=2, rows=64)).measure(perfect()).metrics
    assert metrics["domains"] == {}


def test_a_row_of_zeros_spoils_no_figure():
    x = torch.cat([torch.zeros(2, D), torch.rand(3, D)])
    found = measure_sparsity(perfect(), [(x, x)])
    assert found.cosine == pytest.approx(3 / 5) and found.shrinkage == pytest.approx(3 / 5)


def test_rare_domains_are_counted_together():
    n = MOST + 5
    tokens = np.zeros((n, 4), np.uint16)
    starts = np.arange(n) * 4
    index = TokenIndex(tokens, starts, np.arange(n, dtype=np.int32), tuple(f"d{i}" for i in range(n)))
    names, domain = counted_domains(index, np.arange(n))
    assert names == [f"d{i}" for i in range(MOST)] + [OTHERS]
    assert domain[:, 0].tolist() == [min(i, MOST) for i in range(n)] and (domain == domain[:, :1]).all()


def test_contexts_without_numbers_are_left_out(tiny_host):
    """A token whose embedding is NaN: the contexts that it is in count for nothing, of the others nothing changes."""
    broken, xs = load_host(tiny_host).model, batches()
    with torch.no_grad():
        broken.embed.weight[299] = float("nan")
    for tokens in xs:
        tokens[tokens == 299] = 0
    expected = RecoveredMeter(broken, [xs[0][1:], xs[1]], "mlp.post").measure(silent())
    xs[0][0, 5] = 299
    xs[2][:, 7] = 299
    meter = RecoveredMeter(broken, xs, "mlp.post")
    assert meter.measure(silent()) == expected and meter.contexts == 7
    nothing = RecoveredMeter(broken, xs[2:], "mlp.post").measure(silent())
    assert np.isnan(nothing.clean) and np.isnan(nothing.kl) and np.isnan(nothing.loss_recovered)


def test_a_hook_point_that_is_worth_nothing_has_no_ratio(tiny_host):
    dull = load_host(tiny_host).model
    with torch.no_grad():
        dull.mlp_out.weight.zero_()
    assert np.isnan(RecoveredMeter(dull, batches(), "mlp.post").measure(silent()).loss_recovered)
