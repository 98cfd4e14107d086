"""A YOLO job from upload to inference: trained by the runner, run by the server, compared with PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.support.pictures import digits_on_textures
from tests.support.runner import RunnerProcess
from tests.support.server import FlowServer, User

SIZE = 160
PATIENCE_S = 900


def detections_of_torch(state: dict[str, Any], image: bytes) -> list[dict[str, Any]]:
    """What the library itself finds on an image with the averaged weights of a state, best first."""
    from ultralytics.data.augment import LetterBox
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import nms, ops

    model = DetectionModel("yolo11n.yaml", nc=10, verbose=False)
    model.load_state_dict(state["ema"])
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    framed = LetterBox((SIZE, SIZE), auto=False)(image=pixels)
    batch = torch.from_numpy(np.ascontiguousarray(framed[..., ::-1].transpose(2, 0, 1))).float()[None] / 255
    with torch.no_grad():
        found = nms.non_max_suppression(model.eval()(batch), conf_thres=0.001, iou_thres=0.45, max_det=100)[0]
    boxes = ops.scale_boxes((SIZE, SIZE), found[:, :4], pixels.shape[:2])
    return [
        {"box": box, "confidence": float(row[4]), "class_id": int(row[5])}
        for box, row in zip(boxes.tolist(), found, strict=True)
    ]


def overlap(left: list[float], right: list[float]) -> float:
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    if width <= 0 or height <= 0:
        return 0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (left, right)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.timeout(1200)
def test_the_server_finds_what_the_trained_yolo_finds(
    server: FlowServer, user: User, start_runner: Callable[..., RunnerProcess]
) -> None:
    files, document = digits_on_textures(200, width=200, height=150, seed=1)
    dataset = user.upload_dataset(
        "digits-on-textures", "dice", {**files, "annotations.json": json.dumps(document).encode()}
    )
    job_id = user.create_job(
        {
            "framework": "ultralytics",
            "model_name": "yolo11n",
            "task_type": "object_detection",
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 0.005,
            "dataset_id": dataset,
            "dataset_format": "dice",
            "advanced_config": {
                "pretrained": False,
                "preprocessing": {"image_size": SIZE},
                "scheduler": {"warmup_epochs": 0},
                "augmentation": {"mosaic": 0},
            },
        }
    )
    runner = start_runner(server.url, "--gpus", "none", "--once", env={"OMP_NUM_THREADS": "2"})
    runner.says("ready: ", PATIENCE_S)
    user.start(job_id)
    runner.ended(PATIENCE_S)
    job = user.job(job_id)
    log = "\n".join(line["message"] for line in user.logs(job_id))
    assert (job["status"], job["reason"]) == ("completed", "done"), f"{runner.output}\n{log[-4000:]}"

    points = user.metrics(job_id)
    assert [point["epoch"] for point in points] == [1, 2]
    assert all(point["loss"] > 0 and "metrics/mAP50(B)" in point["extra_metrics"] for point in points)
    results = user.call("GET", f"/validation/results/{job_id}")["results"]
    assert sorted(result["epoch"] for result in results) == [1, 2]
    result = next(result for result in results if result["epoch"] == 2)
    assert result["primary_metric_name"] == "mAP50"
    assert list(result["per_class_metrics"]) == [str(i) for i in range(10)]
    rows = user.call("GET", f"/validation/images/{result['id']}?limit=500")
    assert rows["total"] == 50
    assert {row["image_path"] for row in rows["images"]} == {f"images/{i:04}.png" for i in range(3, 200, 4)}
    assert all(row["extra_data"]["true_boxes"] for row in rows["images"])

    listed = user.checkpoints(job_id)["checkpoints"]
    [state_id] = [c["artifact_id"] for c in listed if c["role"] == "last" and c["name"] == "last.state"]
    content = user.download(f"/training/jobs/{job_id}/checkpoints/{state_id}/content")
    state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    assert state["epoch"] == 2

    # A picture that was not trained on.
    image = files["images/0003.png"]
    answer = user.call(
        "POST",
        "/test-inference",
        data={
            "training_job_id": str(job_id),
            "checkpoint": "last",
            "confidence_threshold": "0.001",
            "iou_threshold": "0.45",
            "max_detections": "20",
        },
        files={"file": ("0003.png", image, "image/png")},
    )
    found = answer["predicted_boxes"]
    expected = detections_of_torch(state, image)
    assert len(found) == min(20, len(expected)) > 0
    for box in found:
        corners = [box[key] for key in ("x1", "y1", "x2", "y2")]
        same = [
            other for other in expected if other["class_id"] == box["class_id"] and overlap(corners, other["box"]) > 0.9
        ]
        assert same, (box, expected[:25])
        assert min(abs(other["confidence"] - box["confidence"]) for other in same) < 0.02
    assert [box["class_id"] for box in found[:3]] == [other["class_id"] for other in expected[:3]]
