"""A timm job on real digits through the real server, and its checkpoint in the server's inference."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import digits
from tests.support.runner import RunnerProcess
from tests.support.server import FlowServer, User

# A trainer process takes 5 s to import its libraries on a quiet machine, minutes on a busy one.
PATIENCE_S = 600
pytestmark = pytest.mark.timeout(1500)

Start = Callable[..., RunnerProcess]


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


# 200 real digits in 10 folders.
FILES = {f"{label}/{i:03}.png": png(image) for label, images in enumerate(digits(20)) for i, image in enumerate(images)}
# Small networks and pictures on a CPU: one thread is as fast, and leaves the others to the server.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def dataset(server: FlowServer) -> str:
    """200 digits."""
    return User(server.url).upload_dataset("digits", "imagefolder", FILES)


def create(user: User, dataset: str, model: str, **advanced: Any) -> int:
    return user.create_job(
        {
            "framework": "timm",
            "model_name": model,
            "task_type": "image_classification",
            "epochs": 2,
            "batch_size": 32,
            "learning_rate": 0.01,
            "dataset_id": dataset,
            "advanced_config": {"pretrained": False, "preprocessing": {"image_size": 32}, **advanced},
        }
    )


def ended(job: dict[str, Any]) -> bool:
    return job["status"] in ("completed", "failed", "stopped") and job["phase"] != "leaving"


def infer(user: User, job_id: int, image: bytes, checkpoint: str) -> dict[str, Any]:
    form = {"training_job_id": str(job_id), "checkpoint": checkpoint, "top_k": "10"}
    return dict(user.call("POST", "/test-inference", data=form, files={"file": ("a.png", image, "image/png")}))


def validated(user: User, job_id: int) -> list[dict[str, Any]]:
    """What PyTorch said of each validation image in the last epoch, as the server lists it."""
    results = user.call("GET", f"/validation/results/{job_id}")
    rows = results["results"] if isinstance(results, dict) else results
    newest = max(rows, key=lambda row: row["epoch"])
    images = user.call("GET", f"/validation/images/{newest['id']}?limit=500")
    return list(images["images"] if isinstance(images, dict) else images)


@pytest.mark.parametrize(
    ("model", "advanced", "weights"),
    [
        ("mobilenetv3_small_100", {"preprocessing": {"image_size": 32, "resize_mode": "resize_crop"}}, "float32"),
        # 44.7 MB of float32 weights: more than the server's inference takes.
        ("resnet18", {"optimizer": {"type": "sgd", "momentum": 0.5}}, "int8"),
    ],
)
def test_the_server_s_inference_agrees_with_pytorch(
    server: FlowServer,
    user: User,
    dataset: str,
    start_runner: Start,
    model: str,
    advanced: dict[str, Any],
    weights: str,
) -> None:
    runner = start_runner(server.url, "--once", "--gpus", "none", name=model, env=ONE_THREAD)
    runner.says("ready: ", PATIENCE_S)
    job_id = create(user, dataset, model, **advanced)
    user.start(job_id)
    job = user.until(job_id, ended, PATIENCE_S)
    log = "\n".join(line["message"] for line in user.logs(job_id))
    assert (job["status"], job["reason"], job["data_complete"]) == ("completed", "done", True), log

    metrics = user.metrics(job_id)
    assert [row["epoch"] for row in metrics] == [1, 2]
    assert {"val_loss", "train_accuracy", "precision", "recall", "f1"} <= set(metrics[-1]["extra_metrics"])
    assert ("int8_accuracy" in metrics[-1]["extra_metrics"]) == (weights == "int8")
    assert f"{model}: " in log and "160 training and 40 validation images" in log

    rows = validated(user, job_id)
    assert len(rows) == 40
    for row in rows[:: 1 if weights == "float32" else 2]:
        answer = infer(user, job_id, FILES[row["image_path"]], "last")
        confidences = {prediction["label"]: prediction["confidence"] for prediction in answer["predictions"]}
        expected = {top["label"]: top["confidence"] for top in row["top5_predictions"]}
        assert answer["predictions"][0]["label"] == row["predicted_label"], (answer, row)
        for label, confidence in expected.items():
            assert confidences[label] == pytest.approx(confidence, abs=0.02)

    saved = user.checkpoints(job_id)["checkpoints"]
    assert {row["role"] for row in saved if row["kind"] == "model"} == {"best", "last"}
    assert any(row["kind"] == "checkpoint" and row["role"] == "last" for row in saved)


def test_published_weights_out_of_reach_fail_the_job_by_name(
    server: FlowServer, user: User, dataset: str, start_runner: Start, tmp_path: Path
) -> None:
    away = {**ONE_THREAD, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    runner = start_runner(server.url, "--once", "--gpus", "none", name="away", env=away)
    runner.says("ready: ", PATIENCE_S)
    job_id = create(user, dataset, "resnet18", pretrained=True)
    user.start(job_id)
    job = user.until(job_id, ended, PATIENCE_S)
    assert (job["status"], job["reason"]) == ("failed", "invalid_config")
    log = "\n".join(line["message"] for line in user.logs(job_id))
    assert "advanced_config.pretrained" in log and "set pretrained to false" in log


def test_a_stopped_job_goes_on_where_it_was(server: FlowServer, user: User, dataset: str, start_runner: Start) -> None:
    runner = start_runner(server.url, "--gpus", "none", name="stopped", env=ONE_THREAD)
    runner.says("ready: ", PATIENCE_S)
    job_id = user.create_job(
        {
            "framework": "timm",
            "model_name": "mobilenetv3_small_100",
            "task_type": "image_classification",
            "epochs": 3,
            "batch_size": 16,
            "dataset_id": dataset,
            "advanced_config": {"pretrained": False, "preprocessing": {"image_size": 32}, "checkpoint_interval": 1},
        }
    )
    user.start(job_id)
    user.until(job_id, lambda job: (job["current_epoch"] or 0) >= 1, PATIENCE_S)
    user.stop(job_id)
    user.until(job_id, ended, PATIENCE_S)
    before = len(user.metrics(job_id))
    assert 1 <= before < 3
    user.start(job_id, "?resume=true")
    job = user.until(job_id, ended, PATIENCE_S)
    assert job["status"] == "completed"
    assert [row["epoch"] for row in user.metrics(job_id)] == [1, 2, 3]
    log = "\n".join(line["message"] for line in user.logs(job_id))
    assert "resumed after epoch" in log
