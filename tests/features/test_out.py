"""Features out of the store: the tables in a notebook, files of Neuronpedia and SAEDashboard, the rubric's marks."""

import gzip
import json
import shutil
import subprocess
import sys

import pytest

import monosem
from monosem.errors import InputError, IntegrityError
from monosem.features import export
from monosem.features.rubric import total
from monosem.features.schema import RUBRIC, TABLES
from tests.conftest import run_cli
from tests.features.test_pass import swept  # noqa: F401  (a fixture)


def test_tables_in_a_notebook(swept):  # noqa: F811
    found = monosem.features(f"{swept}/sweeps/tiny/runs/4x-relu")
    for name, columns in TABLES.items():
        assert getattr(found, name).column_names == [c.name for c in columns], name
    assert len(found.features) == 160 and set(found.related["run"].to_pylist()) == {"4x-relu"}
    alive = found.features.filter(found.features["n_examples"].to_numpy() > 0)["feature"][0].as_py()
    example = found.of(alive).to_pylist()[0]
    assert found.text(example["tokens"]) in "".join(found.words[t] for t in example["tokens"])
    assert monosem.features(f"{swept}/sweeps/tiny/features/neurons").manifest["kind"] == "neurons"
    assert "4x-relu" in repr(found)


def test_no_features_there(tmp_path, swept):  # noqa: F811
    with pytest.raises(InputError, match="no features there; make them with: monosem features"):
        monosem.features(str(tmp_path))
    with pytest.raises(InputError, match="no features there"):
        monosem.features(f"{swept}/sweeps/tiny")
    with pytest.raises(InputError, match=r"neurons are at .*/sweeps/tiny/features/neurons"):
        monosem.features(f"{swept}/sweeps/tiny/runs/neurons")


def test_a_pass_of_nothing_is_refused(capsys):
    assert run_cli("features", "features.tokens=640") == 2
    assert "of which sweep or run?" in capsys.readouterr().err


def test_a_browser_of_earlier_tables_is_told(tmp_path, swept, capsys):  # noqa: F811
    store = shutil.copytree(swept, tmp_path / "store")
    for overrides, notes in (([], 0), (["features.tokens=640"], 1)):
        assert run_cli("features", store / "sweeps/tiny/runs/1x-relu", *overrides) == 0
        said = capsys.readouterr().out
        assert said.count("shows the tables from before") == notes, said
    command = said.splitlines()[-1].split()
    assert run_cli(*command[1:]) == 0 and capsys.readouterr().out.startswith("browser: ")


def test_damaged_tables_are_refused(tmp_path, swept):  # noqa: F811
    import shutil

    shutil.copytree(swept, tmp_path / "store")
    run = tmp_path / "store/sweeps/tiny/runs/1x-relu"
    file = run / "features/features-00000.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="does not match its digest"):
        _ = monosem.features(str(run)).features


def test_calling_the_package_stays_light():
    code = "import sys, monosem; monosem.features; print(*{'torch', 'ray', 'pyarrow', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def read_gzip(path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def check_bins(feature: dict, examples: list[dict], row: dict) -> None:
    """One bin for a group, as Neuronpedia shows them: the weakest of the sample by its share of the sample."""
    bins = {}
    for a, e in zip(feature["activations"], examples, strict=True):
        bins.setdefault(e["group"], set()).add((a["bin_min"], a["bin_max"], a["bin_contains"]))
    assert all(len(found) == 1 for found in bins.values()), bins
    weakest = [e["activations"][e["centre"]] for e in examples if e["group"] == 12]
    if weakest:
        [found] = bins[12]
        share = len(weakest) / sum(row["act_hist_counts"])
        assert found == (0.0, pytest.approx(max(weakest), abs=1e-5), pytest.approx(share, abs=1e-5)) and share > 0


def test_what_neuronpedia_requires_of_its_rows(swept, tmp_path, monkeypatch):  # noqa: F811
    """Columns that its database requires, and accounts that are in it."""
    uri, asked = swept / "sweeps/tiny/runs/1x-relu", [([], "mine", "mine"), (["--creator-id", "her"], "mine", "her")]
    for number, (more, environment, wanted) in enumerate(asked):
        monkeypatch.setenv("DEFAULT_CREATOR_ID", environment)
        assert run_cli("pull", uri, tmp_path / str(number), "--format", "neuronpedia", *more) == 0
        files = [p for p in (tmp_path / str(number)).rglob("*") if p.is_file()]
        rows = {p: read_gzip(p) if p.suffix == ".gz" else [json.loads(p.read_text())] for p in files}
        assert all(found and {row["creatorId"] for row in found} == {wanted} for found in rows.values())
        [model] = next(found for p, found in rows.items() if p.name == "model.jsonl")
        assert (model["layers"], model["neuronsPerLayer"], model["owner"]) == (1, 40, "monosem")


