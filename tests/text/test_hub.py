"""Datasets by way of the `datasets` package: a local directory stands in for the Hub, a closed port for its absence."""

import json
import sys

import pytest

from monosem.config.job import CorpusConfig
from monosem.errors import InputError
from monosem.text.quarantine import Quarantine
from monosem.text.sources import open_source

datasets = pytest.importorskip("datasets")

ROWS = [{"text": f"document {i}", "domain": f"d{i % 2}", "n": i} for i in range(150)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("set")
    for split, rows in (("train", ROWS), ("test", ROWS[:3])):
        (path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def config(source, **more) -> CorpusConfig:
    return CorpusConfig(source=str(source), **more)


def read(source, kept=None, **more):
    return list(open_source(config(source, **more)).documents(Quarantine() if kept is None else kept))


def test_a_dataset_gives_its_rows_in_order(folder):
    got = read(f"hf:{folder}")
    assert [(d.text, d.domain) for d in got] == [(r["text"], r["domain"]) for r in ROWS]
    assert [d.key for d in got] == [f"hf:{folder}:train#{i}" for i in range(150)]
    assert [d.text for d in read(f"hf:{folder}", split="test")] == [r["text"] for r in ROWS[:3]]


def test_bad_rows_move_no_other(tmp_path):
    texts = ["zero", None, "", "a\x00b", "four"]
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "train.parquet")
    kept = Quarantine()
    assert [d.key[-2:] for d in read(f"hf:{tmp_path}", kept)] == ["#0", "#4"]
    assert kept.reasons == {"no text in the column": 1, "empty": 1, "NUL character": 1}


def test_saved_datasets_are_files(folder, tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "cache-1.arrow").write_bytes(b"not a part of it")
    assert [d.text for d in read(tmp_path / "one")] == [r["text"] for r in ROWS]
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "both")
    with pytest.raises(InputError, match="of several splits; name the directory of one"):
        read(tmp_path / "both")
    assert len(read(tmp_path / "both" / "test")) == 150
    with pytest.raises(InputError, match=r"cannot be read: .*save_to_disk"):
        read(f"hf:{tmp_path / 'one'}")


@pytest.mark.parametrize(
    "more, says",
    [
        ({"split": "trian"}, r"corpus.split='trian': .* has the splits train, test; did you mean train\?"),
        ({"text_column": "txt"}, r"corpus.text_column='txt': .* has the columns text, domain, n; did you mean text\?"),
        ({"text_column": "n"}, "corpus.text_column='n': the column holds int64, not text"),
        ({"revision": "v1"}, "corpus.revision='v1': a local directory has no revisions"),
    ],
)
def test_options_that_do_not_fit(folder, more, says):
    with pytest.raises(InputError, match=says) as error:
        read(f"hf:{folder}", **more)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("more, says", [({"revision": "v1"}, "corpus.revision"), ({"split": "test"}, "corpus.split")])
def test_options_of_the_hub_are_refused_elsewhere(folder, more, says):
    for source in ("builtin", folder):
        with pytest.raises(InputError, match=says):
            open_source(config(source, **more))


@pytest.mark.parametrize(
    "source", ["hf:", "hf:a/b/c/d", "hf:a//b", "hf:../up", "hf:a/..", "hf:a b", "hf:/nowhere/at/all"]
)
def test_malformed_names(source):
    with pytest.raises(InputError, match=r"write hf:owner/name|no such directory"):
        open_source(config(source))


def test_broken_data_is_one_line(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n{broken\n')
    with pytest.raises(InputError, match="cannot be read") as error:
        read(f"hf:{tmp_path}")
    assert "\n" not in str(error.value)


def test_the_hub_out_of_reach(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="the Hub cannot be reached: ") as error:
        open_source(config("hf:owner/name/part"))
    assert "\n" not in str(error.value)


def test_a_full_commit_needs_no_look_up(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    source = open_source(config("hf:owner/name/part", revision=COMMIT, split="validation"))
    assert source.revision == COMMIT and not source.changed()
    assert source.identity["hf"] == ["owner/name", "part", "validation", COMMIT]


def test_a_branch_becomes_the_commit_it_names(monkeypatch):
    asked, loaded = [], []

    def dataset_info(self, name, revision, timeout):
        asked.append((name, revision))
        return type("Info", (), {"sha": COMMIT})

    def load_dataset(name, config, revision, streaming):
        loaded.append((name, config, revision, streaming))
        return {"train": datasets.Dataset.from_list(ROWS[:2]).to_iterable_dataset()}

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source(config("hf:owner/name", revision="main"))
    got = list(source.documents(Quarantine()))
    assert asked == [("owner/name", "main")] and loaded == [("owner/name", None, COMMIT, True)]
    assert source.revision == COMMIT and got[1].key == "hf:owner/name:train#1"


@pytest.mark.parametrize(
    "kind, says",
    [("Revision", "corpus.revision='v9': owner/name has no such"), ("Repository", "no dataset owner/name")],
)
def test_what_the_hub_does_not_have(monkeypatch, kind, says):
    import httpx
    from huggingface_hub import errors

    def dataset_info(self, name, revision, timeout):
        response = httpx.Response(404, request=httpx.Request("GET", "https://example.org"))
        raise getattr(errors, f"{kind}NotFoundError")("404\nnot found", response=response)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    with pytest.raises(InputError, match=says):
        open_source(config("hf:owner/name", revision="v9"))


def test_without_the_package_or_with_an_old_one(monkeypatch):
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(InputError, match="can run a dataset's code: pip install"):
        open_source(config("hf:owner/name"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs the datasets package: pip install -U 'monosem\[hf\]'"):
        open_source(config("hf:owner/name"))


def test_a_changed_directory_is_another_corpus(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n')
    source = open_source(config(f"hf:{tmp_path}"))
    assert not source.changed()
    (tmp_path / "train.jsonl").write_text('{"text": "one and more"}\n')
    assert source.changed() and open_source(config(f"hf:{tmp_path}")).identity != source.identity
