"""`monosem plan` through the command line: the two jobs, misfits, waves, storage against files, hostile options."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from monosem.config.job import SweepJob
from monosem.config.load import load_job
from monosem.fleet.policy import in_waves
from monosem.learn.run import Run
from monosem.plan.cluster import parse_cluster, this_machine
from monosem.plan.devices import DATASHEET, Datasheet
from monosem.stages import plan as stages_plan
from monosem.stages.calibrate import _item_s
from monosem.stages.plan import Wishes, make_plan, outline_job
from tests.conftest import run_cli

JOBS = Path(__file__).parents[2] / "jobs"


def plan(capfd, *arguments: object) -> dict:
    assert run_cli("plan", *arguments, "--json") == 0, capfd.readouterr().err
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("job, cluster", [("paper", "8xH200"), ("frontier", "512xH200")])
def test_both_jobs_plan_cleanly_in_80_columns(capfd, job, cluster):
    assert run_cli("plan", JOBS / f"{job}.yaml", "--cluster", cluster) == 0
    captured = capfd.readouterr()
    assert captured.err == "" and max(map(len, captured.out.splitlines())) <= 80
    assert "datasheet of" in captured.out


def test_the_paper(capfd):
    """The numbers that its text gives, or that follow from them by hand."""
    found = plan(capfd, JOBS / "paper.yaml", "--cluster", "8xH200")
    assert found["stream"]["rows"] == 8_192_000_000
    assert [run["d_sae"] for run in found["runs"]] == [512 << n for n in range(9)]
    assert found["runs"][-1]["parameters"] == 2 * 512 * 131072 + 131072 + 512
    assert found["fits"] and len(found["waves"]) == 1
    assert found["stream"]["passes"] <= 1.0  # without replacement
    both = plan(capfd, JOBS / "paper.yaml", "name=b", "seed=1", "host.model=one-layer-b", "--cluster", "8xH200")
    assert both["total"] == found["total"]


def test_the_frontier(capfd):
    found = plan(capfd, JOBS / "frontier.yaml", "--cluster", "512xH200")
    [run] = found["runs"]
    assert run["d_in"] == 4096 and run["d_sae"] == 33_554_432
    assert found["host"]["source"].startswith("host.outline")
    meshed = plan(
        capfd, JOBS / "frontier.yaml", "learner.replicas=4", "learner.feature_shards=64", "--cluster", "512xH200"
    )
    assert meshed["runs"][0]["bottleneck"] == "wire" and meshed["total"]["hours"] > 10 * found["total"]["hours"]


def test_a_misfit_says_what_would_fit(capfd):
    job = JOBS / "frontier.yaml"
    assert run_cli("plan", job, "learner.feature_shards=16", "--cluster", "512xH200") == 2
    captured = capfd.readouterr()
    [line] = [line for line in captured.err.splitlines() if line.startswith("monosem:")]
    assert "does not fit 512xH200" in line and "a H200 has" in line and "learner.feature_shards=" in line
    shards = int(line.split("learner.feature_shards=")[1].split()[0])
    replicas = int(line.split("learner.replicas=")[1].split()[0])
    found = plan(
        capfd, job, f"learner.feature_shards={shards}", f"learner.replicas={replicas}", "--cluster", "512xH200"
    )
    assert found["fits"]


def test_as_many_replicas_as_there_is_room_for(capfd):
    """One run: eight GPUs less those of two workers, for six slots. Nine runs: two GPUs for each, and none left over."""
    auto = ("learner.replicas=0", "learner.slots=8", "stream.workers=2")
    one = plan(capfd, JOBS / "paper.yaml", *auto, "sae.expansion_factor=8", "--cluster", "8xH200")
    assert [run["replicas"] for run in one["runs"]] == [4]  # six would wait for those with two slots, as four do
    ladder = plan(capfd, JOBS / "paper.yaml", *auto, "learner.pack_parameters=0", "--cluster", "24xH200")
    assert {run["replicas"] for run in ladder["runs"]} == {2} and len(ladder["waves"]) == 1
    cores = plan(capfd, JOBS / "paper.yaml", *auto, "sae.expansion_factor=8", "learner.threads=4",
                 "--cluster", "2x(16 CPU, 64 GiB)")  # fmt: skip
    assert [run["replicas"] for run in cores["runs"]] == [8]


def test_the_number_of_replicas_is_said_where_it_shows(capfd):
    ring = ("learner.replicas=0", "learner.exchange=ring", "--cluster", "8xH200")
    assert run_cli("plan", JOBS / "paper.yaml", *ring) == 2
    assert "learner.exchange=ring results depend on their number" in capfd.readouterr().err


def test_nowhere_to_fit(capfd):
    assert run_cli("plan", JOBS / "frontier.yaml", "--cluster", "2xL4") == 2
    captured = capfd.readouterr()
    [line] = [line for line in captured.err.splitlines() if line.startswith("monosem:")]
    assert "GiB" in line and "no learner.feature_shards" in line and "Traceback" not in captured.err


def test_runs_that_do_not_fit_at_once_wait(capfd):
    at_once = plan(capfd, JOBS / "paper.yaml", "learner.pack_parameters=0", "--cluster", "16xH200")
    found = plan(capfd, JOBS / "paper.yaml", "learner.pack_parameters=0", "--cluster", "4xH200")
    assert len(at_once["waves"]) == 1 and len(found["waves"]) == 5
    assert sorted(name for wave in found["waves"] for name in wave["runs"]) == sorted(r["run"] for r in found["runs"])
    assert found["stream"]["harvests"] == 5 and found["total"]["hours"] > at_once["total"]["hours"]


def test_groups_that_cores_have_no_room_for_wait_as_they_do_on_ray(capfd):
    found = plan(capfd, JOBS / "quickstart.yaml", "learner.pack_parameters=0", "--cluster", "1x(2 CPU, 64 GiB)")
    assert [wave["runs"] for wave in found["waves"]] == in_waves(["1x", "2x", "4x", "8x"], 3)
    assert 0 < found["waves"][1]["bytes"] < found["waves"][0]["bytes"] < 8 << 30
    assert run_cli("plan", JOBS / "quickstart.yaml", "learner.slots=8", "learner.replicas=8", "--cluster",
                   "1x(2 CPU, 64 GiB)") == 2  # fmt: skip
    assert "need 4.3 CPUs, the cluster has 2; ask for fewer" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--cluster", "8xH300"], "no known GPU"),
        (["--cluster", "2x(16 CPU)"], "needs its CPU and GiB"),
        (["--cluster", "8xH200", "--inline"], "not allowed with"),
        (["--cluster", "8xH200", "--calibrate"], "measures this machine"),
        (["--cluster", "8xH200", "--efficiency", "0"], "--efficiency=0"),
        (["--cluster", "8xH200", "--efficiency", "nan"], "--efficiency=nan"),
        (["--cluster", "8xH200", "--l0", "-1"], "--l0=-1"),
        (["--cluster", "8xH200", "learner.replicas=9", "learner.slots=8"], "at most learner.slots=8"),
        (["--cluster", "8xH200", "learner.feature_shards=4000"], "the smallest dictionary has only 512 features"),
        (["--cluster", "2000xH100", "learner.feature_shards=32", "learner.replicas=32", "learner.slots=32"],
         "learner.replicas=32, learner.feature_shards=32: the smallest dictionary has only 512"),
        (["--cluster", "8xH200", "sae.target=mlp.post"], "sae.target=mlp.post: is also in host.hook_point"),
        (["--inline", "learner.feature_shards=4"], "learner.feature_shards=4: --inline is one process"),
        (["--cluster", "8xH200", "host.outline.width=512"], "an outline with a width needs"),
        (["--cluster", "8xH200", "host.model=hf:a/b/c"], "must be hf:org/name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_hostile_options_get_one_line(capfd, arguments, says):
    assert run_cli("plan", JOBS / "paper.yaml", *arguments) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("monosem:")]
    assert len(lines) == 1 and says in lines[0], captured.err
    assert "Traceback" not in captured.err and captured.out == ""


@pytest.mark.parametrize("wrong", [["feature_shards=2"], ["replicas=2", "slots=2", "exchange=ring"]])
def test_what_changes_bits_is_refused_in_one_process(tiny_job, capfd, wrong):
    assert run_cli("sweep", tiny_job, *(f"learner.{item}" for item in wrong), "--inline") == 2
    assert f"learner.{wrong[0]}: --inline is one process" in capfd.readouterr().err


def test_one_process_is_planned_as_it_is(tiny_job, tmp_path, capfd):
    """One rank whatever the replicas, and a dataset that is written beside counts among its bytes."""
    found = []
    for more in ([], ["learner.replicas=2"], [f"stream.tee={tmp_path / 'rows'}", "dataset.shard_rows=8388608"]):
        given = [f"store={tmp_path / 'store'}", "learner.slots=2", *more]
        assert run_cli("plan", tiny_job, *given, "--inline", "--json") == 0
        found.append(json.loads(capfd.readouterr().out))
    one, two, kept = found
    assert one["waves"][0]["ranks"] == two["waves"][0]["ranks"] == 1
    assert kept["runs"][0]["rank_bytes"] - one["runs"][0]["rank_bytes"] == 3 * 4 * 8388608 * 40  # the host's width


def test_what_is_asked_of_the_host_is_timed(tiny_job):
    """A transcoder's target too: the pass goes on to there."""
    asked = []

    class Asked:
        vocab_size = 300

        def resolve(self, name):
            return name

        def capture(self, tokens, points):
            asked.append(points)
            return {}

    job = load_job(SweepJob, str(tiny_job), ["host.hook_point=resid_pre", "sae.target=mlp.out"])
    _item_s(job, Asked())
    assert asked[0] == ["resid_pre", "mlp.out"]


