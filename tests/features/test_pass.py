"""The whole feature pass on a tiny sweep against a dense recomputation of every number; resuming; neurons; relations."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from monosem.config.job import FeaturesConfig
from monosem.features.ablate import ByContext
from monosem.features.examples import Examples
from monosem.features.merge import pick
from monosem.features.state import State, chosen_contexts
from monosem.features.tasks import run_task
from monosem.stages.features import plan_pass, run_features
from monosem.store.plain import sha256, unpack_json
from monosem.store.store import open_store
from tests.conftest import run_cli
from tests.features.brute import check_examples, check_feature, dense

SMALL = ["features.slice_tokens=256", "features.slice_features=64", "features.tokens=1_500", "features.sample=100",
         "features.texts=4", "features.text_tokens=20"]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tiny_host, text_file, tmp_path_factory):
    """A store with a finished sweep and its features."""
    path = tmp_path_factory.mktemp("features")
    job = path / "job.yaml"
    job.write_text(
        f"""
name: tiny
store: {path / "store"}
host: {{model: {tiny_host}, hook_point: mlp.post}}
corpus: {{source: {text_file}, context_length: 32, heldout_fraction: 0.1}}
stream: {{rows_per_context: 16, shuffle_rows: 1024, contexts_per_item: 4}}
sae: {{variant: [relu, topk], expansion_factor: [1, 4], l1_coefficient: 0.001, k: 6}}
train: {{steps: 60, batch_size: 64, lr: 0.003, init_rows: 256, checkpoint_every: 60}}
learner: {{threads: 1}}
evaluate: {{contexts: 8, rows: 256}}
track: {{wandb: disabled}}
"""
    )
    assert run_cli("sweep", job, "--inline", *SMALL) == 0
    return path / "store"


def config(**changes) -> FeaturesConfig:
    small = dict(item.removeprefix("features.").split("=") for item in SMALL)
    return FeaturesConfig(**{name: int(value) for name, value in small.items()} | changes)


def state_of(store_path, **changes) -> State:
    store = open_store(str(store_path))
    return State(plan_pass(store, "tiny", config(**changes), 1), store)


def read(directory, table: str) -> list[dict]:
    return [row for file in sorted(directory.glob(f"{table}-*.parquet")) for row in pq.read_table(file).to_pylist()]


def places(state: State, store_path):
    return [(i, store_path / state.plan.directory(i)) for i in range(len(state.plan.subjects))]


def test_every_number_equals_a_dense_recomputation(swept):
    state = state_of(swept)
    assert [s.name for s in state.plan.subjects] == ["1x-relu", "1x-topk", "4x-relu", "4x-topk", "neurons"]
    for i, directory in places(state, swept):
        d, rows, examples = dense(state, i), read(directory, "features"), read(directory, "examples")
        assert [row["feature"] for row in rows] == list(range(d.f.shape[1]))
        by_feature: dict[int, list[dict]] = {}
        for row in examples:
            by_feature.setdefault(row["feature"], []).append(row)
        for row in rows:
            k = row["feature"]
            check_feature(d, k, row)
            assert row["n_examples"] == len(by_feature.get(k, []))
            if k % 5 == 0:
                check_examples(d, k, by_feature.get(k, []))


@pytest.mark.parametrize("target", ["mlp.out", "resid_post"])
def test_importance_of_transcoders_is_a_share_of_what_they_write_to(swept, tmp_path, target):
    """And their browser is written, though what they read are neurons and what they write to are none."""
    job = ["host.hook_point=mlp.post", f"sae.target={target}", "sae.variant=relu", "sae.expansion_factor=1"]
    assert run_cli("sweep", swept.parent / "job.yaml", "--inline", *SMALL, *job, f"store={tmp_path}") == 0
    state = state_of(tmp_path)
    d, rows = dense(state, 0), read(tmp_path / state.plan.directory(0), "features")
    assert d.plan.subjects[0].write_point == target and len(rows) == 40
    variance = d.y.astype(np.float64).var(axis=0).sum()
    norm = d.state.sae(0).W_dec.double().norm(dim=1).numpy()
    importance = np.square(d.f.astype(np.float64) * norm).mean(axis=0) / variance
    np.testing.assert_allclose([row["importance"] for row in rows], importance, atol=1e-5)
    assert importance.max() > 1e-3 and any(row["correlated_neuron_r"] for row in rows)
    assert not any(row["correlated_neuron_cosines"] for row in rows)


@pytest.mark.parametrize("related", [1_500, 600])
def test_relations_equal_correlations_of_dense_activations(swept, tmp_path, related):
    shutil.copytree(swept, tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    wanted = config(related_tokens=related)
    run_features(store, "tiny", wanted, 1, lambda line: None)
    state = State(plan_pass(store, "tiny", wanted, 1), store)
    n = state.plan.related_tokens
    assert n == {1_500: 1472, 600: 512}[related]
    rows = pq.read_table(tmp_path / "store/sweeps/tiny/features/related.parquet").to_pylist()
    names = {s.name: i for i, s in enumerate(state.plan.subjects)}
    dense_of = {name: dense(state, i) for name, i in names.items()}
    for name, other in [("4x-relu", "1x-topk"), ("1x-relu", "4x-relu"), ("4x-topk", "4x-relu")]:
        a, b = (dense_of[k].f[:n].astype(np.float64) for k in (name, other))
        with np.errstate(invalid="ignore", divide="ignore"):
            r = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
        W, V = (torch.nn.functional.normalize(state.sae(names[k]).W_dec.double(), dim=1) for k in (name, other))
        cosine = (W @ V.T).numpy()
        r = np.where((a.T @ b > 0) & np.isfinite(r) & (r > 0), r, -1)
        for f in range(a.shape[1]):
            mine = [x for x in rows if (x["run"], x["feature"], x["other_run"]) == (name, f, other)]
            assert [x["rank"] for x in mine] == list(range(len(mine)))
            by_r = [x for x in mine if x["r"] is not None]
            np.testing.assert_allclose([x["r"] for x in by_r], [v for v in np.sort(r[f])[::-1][:3] if v > 0], atol=1e-5)
            np.testing.assert_allclose([x["r"] for x in by_r], [r[f, x["other_feature"]] for x in by_r], atol=1e-5)
            np.testing.assert_allclose([x["cosine"] for x in mine], [cosine[f, x["other_feature"]] for x in mine], atol=1e-5)
            assert any(abs(x["cosine"] - cosine[f].max()) < 1e-5 for x in mine)


def test_positions_that_are_left_out_of_the_stream_count_nowhere(swept, tmp_path):
    skip = ["stream.skip_positions=2", "stream.skip_special=true", "sae.variant=relu", f"store={tmp_path}"]
    assert run_cli("sweep", swept.parent / "job.yaml", "--inline", *SMALL, *skip) == 0
    state = state_of(tmp_path)
    kept = state.kept(np.arange(state.plan.n_contexts)).reshape(-1)
    T, end = state.plan.context_length, state.host(0).tokenizer.token_to_id(state.host(0).end_token)
    tokens = dense(state, 0).tokens
    assert (kept == ((np.arange(len(kept)) % T >= 2) & (tokens != end))).all() and (tokens[np.arange(len(kept)) % T >= 2] == end).any()
    correlated = kept[: state.plan.related_tokens]
    related = pq.read_table(tmp_path / "sweeps/tiny/features/related.parquet").to_pylist()
    a, b = (dense(state, i).f[: len(correlated)][correlated].astype(np.float64) for i in (0, 1))
    for i, directory in places(state, tmp_path):
        f = dense(state, i).f[kept]
        rows, examples = (read(directory, table) for table in ("features", "examples"))
        texts = pq.read_table(directory / "texts.parquet").to_pylist()
        assert [row["n_active"] for row in rows] == (f > 0).sum(axis=0).tolist()
        np.testing.assert_allclose([row["density"] for row in rows], (f > 0).mean(axis=0), atol=1e-12)
        np.testing.assert_allclose([row["max_activation"] for row in rows], f.max(axis=0), rtol=1e-6)
        assert examples and all(row["position"] >= 2 for row in examples)
        assert not any(row["features"] for row in texts if row["position"] < 2) and any(row["features"] for row in texts)
    found = [row for row in related if row["run"] == "1x" and row["r"] is not None]
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
    assert found
    np.testing.assert_allclose([row["r"] for row in found], [r[row["feature"], row["other_feature"]] for row in found], atol=1e-5)


@pytest.mark.parametrize("n, available, per_slice", [(1000, 10**6, 100), (1000, 1000, 100), (7, 5, 3), (2, 1, 1), (3, 3, 8)])
def test_each_slice_of_a_pass_is_a_sample_of_the_corpus(n, available, per_slice):
    """The first ones too: correlations are over these, and a corpus is often sorted."""
    found = chosen_contexts(3, available, n, per_slice)
    assert len(set(found.tolist())) == len(found) == min(n, available) and found.min() >= 0 and found.max() < available
    for lo in range(0, len(found), per_slice):
        part = found[lo : lo + per_slice]
        assert (np.diff(part) > 0).all()
        if per_slice == 100:  # means of 100 uniform numbers: five standard deviations
            assert abs(part.mean() / available - 0.5) < 5 * (1 / 12 / 100) ** 0.5


def test_the_norm_s_scale_is_a_mean_over_rows_with_numbers(swept, monkeypatch):
    state = state_of(swept)
    unit = state.plan.units(0)[0]
    path, whole = state.direct(unit)
    model, capture = state.host(0).model, state.host(0).model.capture

    def spoilt(tokens, points):
        found = capture(tokens, points)
        found[path.last][0, 3] = float("nan")
        return found

    monkeypatch.setattr(model, "capture", spoilt)
    scale = State(state.plan, state.store)
    scale._hosts = state._hosts
    assert scale.direct(unit)[1] == pytest.approx(whole, rel=0.05) and scale.direct(unit)[1] != whole


class Killed(BaseException):
    """Stands for the death of the process."""


def published(store_path) -> dict[str, bytes]:
    files = [*store_path.glob("sweeps/tiny/features/**/*"), *store_path.glob("sweeps/tiny/runs/*/features/*")]
    return {str(f.relative_to(store_path)): f.read_bytes() for f in files if f.is_file()}


def test_a_killed_pass_goes_on_to_the_same_bytes(swept, tmp_path, monkeypatch):
    """Killed after every task in turn; and no task that was done is done again."""
    for directory in [swept / "sweeps/tiny/features", *swept.glob("sweeps/tiny/runs/*/features")]:
        assert directory.is_dir()
    shutil.copytree(swept, tmp_path / "store", ignore=shutil.ignore_patterns("features"))
    store, done = open_store(str(tmp_path / "store")), []

    def one_task(state, phase, number):
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
        run_task(state, phase, number)
        assert all(path.stat().st_mtime_ns == at for path, at in files.items())
        if (phase, number) not in done:
            done.append((phase, number))
            raise Killed

    monkeypatch.setattr("monosem.stages.features.run_task", one_task)
    for _ in range(100):
        try:
            run_features(store, "tiny", config(), 1, lambda line: None)
            break
        except Killed:
            continue
    assert len(done) == len(set(done)) >= 12 and {phase for phase, _ in done} == {"collect", "merge", "relate"}
    assert published(tmp_path / "store") == published(swept)


def test_what_is_finished_is_not_done_again(swept, monkeypatch):
    def never(*_):
        raise AssertionError("a task was run")

    monkeypatch.setattr("monosem.stages.features.run_task", never)
    lines = []
    assert not run_features(open_store(str(swept)), "tiny", config(), 1, lines.append)
    assert "finished" in lines[0]


def test_contexts_run_again_give_the_same_effects(swept):
    """Ablation by token and by whole contexts; the second way works at any hook point of any host."""
    state = state_of(swept)
    unit = state.plan.units(2)[0]
    found = pick(state_entries(state, unit), unit.lo, state.plan.choice, state.plan.context_length)
    few = np.flatnonzero(found.examples.feature % 7 == 0)
    examples = Examples(*(getattr(found.examples, name)[few] for name in Examples.__annotations__))
    W = state.sae(2).W_dec[unit.lo : unit.hi]
    by_token = state.ablation(unit).effects(examples, found.entries, W)
    by_context = ByContext(state.ablation(unit).host).effects(examples, found.entries, W)
    assert len(few) > 100 and np.abs(by_token.loss).max() > 1e-4
    np.testing.assert_allclose(by_context.loss, by_token.loss, atol=2e-6)
    np.testing.assert_allclose(by_context.up_values, by_token.up_values, atol=2e-6)
    np.testing.assert_allclose(by_context.down_values, by_token.down_values, atol=2e-6)


def state_entries(state: State, unit):
    from monosem.features.tiles import active_entries

    rows = torch.from_numpy(dense(state, unit.subject).x)
    return active_entries(state.sae(unit.subject), rows).slice(unit.lo, unit.hi)


@pytest.mark.parametrize(
    "uri, overrides, said",
    [
        ("{store}/nothing", [], "no sweep 'nothing'"),
        ("{store}/sweeps/tiny/runs/9x", [], "no run '9x'; it has 1x-relu"),
        ("tiny", [], "write STORE/SWEEP"),
        ("{store}/tiny", ["train.steps=3"], "only features.*, learner.threads and stream.workers can be changed"),
        ("{store}/tiny", ["features.token=3"], "did you mean features.tokens?"),
        ("{store}/tiny", ["features.compare=[/nowhere]"], "features.compare='/nowhere': no finished dictionary there"),
        ("{store}/tiny", ["features.side=left"], "must be one of train, heldout"),
        ("{store}/tiny", ["features.tokens=-3"], "override 'features.tokens=-3': features.tokens=-3: must be at least"),
    ],
)
def test_mistakes_get_one_line(swept, capsys, uri, overrides, said):
    assert run_cli("features", uri.format(store=swept), *overrides) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_data_view_lists_every_active_feature(swept):
    state = state_of(swept)
    for i, directory in places(state, swept):
        d, rows = dense(state, i), pq.read_table(directory / "texts.parquet").to_pylist()
        numbers = {int(context): n for n, context in enumerate(state.contexts)}
        assert len(rows) == 4 * 20
        for row in rows:
            p = numbers[row["context"]] * 32 + row["position"]
            on = np.flatnonzero(d.f[p] > 0)
            assert row["token"] == d.tokens[p] and sorted(row["features"]) == on.tolist()
            assert row["activations"] == sorted(row["activations"], reverse=True)
            np.testing.assert_allclose(row["activations"], d.f[p][row["features"]], atol=1e-6)


def test_vocab_and_manifests(swept):
    state = state_of(swept)
    vocab = pq.read_table(swept / "sweeps/tiny/features/vocab.parquet").to_pylist()
    assert sum(row["count"] for row in vocab) == state.plan.tokens == 1472 and vocab[0]["text"] == "<|endoftext|>"
    tokenizer = state.host(0).tokenizer
    ids = tokenizer.encode("every bridge, caf\u00e9 \u0627").ids
    assert "".join(vocab[t]["text"] for t in ids).replace("\\xc3\\xa9", "\u00e9").startswith("every bridge, caf\u00e9 ")
    manifest = unpack_json((swept / "sweeps/tiny/runs/4x-relu/features/manifest.json").read_bytes(), "manifest")
    assert manifest["tokens"] == 1472 and manifest["ablations"] == "exact" and manifest["domains"] == ["toy"]
    for name, digest in manifest["files"].items():
        assert sha256((swept / "sweeps/tiny/runs/4x-relu/features" / name).read_bytes()) == digest
