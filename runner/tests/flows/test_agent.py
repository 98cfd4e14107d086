"""The runner as a process, the server as a process, HTTP in between; a trainer that only does what it is told to."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import scripted_trainer as scripted
from tests.support.runner import SCRIPTED, RunnerProcess, eventually, is_alive
from tests.support.server import FlowServer, User

Start = Callable[..., RunnerProcess]
DATASET = "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef"


def create(user: User, *, epochs: int = 6, seed: int | None = None) -> int:
    config: dict[str, Any] = {
        "framework": "timm",
        "model_name": "resnet18",
        "task_type": "image_classification",
        "epochs": epochs,
        "batch_size": 8,
        "learning_rate": 0.01,
        "dataset_id": DATASET,
        "dataset_format": "dice",
    }
    if seed is not None:
        config["advanced_config"] = {"seed": seed}
    return user.create_job(config)


def scripted_runner(start_runner: Start, server: FlowServer, *arguments: str, name: str = "a") -> RunnerProcess:
    runner = start_runner(server.url, "--trainer", f"timm={SCRIPTED}", *arguments, name=name)
    runner.says("ready: ")
    return runner


def ended(job: dict[str, Any]) -> bool:
    return job["status"] in ("completed", "failed", "stopped") and job["phase"] != "leaving"


def messages(user: User, job_id: int, stream: str) -> list[str]:
    return [line["message"] for line in user.logs(job_id) if line["log_type"] == stream]


def test_a_job_is_trained_to_its_end_and_everything_of_it_is_at_the_server(
    server: FlowServer, user: User, start_runner: Start
) -> None:
    runner = scripted_runner(start_runner, server, "--once", "--gpus", "none")
    job_id = create(user)
    assert user.start(job_id)["status"] in ("running", "queued")
    job = user.until(job_id, ended)
    assert (job["status"], job["reason"], job["data_complete"]) == ("completed", "done", True)
    assert [(row["epoch"], row["loss"]) for row in user.metrics(job_id)] == [(n, 1 / n) for n in range(1, 7)]
    stdout = messages(user, job_id, "stdout")
    assert not stdout[0].endswith(" 0 of them fetched, the rest was here")
    assert stdout[0].startswith("[runner] dataset: 251 files")
    assert [line for line in stdout if line.startswith("line of")] == [f"line of epoch {n}" for n in range(1, 7)]
    assert "begins after epoch 0, sees GPUs ''" in stdout
    assert [line for line in stdout if "a secret" in line] == ["a secret: [masked]"]
    assert messages(user, job_id, "stderr") == [f"remark of epoch {n}" for n in range(1, 7)]
    assert [row["epoch"] for row in user.checkpoints(job_id)["checkpoints"]] == [5]
    assert runner.ended() == 0
    assert "completed (done)" in runner.output
    assert list((runner.state_dir / "attempts").iterdir()) == []
    assert runner.state_dir.stat().st_mode & 0o777 == 0o700


def test_a_second_job_on_the_same_data_fetches_nothing(server: FlowServer, user: User, start_runner: Start) -> None:
    runner = scripted_runner(start_runner, server)
    for _ in range(2):
        job_id = create(user, epochs=1)
        user.start(job_id)
        user.until(job_id, ended)
    assert "251 files" in messages(user, job_id, "stdout")[0]
    assert " 0 of them fetched" in messages(user, job_id, "stdout")[0]
    runner.signal(signal.SIGTERM)
    assert runner.ended() == 0


@pytest.mark.parametrize(
    ("seed", "reason", "text"),
    [
        (scripted.EXITS, "exit_nonzero", "the disk of the trainer is on fire"),
        (scripted.DIES, "exit_nonzero", "SIGKILL"),
        (scripted.NO_MEMORY, "oom", "the device is full"),
    ],
)
def test_a_trainer_that_fails_says_why(
    server: FlowServer, user: User, start_runner: Start, seed: int, reason: str, text: str
) -> None:
    scripted_runner(start_runner, server)
    job_id = create(user, seed=seed)
    user.start(job_id)
    job = user.until(job_id, ended)
    assert (job["status"], job["reason"]) == ("failed", reason)
    assert text in job["message"]
    assert [row["epoch"] for row in user.metrics(job_id)] == [1, 2]
    assert job["data_complete"] is True


def test_a_stop_is_heard_and_the_last_state_is_kept(server: FlowServer, user: User, start_runner: Start) -> None:
    scripted_runner(start_runner, server)
    job_id = create(user, epochs=500)
    user.start(job_id)
    user.until(job_id, lambda job: job["current_epoch"] >= 2)
    assert user.stop(job_id)["status"] == "stopped"
    job = user.until(job_id, ended)
    assert (job["status"], job["reason"]) == ("stopped", "user_stop")
    assert len(user.checkpoints(job_id)["checkpoints"]) >= 1


def test_a_trainer_that_ignores_the_stop_is_killed_after_the_grace(
    server: FlowServer, user: User, start_runner: Start
) -> None:
    runner = scripted_runner(start_runner, server)
    job_id = create(user, epochs=500, seed=scripted.IGNORES_STOP)
    user.start(job_id)
    user.until(job_id, lambda job: job["current_epoch"] >= 1)
    user.stop(job_id)
    user.until(job_id, ended, 40)
    runner.says(r"stopped \(user_stop\)", 20)


def test_nothing_that_the_trainer_started_outlives_it(server: FlowServer, user: User, start_runner: Start) -> None:
    scripted_runner(start_runner, server)
    job_id = create(user, epochs=2, seed=scripted.HAS_CHILDREN)
    user.start(job_id)
    user.until(job_id, ended)
    [line] = [line for line in messages(user, job_id, "stdout") if line.startswith("child ")]
    assert eventually(lambda: not is_alive(int(line.split()[1])))


def test_a_large_state_goes_in_parts_and_a_drained_job_goes_on_from_it(
    server: FlowServer, user: User, start_runner: Start
) -> None:
    first = scripted_runner(start_runner, server)
    job_id = create(user, epochs=200, seed=scripted.LARGE_STATE)
    user.start(job_id)
    user.until(job_id, lambda job: job["current_epoch"] >= 2)
    first.signal(signal.SIGTERM)
    first.says("finishing 1 job")
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    assert "released (runner_shutdown)" in first.output
    assert user.job(job_id)["status"] == "queued"
    scripted_runner(start_runner, server, name="b")
    job = user.until(job_id, ended, 120)
    assert (job["status"], job["attempt"]) == ("completed", 2), job["message"]
    begins = [line for line in messages(user, job_id, "stdout") if line.startswith("begins after epoch")]
    assert int(begins[1].split(",")[0].rsplit(" ", 1)[1]) >= 2
    assert [row["epoch"] for row in user.metrics(job_id)] == list(range(1, 201))


def test_a_validation_of_many_images_is_paged(server: FlowServer, user: User, start_runner: Start) -> None:
    scripted_runner(start_runner, server)
    job_id = create(user, epochs=2, seed=scripted.MANY_IMAGES)
    user.start(job_id)
    assert user.until(job_id, ended)["data_complete"] is True
    [result] = user.call("GET", f"/validation/results/{job_id}")["results"]
    seen: set[str] = set()
    for skip in range(0, scripted.IMAGES, 400):
        page = user.call("GET", f"/validation/images/{result['id']}?skip={skip}&limit=400")
        seen |= {image["image_name"] for image in page["images"]}
    assert len(seen) == scripted.IMAGES


def test_a_trainer_that_talks_loses_no_line(server: FlowServer, user: User, start_runner: Start) -> None:
    scripted_runner(start_runner, server)
    job_id = create(user, epochs=3, seed=scripted.TALKS)
    user.start(job_id)
    job = user.until(job_id, ended)
    assert job["data_complete"] is True
    lines = [line for line in messages(user, job_id, "stdout") if line.startswith("epoch 3 line")]
    assert [int(line.split()[3]) for line in lines] == list(range(5_000 - len(lines), 5_000))
    assert len(lines) > 4_000


def test_a_loss_that_is_no_number_arrives_as_null(server: FlowServer, user: User, start_runner: Start) -> None:
    scripted_runner(start_runner, server)
    job_id = create(user, epochs=1, seed=scripted.NOT_A_NUMBER)
    user.start(job_id)
    user.until(job_id, ended)
    assert user.metrics(job_id)[0]["loss"] is None


def test_a_state_folder_belongs_to_one_process(server: FlowServer, start_runner: Start) -> None:
    scripted_runner(start_runner, server)
    second = start_runner(server.url, "--trainer", f"timm={SCRIPTED}")
    assert second.ended() == 3
    assert "another process uses" in second.output