def test_a_gpu_that_is_left_out_is_told(monkeypatch):
    assert stages_plan._of_gpus(this_machine()) == []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert stages_plan._of_gpus(this_machine())[0].startswith("by the processor's rates")
    assert stages_plan._of_gpus(parse_cluster("1x(2 CPU, 24 GiB)")) == []


def test_replicas_in_one_process_change_nothing_and_it_says_so(tiny_job, tmp_path, capfd):
    from tests.conftest import digests

    for name, replicas in (("one", 1), ("two", 2)):
        given = [f"store={tmp_path / name}", "learner.slots=2", f"learner.replicas={replicas}"]
        assert run_cli("sweep", tiny_job, *given, "--inline") == 0
    assert "trains on one rank, not 2" in capfd.readouterr().out
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_with_all_reduce_the_number_of_replicas_names_the_sweep(tiny_job, tmp_path, capfd):
    given = [f"store={tmp_path / 'store'}", "learner.slots=2", "learner.exchange=ring"]
    assert run_cli("sweep", tiny_job, *given, "--inline") == 0
    assert run_cli("sweep", tiny_job, *given, "learner.replicas=2") == 2
    assert "learner.replicas=1" in capfd.readouterr().err


@pytest.mark.parametrize("field, wrong", [("width", 41), ("vocab_size", 400), ("parameters", 10**6)])
def test_a_sweep_refuses_a_host_that_is_not_as_outlined(tiny_job, capfd, field, wrong):
    assert run_cli("sweep", tiny_job, f"host.outline.{field}={wrong}", "--inline") == 2
    assert f"host.outline.{field}=" in capfd.readouterr().err