@pytest.mark.parametrize("write", [export.neuronpedia_files, export.dashboard_files])
def test_features_that_are_all_dead_have_no_file(swept, monkeypatch, write):  # noqa: F811
    monkeypatch.setattr(export, "BATCH", 20)
    tables = monosem.features(f"{swept}/sweeps/tiny/runs/4x-relu")
    dead = [row["dead"] or 20 <= row["feature"] < 40 or row["feature"] == 3 for row in tables.features.to_pylist()]
    place = tables.features.column_names.index("dead")
    tables.features = tables.features.set_column(place, "dead", [dead])
    files = dict(write(tables, export.Names("m", "s", 0), "d"))
    batches = {name.rsplit("-", 1)[1].split(".")[0] for name in files if "batch" in name}
    assert batches == {str(k) for k in range(8)} - {"1"} and all(gzip.decompress(data) for name, data in files.items() if name.endswith(".gz"))


@pytest.mark.parametrize(
    "model, hook, alias, wanted",
    [
        ("hf:EleutherAI/pythia-70m", "blocks.3.mlp.post", "blocks.3.mlp.hook_post", ("EleutherAI", 0, 8)),
        ("/models/pythia-70m", "blocks.3.resid_post", "blocks.3.hook_resid_post", ("monosem", 0, 0)),
        ("hf:gpt2", "transformer.h.3.mlp", "transformer.h.3.mlp", ("gpt2", 0, 0)),
    ],
)
def test_what_a_record_says_of_the_host(model, hook, alias, wanted):
    host = {"model_name": model, "hook_name": hook, "alias": alias}
    names = export.names_of({"host": host, "sweep": "s", "run": "8x", "d_in": 8}, None, None)
    assert (names.owner, names.layers, names.neurons) == wanted and names.creator_id == "clkht01d40000jv08hvalcvly"


def test_neuronpedia_and_saedashboard_files(swept, tmp_path):  # noqa: F811
    uri = swept / "sweeps/tiny/runs/4x-relu"
    tables = monosem.features(str(uri))
    for kind in ("neuronpedia", "saedashboard"):
        options = ["--format", kind, "--model", "gpt2-small", "--set", "mine"]
        assert run_cli("pull", uri, tmp_path / kind, *options) == 0
        assert run_cli("pull", uri, tmp_path / f"{kind}-again", *options) == 0
    root = tmp_path / "neuronpedia/gpt2-small/0-mine"
    assert {p.name for p in root.iterdir()} == {
        "release.jsonl", "model.jsonl", "sourceset.jsonl", "source.jsonl", "features", "activations",
    }  # fmt: skip
    source = json.loads((root / "source.jsonl").read_text())
    assert source["id"] == "0-mine" and source["num_tokens_in_prompt"] == 32
    features, activations = (read_gzip(root / part / "batch-0.jsonl.gz") for part in ("features", "activations"))
    rows = {row["feature"]: row for row in tables.features.to_pylist() if not row["dead"]}
    assert [int(f["index"]) for f in features] == list(rows)
    assert len(activations) == len(tables.examples) and len({a["id"] for a in activations}) == len(activations)
    for f in features:
        row = rows[int(f["index"])]
        assert f["frac_nonzero"] == row["density"] and f["layer"] == "0-mine" and f["modelId"] == "gpt2-small"
        assert f["pos_str"] == [tables.words[t] for t in row["top_logit_tokens"]]
        assert sum(f["logits_hist_data_bar_heights"]) == 300 and len(f["freq_hist_data_bar_values"]) == 40
        assert f["maxActApprox"] == pytest.approx(row["max_activation"], abs=1e-3)
    for a in activations:
        assert len(a["tokens"]) == len(a["values"]) == len(a["lossValues"])
        assert a["maxValue"] == a["values"][a["maxValueTokenIndex"]] == max(a["values"])
    batch = json.loads((tmp_path / "saedashboard/batch-0.json").read_text())
    assert set(batch) == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"} and batch["sae_id_suffix"] is None
    assert len(batch["features"]) == len(rows)
    top = [a for a in batch["features"][0]["activations"] if a["bin_min"] == -1]
    assert len(top) == min(20, rows[batch["features"][0]["feature_index"]]["n_active"])
    for f in batch["features"]:
        check_bins(f, tables.of(f["feature_index"]).to_pylist(), rows[f["feature_index"]])
    for kind in ("neuronpedia", "saedashboard"):
        first, second = ({str(p.relative_to(tmp_path / k)): p.read_bytes() for p in (tmp_path / k).rglob("*") if p.is_file()}
                         for k in (kind, f"{kind}-again"))  # fmt: skip
        assert first == second


