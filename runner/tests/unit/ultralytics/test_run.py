"""A whole job of the Ultralytics trainer on the CPU: its messages, its files, and going on where it was cut off."""

import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, ImageDraw

from cultivar_runner.trainer.channel import Channel, CheckpointCorrupt, InvalidConfig
from cultivar_runner.trainer.messages import (
    Checkpoint,
    CheckpointFile,
    Epoch,
    Message,
    Resume,
    Started,
    TrainerJob,
    Validation,
)
from cultivar_runner.trainer.ultralytics_trainer import train

# A model that is built as the library builds its own, small enough for a test: two scales, few channels.
TINY = """
nc: 80
kpt_shape: [2, 3]
scales:
  n: [0.33, 0.25, 1024]
backbone:
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, C2f, [32, True]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [[3, 4], 1, {head}]
"""
HEADS = {
    "yolov8n": "Detect, [nc]",
    "yolov8n-seg": "Segment, [nc, 32, 64]",
    "yolov8n-pose": "Pose, [nc, kpt_shape]",
    "yolov8n-cls": None,
}
TINY_CLASSES = """
nc: 1000
scales:
  n: [0.33, 0.25, 1024]
backbone:
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""


@pytest.fixture(autouse=True)
def tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library looks for a description by its path first: the tests give it paths of small ones."""
    torch.set_num_threads(1)
    from cultivar_runner.trainer import ultralytics_trainer

    def description(model_name: str) -> str:
        head = HEADS[model_name]
        # The letter in the name is the size, as in the library's own names.
        path = tmp_path / f"{model_name.replace('yolov8n', 'tinyv8n')}.yaml"
        path.write_text(TINY_CLASSES if head is None else TINY.replace("{head}", head))
        return str(path)

    monkeypatch.setattr(ultralytics_trainer, "description_of", description)


class Listener(Channel):
    """A channel that keeps what is sent and can ask for things at a message or at a batch."""

    def __init__(self) -> None:
        super().__init__(None)
        self.messages: list[Message] = []
        self.kept: dict[str, bytes] = {}
        self.asked = 0
        self.stop_at_question: int | None = None
        self.checkpoint_at_question: int | None = None

    def send(self, message: Message) -> None:
        self.messages.append(message)
        if isinstance(message, Checkpoint):
            for file in message.files:
                assert file.path.stat().st_size > 0

    @property
    def stop_requested(self) -> bool:
        """Asked after each batch and each epoch."""
        self.asked += 1
        return self.stop_at_question is not None and self.asked >= self.stop_at_question

    def take_checkpoint_request(self) -> bool:
        return self.asked == self.checkpoint_at_question

    def of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    def file(self, name: str) -> CheckpointFile:
        found = [file for message in self.of(Checkpoint) for file in message.files if file.name == name]
        assert found, name
        last: CheckpointFile = found[-1]
        return last


