"""Trainers that exist already, unchanged, under `run --exec`: their calls, their data, their checkpoints."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from tests.flows.test_agent import create, ended, messages
from tests.support.runner import RunnerProcess
from tests.support.server import FlowServer, User

Start = Callable[..., RunnerProcess]
TRAINERS = Path(__file__).parents[1] / "support" / "trainers"
FAILS, DOUBTS, LASTS = 1, 2, 3
# A machine that does much else at the same time.
PATIENCE_S = 240


def runner_of(trainer: str, start_runner: Start, server: FlowServer) -> RunnerProcess:
    command = shlex.join([sys.executable, str(TRAINERS / trainer)])
    runner = start_runner(server.url, "--exec", command, name=trainer)
    runner.says("ready: ")
    return runner


def test_a_job_of_sdk_2_is_trained_reported_and_stored(server: FlowServer, user: User, start_runner: Start) -> None:
    runner_of("sdk_two.py", start_runner, server)
    job_id = create(user, epochs=3, seed=DOUBTS)
    user.start(job_id)
    job = user.until(job_id, ended, PATIENCE_S)
    assert (job["status"], job["reason"], job["data_complete"]) == ("completed", "done", True), job["message"]
    points = [(point["epoch"], point["accuracy"], point["learning_rate"]) for point in user.metrics(job_id)]
    assert points == [(1, 0.05, 0.01), (2, 0.1, 0.01), (3, 0.15, 0.01)]
    assert user.metrics(job_id)[0]["extra_metrics"]["metrics/mAP50(B)"] == 0.1
    out = messages(user, job_id, "stdout")
    assert any(line.startswith("sees ") and "resnet18" in line for line in out)
    assert any(line.endswith("a line that was buffered until the end") for line in out)
    stored = {entry["role"]: entry for entry in user.checkpoints(job_id)["checkpoints"]}
    assert set(stored) == {"best", "last"}
    assert stored["best"]["size_bytes"] == 10_500_000
    results = user.call("GET", f"/validation/results/{job_id}")
    assert '"accuracy": 0.5' in str(results).replace("'", '"')


def test_a_trainer_that_fails_says_why(server: FlowServer, user: User, start_runner: Start) -> None:
    runner_of("sdk_two.py", start_runner, server)
    job_id = create(user, epochs=3, seed=FAILS)
    user.start(job_id)
    job = user.until(job_id, ended, PATIENCE_S)
    assert (job["status"], job["reason"]) == ("failed", "invalid_config")
    assert job["message"] == "[ConfigError] the head does not fit"
    assert any("Traceback" in line for line in messages(user, job_id, "stderr"))


def test_a_stop_interrupts_the_trainer(server: FlowServer, user: User, start_runner: Start) -> None:
    runner = runner_of("sdk_two.py", start_runner, server)
    job_id = create(user, epochs=3, seed=LASTS)
    user.start(job_id)
    user.until(job_id, lambda _: any(line.startswith("sees ") for line in messages(user, job_id, "stdout")), PATIENCE_S)
    user.stop(job_id)
    job = user.until(job_id, ended, PATIENCE_S)
    assert job["status"] == "stopped"
    runner.says(r"stopped \(user_stop\)")
    assert "interrupted" in messages(user, job_id, "stdout")


def test_a_job_of_the_mvp_logger_is_trained_and_reported(server: FlowServer, user: User, start_runner: Start) -> None:
    runner_of("mvp_logger.py", start_runner, server)
    job_id = create(user, epochs=2)
    user.start(job_id)
    job = user.until(job_id, ended, PATIENCE_S)
    assert (job["status"], job["reason"]) == ("completed", "done"), job["message"]
    points = [(point["epoch"], point["loss"], point["accuracy"]) for point in user.metrics(job_id)]
    assert points == [(1, 0.5, 0.875), (2, None, 0.875)]
    results = user.call("GET", f"/validation/results/{job_id}")
    assert [result["epoch"] for result in results.get("results", results)] == [1, 2]
    assert any(line.endswith("the last line") for line in messages(user, job_id, "stdout"))