@pytest.mark.parametrize(
    "more, said",
    [(["--format", "saelens", "--model", "x"], "--model and --set: only with"), (["--format", "neuronpdia"], "neuronpedia"),
     (["--format", "saedashboard", "--creator-id", "x"], "--creator-id: only with --format neuronpedia")],
)
def test_mistakes_of_pull(swept, tmp_path, capsys, more, said):  # noqa: F811
    assert run_cli("pull", swept / "sweeps/tiny/runs/4x-relu", tmp_path / "new", *more) == 2
    assert said in capsys.readouterr().err


KEY = {"key": "e 1", "items": {"a": {"kind": "feature", "run": "8x", "feature": 3}, "b": {"kind": "neuron", "run": "neurons", "feature": 9}}}
BEST = {"confidence": 3, "consistency": 5, "logits": 3, "specificity": 3}


def csv_of(answers: list[tuple]) -> str:
    return "key,item,interval,question,answer\r\n" + "".join(",".join(map(str, ("e 1", *a))) + "\r\n" for a in answers)


def marks(tmp_path, capsys, text: str):
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    code = run_cli("rubric", tmp_path / "a.csv", tmp_path / "key.json", "--json")
    said = capsys.readouterr()
    return json.loads(said.out) if code == 0 else (code, said.err)


def test_fourteen_points_are_the_most():
    assert total(BEST) == 14 and sum(RUBRIC.values()) == 15
    assert total(BEST | {"logits": 2}) is None and total(BEST | {"logits": 2, "gap": 1}) == 14
    assert total(BEST | {"gap": 1}) == 14  # not applicable where the logits are perfect
    assert total(dict.fromkeys(RUBRIC, 0)) == 0


def test_marks_by_kind(tmp_path, capsys):
    answers = [("a", "top", q, n) for q, n in BEST.items()]
    answers += [("a", "interval_3", q, n) for q, n in {**BEST, "logits": 1, "gap": 0}.items()]
    answers += [("b", "top", q, 0) for q in RUBRIC] + [("b", "bottom", "confidence", 1)]
    answers += [("a", "", "interpretation", '"commas, and ""quotes"""')]
    found = marks(tmp_path, capsys, csv_of(answers))
    assert found["unfinished"] == 1 and set(found["kinds"]) == {"feature", "neuron"}
    feature, neuron = found["kinds"]["feature"], found["kinds"]["neuron"]
    assert (feature["intervals"], feature["items"], feature["median"], feature["good"]) == (2, 1, 13.0, 1.0)
    assert feature["by_interval"] == {"top": 14.0, "interval_3": 12.0} and feature["by_question"]["logits"] == 2.0
    assert (neuron["intervals"], neuron["median"]) == (1, 0.0)


@pytest.mark.parametrize(
    "row, said",
    [
        (("c", "top", "confidence", 1), "item='c': unknown"),
        (("a", "topp", "confidence", 1), "did you mean top?"),
        (("a", "top", "confidense", 1), "did you mean confidence?"),
        (("a", "top", "confidence", 4), "answer='4': confidence takes 0 to 3"),
        (("a", "top", "confidence", "1.5"), "confidence takes 0 to 3"),
    ],
)
def test_answers_that_do_not_fit_are_named(tmp_path, capsys, row, said):
    code, error = marks(tmp_path, capsys, csv_of([row]))
    assert code == 2 and said in error and "line 2" in error and error.count("\n") == 1


def test_a_key_of_another_exercise_is_refused(tmp_path, capsys):
    code, error = marks(tmp_path, capsys, csv_of([("a", "top", "confidence", 1)]).replace("e 1", "e 2"))
    assert code == 2 and "key='e 2': the key file is of 'e 1'" in error
    assert marks(tmp_path, capsys, "a,b\n1,2\n")[0] == 2
