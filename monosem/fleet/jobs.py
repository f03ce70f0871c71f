"""Sweeps as Ray jobs: submit, status, logs, stop, through Ray's Jobs API."""

import difflib
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from omegaconf import OmegaConf

from monosem.config.job import SweepJob
from monosem.config.load import to_plain
from monosem.errors import InputError, MonosemError
from monosem.fleet.cluster import set_environment
from monosem.host.stored import bundled_names

JOB_FILE = "job.yaml"
STOP_WAIT_S = 90
"""How long a stopped job may take to write its checkpoints before Ray kills it."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_S = 1.0
READY_WAIT_S = 60
"""How long a head may need after its start until it takes jobs."""


def submit(job: SweepJob, address: str, wait: bool, say: Callable[[str], None]) -> int:
    """Hand the sweep to the cluster. With `wait`, show its log and return its exit code; else 0 at once."""
    job_id = f"monosem-{job.name}-{uuid.uuid4().hex[:6]}"
    plain = _absolute(to_plain(job))
    client = _client(address)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / JOB_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(plain)))
        _submit(
            client,
            entrypoint=f"{_python(address)} -m monosem sweep {JOB_FILE} --address auto",
            submission_id=job_id,
            entrypoint_num_cpus=0,
            metadata={"sweep": job.name},
            runtime_env={"working_dir": directory, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}},
        )
    say(f"submitted {job_id}: store {plain['store']}")
    if not wait:
        say(f"follow it with: monosem logs {job_id} -f --address {address}")
        return 0
    return _follow(client, job_id, say)


def status(job_id: str, address: str) -> dict:
    """Job id, state, message and exit code."""
    info = _info(_client(address), job_id)
    return {
        "job": job_id,
        "state": str(info.status.value).lower(),
        "exit_code": info.driver_exit_code,
        "message": info.message,
    }


def logs(job_id: str, address: str, follow: bool, out: TextIO) -> None:
    client = _client(address)
    seen = 0
    while True:
        ended = _info(client, job_id).status.value in ENDED
        text = client.get_job_logs(job_id)
        out.write(text[seen:])
        out.flush()
        seen = len(text)
        if ended or not follow:
            return
        time.sleep(POLL_S)


def stop(job_id: str, address: str) -> str:
    """Ask the job to stop and wait until it has, its checkpoints written. Returns what to say."""
    client = _client(address)
    if _info(client, job_id).status.value in ENDED:
        return f"{job_id} has already ended"
    client.stop_job(job_id)
    deadline = time.monotonic() + STOP_WAIT_S + 30
    while _info(client, job_id).status.value not in ENDED:
        if time.monotonic() > deadline:
            raise MonosemError(f"{job_id} has not stopped within {STOP_WAIT_S + 30} s")
        time.sleep(POLL_S)
    return f"{job_id} stopped; submit the same job again to resume it"


def _submit(client, **job) -> None:
    """Hand the job over; a head that has just started may need a moment until it takes one."""
    deadline = time.monotonic() + READY_WAIT_S
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise MonosemError(f"the cluster does not take the job: {str(error).splitlines()[0]}") from error
        time.sleep(POLL_S)


def _follow(client, job_id: str, say: Callable[[str], None]) -> int:
    seen = 0
    while True:
        info = _info(client, job_id)
        text = client.get_job_logs(job_id)
        if len(text) > seen:
            say(text[seen:].rstrip("\n"))
            seen = len(text)
        if info.status.value in ENDED:
            return _exit_code(info, job_id, say)
        time.sleep(POLL_S)


def _exit_code(info, job_id: str, say: Callable[[str], None]) -> int:
    state = info.status.value
    say(f"{job_id}: {state.lower()}")
    if state == "SUCCEEDED":
        return 0
    if state == "STOPPED":
        return 3
    return info.driver_exit_code if info.driver_exit_code in (1, 2, 3) else 1


def _client(address: str):
    set_environment(address)
    if not address.startswith(("http://", "https://")):
        raise InputError(f"--address {address!r}: write the dashboard's URL, for example http://127.0.0.1:8265")
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # requests, urllib3 and Ray raise many kinds here
        reason = str(error).split("\n")[0][:200]
        raise InputError(f"--address {address}: no Ray dashboard answers there: {reason}") from error


def _python(address: str) -> str:
    """The interpreter of the job: this one if the head is this machine, else the head's `python`."""
    host = urlsplit(address).hostname
    return shlex.quote(sys.executable) if host in ("localhost", "127.0.0.1", "::1") else "python"


def _info(client, job_id: str):
    try:
        return client.get_job_info(job_id)
    except RuntimeError as error:
        if "404" not in str(error):
            raise MonosemError(f"job {job_id}: {error}") from error
        known = [job.submission_id for job in client.list_jobs() if job.submission_id]
        near = difflib.get_close_matches(job_id, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"job {job_id!r}: not known to this cluster{hint}") from error


def _absolute(plain: dict) -> dict:
    """Local paths made absolute: the job runs in another directory, on the head's file system."""

    def absolute(path: str) -> str:
        return path if "://" in path or path.startswith("hf:") else str(Path(path).expanduser().absolute())

    plain["store"] = absolute(plain["store"])
    for name in ("tee", "from"):
        plain["stream"][name] = plain["stream"][name] and absolute(plain["stream"][name])
    plain["features"]["compare"] = [absolute(uri) for uri in plain["features"]["compare"]]
    if plain["corpus"]["source"] != "builtin":
        plain["corpus"]["source"] = absolute(plain["corpus"]["source"])
    if plain["host"]["model"] not in bundled_names():
        plain["host"]["model"] = absolute(plain["host"]["model"])
    return plain