def test_a_right_outline_changes_nothing(tiny_job, tmp_path, capfd):
    from tests.conftest import digests

    outline = ["host.outline.width=40", "host.outline.vocab_size=300", "host.outline.context_length=32"]
    assert run_cli("sweep", tiny_job, "train.steps=30", "train.resample_steps=[20]", "--inline") == 0
    before = digests(tmp_path / "store")
    again = ["train.steps=30", "train.resample_steps=[20]", *outline, "--inline"]
    assert run_cli("sweep", tiny_job, *again) == 0 and "nothing to do" in capfd.readouterr().out
    assert digests(tmp_path / "store") == before


def test_storage_is_what_the_store_holds(tiny_job, tmp_path, capfd):
    """Checkpoints and finished files of a real sweep against the plan's bytes; headers are all that differ."""
    sizes: list[int] = []
    original = Run.commit

    def commit(self):
        original(self)
        objects = tmp_path / "store/sweeps/tiny/runs" / self.name / "checkpoints/objects"
        sizes.append(max(path.stat().st_size for path in objects.iterdir()))

    big = "sae.expansion_factor=[64]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "commit", commit)
        assert run_cli("sweep", tiny_job, big, "--inline") == 0
    capfd.readouterr()
    found = plan(capfd, tiny_job, big, "--cluster", "1xL4")
    assert max(sizes) == pytest.approx(found["total"]["checkpoint_bytes"], rel=0.01)
    run = tmp_path / "store/sweeps/tiny/runs/64x"
    finished = sum(path.stat().st_size for path in run.glob("*.safetensors"))
    assert finished == pytest.approx(found["total"]["finished_bytes"], rel=0.01)


def test_more_of_anything_never_takes_less():
    """Time and memory rise with features, batch and steps, and fall with devices' speed."""
    job = load_job(SweepJob, str(JOBS / "paper.yaml"), ["learner.pack_parameters=0"])
    cluster = parse_cluster("16xH200")

    def hours(job: SweepJob, efficiency: float = 0.4) -> float:
        wishes = Wishes(efficiency=efficiency)
        found = make_plan(outline_job(job), cluster, Datasheet(DATASHEET["H200"], efficiency), wishes)
        steps = [run["step_s"] for run in found["runs"]]
        assert steps == sorted(steps)
        ranks = [run["rank_bytes"] for run in found["runs"]]
        assert ranks == sorted(ranks)
        return found["total"]["hours"]

    base = hours(job)
    assert hours(replace(job, train=replace(job.train, steps=2_000_000))) == pytest.approx(2 * base)
    assert hours(replace(job, train=replace(job.train, batch_size=16384))) > base
    assert hours(job, 0.8) == pytest.approx(base / 2, rel=0.01)