def objects(root: Path, count: int) -> None:
    """Discs and boxes with outlines and two keypoints each; every fourth image is for validation, one has nothing."""
    numbers = np.random.default_rng(3)
    (root / "images").mkdir(parents=True)
    images = []
    for i in range(count):
        picture = Image.fromarray(numbers.integers(0, 80, (48, 64, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(picture)
        labels = []
        for _ in range(0 if i == 1 else 2):
            side = int(numbers.integers(12, 24))
            x, y = int(numbers.integers(0, 64 - side)), int(numbers.integers(0, 48 - side))
            class_id = int(numbers.integers(0, 2))
            corners = [x, y, x + side, y + side]
            (draw.rectangle if class_id else draw.ellipse)(corners, fill=(250 * class_id, 250 - 250 * class_id, 60))
            labels.append(
                {
                    "class_id": class_id,
                    "bbox": [x, y, side, side],
                    "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
                    "keypoints": [x, y, 2, x + side, y + side, 1],
                }
            )
        picture.save(root / "images" / f"{i}.png")
        split = "val" if i % 4 == 0 else "train"
        images.append(
            {"id": i, "file_name": f"{i}.png", "width": 64, "height": 48, "split": split, "annotations": labels}
        )
    document = {"classes": [{"id": 0, "name": "disc"}, {"id": 1, "name": "box"}], "images": images}
    (root / "annotations.json").write_text(json.dumps(document))


def classes(root: Path, count: int) -> None:
    for i in range(count):
        picture = Image.new("RGB", (40, 32), (200 * (i % 2), 90, 10 * i))
        folder = root / ("val" if i % 4 < 2 and i > 5 else "train") / ("with space" if i % 2 else "10")
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{i}.jpg")


def make_job(tmp_path: Path, work: str = "work", *, images: int = 12, **more: Any) -> TrainerJob:
    spec: dict[str, Any] = {
        "job_id": 1,
        "framework": "ultralytics",
        "model_name": "yolov8n",
        "task_type": "object_detection",
        "dataset_id": "d",
        "dataset_format": "dice",
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.01,
        "primary_metric": "mAP50",
        "primary_metric_mode": "max",
        **more,
    }
    config = {"preprocessing": {"image_size": 64}, "scheduler": {"warmup_epochs": 1}, "pretrained": False}
    spec["advanced_config"] = {**config, **(more.get("advanced_config") or {})}
    source = tmp_path / "data"
    if not source.exists():
        (classes if spec["dataset_format"] == "imagefolder" else objects)(source, images)
    return TrainerJob.model_validate({"spec": spec, "data_dir": source, "work_dir": tmp_path / work})


def disturb() -> None:
    """Another process begins with other random numbers."""
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


def run(job: TrainerJob) -> tuple[str, Listener]:
    channel = Listener()
    return train(job, channel), channel


TASKS = [
    ("object_detection", "yolov8n", "dice", "mAP50"),
    ("instance_segmentation", "yolov8n-seg", "dice", "mAP50"),
    ("pose_estimation", "yolov8n-pose", "dice", "mAP50"),
    ("image_classification", "yolov8n-cls", "imagefolder", "accuracy"),
]


@pytest.mark.parametrize(("task", "model", "form", "metric"), TASKS)
def test_a_job_reports_and_leaves_a_model_that_computes_what_the_trained_one_does(
    tmp_path: Path, task: str, model: str, form: str, metric: str
) -> None:
    reason, channel = run(
        make_job(tmp_path, task_type=task, model_name=model, dataset_format=form, primary_metric=metric)
    )
    assert reason == "done"
    assert [type(m) for m in channel.messages[:2]] == [Started, Epoch]
    epochs: list[Epoch] = channel.of(Epoch)
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert all(epoch.loss is not None and epoch.loss > 0 and epoch.learning_rate for epoch in epochs)
    key = "metrics/accuracy_top1" if form == "imagefolder" else "metrics/mAP50(B)"
    assert all(key in epoch.extra_metrics and epoch.accuracy is not None for epoch in epochs)
    validations: list[Validation] = channel.of(Validation)
    assert [message.data["epoch"] for message in validations] == [1, 2]
    data = validations[-1].data
    assert (data["task_type"], data["primary_metric_name"]) == (task, metric)
    assert data["overall_loss"] > 0
    names = ["10", "with space"] if form == "imagefolder" else ["disc", "box"]
    assert list(data["per_class_metrics"]) == names
    assert {row["image_path"] for row in data["images"]} == (
        {f"val/{'with space' if i % 2 else '10'}/{i}.jpg" for i in (8, 9)}
        if form == "imagefolder"
        else {"images/0.png", "images/4.png", "images/8.png"}
    )
    assert [(m.role, m.epoch) for m in channel.of(Checkpoint)][-1] == ("last", 2)
    assert "best" in [m.role for m in channel.of(Checkpoint)]

    # The graph, run as the server does, against the averaged model that the state holds.
    graph = channel.file("last.onnx")
    assert graph.manifest is not None
    assert graph.manifest["labels"] == names
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    outputs = session.run(None, {"images": image})
    from ultralytics.nn.tasks import ClassificationModel, DetectionModel, PoseModel, SegmentationModel

    from cultivar_runner.trainer import ultralytics_trainer

    kinds = {"yolov8n": DetectionModel, "yolov8n-seg": SegmentationModel, "yolov8n-pose": PoseModel}
    built = kinds.get(model, ClassificationModel)(ultralytics_trainer.description_of(model), nc=2, verbose=False)
    state = torch.load(channel.file("last.state").path, weights_only=True)
    built.load_state_dict(state["ema"])
    with torch.no_grad():
        expected = built.eval()(torch.from_numpy(image))
    first = expected[0]
    np.testing.assert_allclose(
        outputs[0], (first[0] if isinstance(first, tuple) else first).numpy(), atol=2e-3, rtol=1e-3
    )
    assert (len(outputs) == 2) == ("masks" in graph.manifest["output"])


def weights_of(channel: Listener) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(channel.file("last.state").path, weights_only=True)
    return state


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    for part in ("model", "ema"):
        for name, tensor in left[part].items():
            assert torch.equal(tensor, right[part][name]), (part, name)
    assert left["ema_updates"] == right["ema_updates"]


# Everything that draws random numbers or counts: mosaic, mixed images, turning, colours. 36 images to train on are
# three batches an epoch, and the library steps once in four of them: gradients wait from one epoch to the next.
LONG: dict[str, Any] = {"images": 48, "batch_size": 16}
CONFIG = {
    "checkpoint_interval": 1,
    "augmentation": {"mixup": 0.5, "degrees": 20, "hsv_s": 0.7, "mosaic": 1},
    "optimization": {"close_mosaic": 1},
}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_four_epochs_and_two_and_two_after_a_kill_end_in_the_same_weights(tmp_path: Path, optimizer: str) -> None:
    config = {**CONFIG, "optimizer": {"type": optimizer}}
    _, straight = run(make_job(tmp_path, epochs=4, advanced_config=config, **LONG))

    class Killed(Exception):
        """Stands for the end of the process: nothing after it runs."""

    class Dying(Listener):
        def send(self, message: Message) -> None:
            super().send(message)
            if isinstance(message, Epoch) and message.epoch == 3:
                raise Killed

    dying = Dying()
    with pytest.raises(Killed):
        train(make_job(tmp_path, "killed", epochs=4, advanced_config=config, **LONG), dying)
    assert len(weights_of(dying)["gradients"]) > 10
    disturb()
    job = make_job(tmp_path, "again", epochs=4, advanced_config=config, **LONG)
    job.resume = Resume(path=dying.file("last.state").path, epoch=2)
    reason, resumed = run(job)
    assert reason == "done"
    assert [epoch.epoch for epoch in resumed.of(Epoch)] == [3, 4]
    assert weights_of(straight)["ema_updates"] == 3
    assert_same(weights_of(straight), weights_of(resumed))
    losses = [epoch.loss for epoch in straight.of(Epoch)][2:]
    assert [epoch.loss for epoch in resumed.of(Epoch)] == losses


def test_a_stop_between_two_batches_loses_none_of_them(tmp_path: Path) -> None:
    config = {**CONFIG, "checkpoint_interval": 100}
    # Three batches an epoch and one question at its end: the sixth question is after the second batch of epoch 2.
    _, straight = run(make_job(tmp_path, epochs=3, advanced_config=config, **LONG))
    stopped = Listener()
    stopped.stop_at_question = 6
    assert train(make_job(tmp_path, "stopped", epochs=3, advanced_config=config, **LONG), stopped) == "user_stop"
    assert [epoch.epoch for epoch in stopped.of(Epoch)] == [1]
    (last,) = [message for message in stopped.of(Checkpoint) if message.role == "last"]
    assert last.epoch == 1
    assert {file.name for file in last.files} == {"last.onnx", "last.state"}
    state = weights_of(stopped)
    assert (state["epoch"], state["batch"]) == (1, 2)
    disturb()
    job = make_job(tmp_path, "again", epochs=3, advanced_config=config, **LONG)
    job.resume = Resume(path=stopped.file("last.state").path, epoch=1)
    _, resumed = run(job)
    assert_same(weights_of(straight), weights_of(resumed))
    assert [e.loss for e in resumed.of(Epoch)] == [e.loss for e in straight.of(Epoch)][1:]


def test_a_checkpoint_on_demand_changes_nothing_about_the_run(tmp_path: Path) -> None:
    _, straight = run(make_job(tmp_path, advanced_config=CONFIG, **LONG))
    asked = Listener()
    asked.checkpoint_at_question = 2
    assert train(make_job(tmp_path, "asked", advanced_config=CONFIG, **LONG), asked) == "done"
    on_demand = next(message for message in asked.of(Checkpoint) if message.role == "last")
    assert [file.name for file in on_demand.files] == ["last.state"]
    assert on_demand.epoch == 0
    assert_same(weights_of(straight), weights_of(asked))


def test_a_model_too_large_for_the_server_is_published_with_int8_weights_and_what_they_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cultivar_runner.trainer.export import publish

    _, plain = run(make_job(tmp_path))
    monkeypatch.setattr(publish, "MAX_SINGLE_BYTES", 5_000)
    monkeypatch.setattr(publish, "MAX_EXTERNAL_BYTES", 10_000)
    _, large = run(make_job(tmp_path, "large"))
    best = next(message for message in large.of(Checkpoint) if message.role == "best")
    assert [(file.kind, file.name) for file in best.files] == [
        ("file", "best.fp32.onnx"),
        ("file", "best.bin"),
        ("model", "best.onnx"),
    ]
    manifest = best.files[-1].manifest
    assert manifest is not None
    assert manifest["external_data"] == [{"path": "best.bin", "file": "best.bin"}]
    assert manifest["measured"].keys() == {"mAP50", "float32_mAP50"}
    first = large.of(Epoch)[0]
    assert first.extra_metrics["int8_mAP50"] == manifest["measured"]["mAP50"]
    assert first.extra_metrics["metrics/mAP50(B)"] == manifest["measured"]["float32_mAP50"]
    graph = onnx.load(str(best.files[-1].path), load_external_data=False)
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.graph.initializer) > 5
    # Measuring it changed nothing about the training.
    assert_same(weights_of(plain), weights_of(large))


def test_weights_alone_begin_at_the_first_epoch(tmp_path: Path) -> None:
    _, first = run(make_job(tmp_path, epochs=1))
    # Another seed and a rate that hardly moves a weight: only what training begins from can bring two runs together.
    still = {"seed": 5, "optimizer": {"learning_rate": 1e-5}, "scheduler": {"warmup_bias_lr": 0, "warmup_epochs": 1}}
    job = make_job(tmp_path, "second", epochs=1, advanced_config=still)
    job.resume = Resume(path=first.file("last.state").path, epoch=1, weights_only=True)
    _, second = run(job)
    _, third = run(make_job(tmp_path, "third", epochs=1, advanced_config=still))
    assert [epoch.epoch for epoch in second.of(Epoch)] == [1]
    begun = weights_of(first)["ema"]

    def distance(channel: Listener) -> float:
        state = weights_of(channel)["ema"]
        return max(float((state[k] - begun[k]).abs().max()) for k in begun if k.endswith("conv.weight"))

    assert distance(second) < 1e-3
    assert distance(third) > 0.1


@pytest.mark.parametrize("damage", ["cut", "other model", "other file"])
def test_a_state_that_cannot_be_used_is_named_as_corrupt(tmp_path: Path, damage: str) -> None:
    job = make_job(tmp_path, epochs=2)
    path = tmp_path / "given.state"
    if damage == "other file":
        torch.save({"model": {}}, path)
    else:
        _, first = run(make_job(tmp_path, "first", epochs=1))
        content = first.file("last.state").path.read_bytes()
        path.write_bytes(content if damage == "other model" else content[: len(content) // 2])
        if damage == "other model":
            job = make_job(tmp_path, "other", task_type="instance_segmentation", model_name="yolov8n-seg")
    job.resume = Resume(path=path, epoch=1)
    with pytest.raises(CheckpointCorrupt):
        run(job)


def test_published_weights_that_cannot_be_had_fail_by_the_name_of_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils import downloads

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setenv("CULTIVAR_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setattr(downloads, "attempt_download_asset", offline)
    with pytest.raises(InvalidConfig, match="no route") as error:
        run(make_job(tmp_path, advanced_config={"pretrained": True}))
    assert error.value.field == "advanced_config.pretrained"


def test_validation_follows_its_interval_and_always_ends_a_job(tmp_path: Path) -> None:
    _, channel = run(make_job(tmp_path, epochs=3, advanced_config={"validation": {"val_interval": 2}}))
    assert [message.data["epoch"] for message in channel.of(Validation)] == [2, 3]
    first = channel.of(Epoch)[0]
    assert first.accuracy is None
    assert not any(name.startswith("metrics/") for name in first.extra_metrics)


def test_a_damaged_jpeg_of_the_dataset_is_not_rewritten(tmp_path: Path) -> None:
    job = make_job(
        tmp_path, task_type="image_classification", model_name="yolov8n-cls", dataset_format="imagefolder", epochs=1
    )
    path = next((job.data_dir / "train").rglob("*.jpg"))
    cut = path.read_bytes()[:-2]
    path.write_bytes(cut)
    assert run(job)[0] == "done"
    assert path.read_bytes() == cut


def test_training_does_not_reach_for_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    tried: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        tried.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = threading.active_count()
    assert run(make_job(tmp_path, epochs=1))[0] == "done"
    assert tried == []
    assert threading.active_count() <= before
