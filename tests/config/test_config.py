from pathlib import Path

import pytest

from monosem.config.job import PretrainJob, SweepJob, TruthJob
from monosem.config.load import load_job, to_plain
from monosem.errors import InputError

JOBS = Path(__file__).parent.parent.parent / "jobs"


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_job_file_of_ours_loads(path):
    schema = {"host_one_layer.yaml": PretrainJob, "truth.yaml": TruthJob}.get(path.name, SweepJob)
    assert load_job(schema, str(path), []).name


def test_defaults_overrides_and_axes(file):
    job = load_job(SweepJob, file("name: a\nsae: {expansion_factor: 2}\ntrain: {lr: 1e-4}"), ["train.steps=7"])
    assert job.sae.expansion_factor == [2] and job.train.lr == 1e-4 and job.train.steps == 7
    assert job.track.group == "a"
    assert load_job(SweepJob, file("train: {resample_steps: 5}"), []).train.resample_steps == [5]
    assert load_job(SweepJob, file("{}"), ["sae.expansion_factor=[1,2]"]).sae.expansion_factor == [1, 2]


def test_a_job_survives_a_round_trip(file):
    from omegaconf import OmegaConf

    job = load_job(SweepJob, file("name: a\nsae: {l1_coefficient: [0.1, 0.2]}"), [])
    again = load_job(SweepJob, file(OmegaConf.to_yaml(OmegaConf.create(to_plain(job)))), [])
    assert again == job


BAD = [
    ("trian: {steps: 1}", "trian: unknown key; did you mean train?"),
    ("train: {stesp: 1}", "train.stesp: unknown key; did you mean train.steps?"),
    ("train: {zzz: 1}", "known here: steps, batch_size"),
    ("steps: 1", "steps: unknown key; did you mean train.steps?"),
    ("train: {steps: many}", "train.steps='many': must be a whole number"),
    ("train: {steps: 1.5}", "train.steps=1.5: must be a whole number"),
    ("train: {steps: null}", "train.steps=: must be a whole number"),
    ("train: {steps: {x: 5}}", "train.steps: is a single value, and has no x"),
    ("features: {enabled: maybe}", "features.enabled='maybe': must be true or false"),
    ("sae: {l1_coefficient: [1, x]}", "sae.l1_coefficient=[1, 'x']: must be a number, or a list of such"),
    ("train: {steps: 0}", "train.steps=0: must be at least 1"),
    ("train: {lr: -1}", "train.lr=-1.0: must be greater than 0"),
    ("train: {lr: .nan}", "train.lr=nan: must be a finite number"),
    ("train: {precision: fp8}", "must be one of fp32, bf16"),
    ("train: [1]", "is a section with keys"),
    ("sae: {expansion_factor: []}", "needs at least one value"),
    ("sae: {expansion_factor: [1, 1]}", "the same value twice"),
    ("sae: {expansion_factor: [[1]]}", "nothing nested"),
    ("sae: {variant: rleu}", "must be one of relu"),
    ("learner: {replicas: -1}", "learner.replicas=-1: must be at least 0"),
    ("learner: {replicas: 5000}", "learner.replicas=5000: must be at most 4,096"),
    ("name: ../x", "use 1 to 64 letters"),
    ("name: ''", "name='': must not be empty"),
    ("name: ${oc.env:HOME}", "is refused"),
    ("store: ${oc.env:AWS_SECRET_ACCESS_KEY}", "is refused"),
    ("track: {group: '${oc.decode:x}'}", "is refused"),
    ("track: {project: env, group: '${oc.${track.project}:SECRET}'}", "is refused"),
    ("track: {project: 'oc.env', group: '${${track.project}:SECRET}'}", "is refused"),
    ("track: {group: '${oc.env'}", "not valid YAML"),
    ("store: ${nope}", "nope"),
    ("train: {steps: 1}\ntrain: {steps: 2}", "not valid YAML"),
    ("- a\n- b", "a job file is a mapping"),
    ("a: [", "not valid YAML"),
    ("", "is empty"),
    ("# nothing but words\n", "is empty"),
    ("x: !!python/object/apply:os.system ['true']", "not valid YAML"),
]


@pytest.mark.parametrize("text, says", BAD, ids=[b[0][:40] for b in BAD])
def test_mistakes_are_named_in_one_line(file, text, says):
    path = file(text)
    with pytest.raises(InputError) as caught:
        load_job(SweepJob, path, [])
    message = str(caught.value)
    assert says in message and path in message and "\n" not in message


@pytest.mark.parametrize(
    "override, says",
    [
        ("steps", "write key=value"),
        ("=3", "write key=value"),
        ("steps=3", "did you mean train.steps?"),
        ("train.stpes=3", "did you mean train.steps?"),
        ("train.steps=x", "train.steps='x': must be a whole number"),
        ("train.steps=", "train.steps=: must be a whole number"),
        ("train.steps=0", "train.steps=0: must be at least 1"),
        ("train.steps.x=5", "is a single value"),
        ("train=3", "is a section with keys"),
        ("name=a b", "use 1 to 64 letters"),
        ("a=[", "a="),
    ],
)
def test_bad_overrides_are_named_and_not_the_file(file, override, says):
    path = file("train: {steps: 7}")
    with pytest.raises(InputError) as caught:
        load_job(SweepJob, path, ["train.lr=1", override, "train.batch_size=4"])
    message = str(caught.value)
    assert says in message and f"override {override!r}: " in message and path not in message
    assert "\n" not in message and "<unicode string>" not in message


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("{}")
    with pytest.raises(InputError, match=r"did you mean .*quickstart\.yaml"):
        load_job(SweepJob, str(tmp_path / "quikstart.yaml"), [])


def test_secrets_in_the_environment_do_not_come_in(file, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    for text in ("name: ${oc.env:MY_SECRET}", "corpus: {source: '${ oc.env:MY_SECRET }'}"):
        with pytest.raises(InputError) as caught:
            load_job(SweepJob, file(text), [])
        assert "hunter2" not in str(caught.value)
